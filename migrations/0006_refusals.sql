-- Why callers with a token were refused, lately. Written by the proxies, every few seconds: all only add to
-- it, and whoever adds drops the oldest, so a token has a few rows of each cause and no more. Never a secret.
-- High-rate: it doesn't touch the revision.
CREATE TABLE refusals (
    token_id TEXT   NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    cause    TEXT   NOT NULL,
    -- An IP address; '*' stands for many others.
    source   TEXT   NOT NULL,
    -- How it logged in, or which command it was. Words of ours.
    hint     TEXT   NOT NULL,
    dialect  TEXT   NOT NULL CHECK (dialect IN ('text', 'binary')),
    tls      BIGINT NOT NULL,
    times    BIGINT NOT NULL,
    first_at BIGINT NOT NULL,
    last_at  BIGINT NOT NULL,
    PRIMARY KEY (token_id, cause, source, hint)
);
CREATE INDEX refusals_last_at ON refusals (last_at);
