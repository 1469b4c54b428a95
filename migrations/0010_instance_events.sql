-- What happened to an instance's container, and what was done about it, for users and operators. Written by the
-- provisioner; the newest events of each instance are kept, for a month. Unversioned.
CREATE TABLE instance_events (
    instance_id   TEXT   NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    -- Counted from 1 for each instance.
    number        BIGINT NOT NULL,
    cause         TEXT   NOT NULL,
    action        TEXT   NOT NULL,
    -- Whether the cache was empty afterwards.
    contents_lost BIGINT NOT NULL,
    -- Of the last occurrence, for operators: exit code, last log lines. Escaped and bounded.
    detail        TEXT   NOT NULL,
    -- The same event again within minutes is counted.
    count         BIGINT NOT NULL,
    first_at      BIGINT NOT NULL,
    last_at       BIGINT NOT NULL,
    PRIMARY KEY (instance_id, number)
);
CREATE INDEX instance_events_last_at ON instance_events (last_at);
