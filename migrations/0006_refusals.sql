-- Why callers with a token were refused, lately. Written by the proxies, every few seconds: all only add to
-- it, and whoever adds drops the oldest, so a token has a few rows of each cause and no more. Never a secret.
-- High-rate: it doesn't touch the revision.
CREATE TABLE denials (
    token_id TEXT   NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    cause    TEXT   NOT NULL,
    -- An IP address; '*' stands for many others.
    source   TEXT   NOT NULL,
    -- How it logged in, or which command it was. Words of ours.
    hint     TEXT   NOT NULL,
    protocol  TEXT   NOT NULL CHECK (protocol IN ('text', 'binary')),
    tls      BIGINT NOT NULL,
    times    BIGINT NOT NULL,
    first_at BIGINT NOT NULL,
    last_at  BIGINT NOT NULL,
    PRIMARY KEY (token_id, cause, source, hint)
);
CREATE INDEX denials_last_at ON denials (last_at);

-- The proxies that run, and up to which revision each has carried out what was changed. Each writes its own
-- row, every second or so; one that isn't renewed for long is of a proxy that is gone. High-rate: it doesn't
-- touch the revision.
CREATE TABLE proxies (
    id         TEXT   PRIMARY KEY,
    name       TEXT   NOT NULL,
    version    TEXT   NOT NULL,
    started_at BIGINT NOT NULL,
    seen_at    BIGINT NOT NULL,
    applied    BIGINT NOT NULL
);
