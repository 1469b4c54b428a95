-- What was asked of a cache. Written by the web UI and operators' commands: one unfinished operation of a kind
-- per cache, and the newest finished ones.
CREATE TABLE operations (
    id           TEXT   PRIMARY KEY,
    cache_id     TEXT   NOT NULL REFERENCES caches (id) ON DELETE CASCADE,
    -- Counted from 1 for each cache.
    number       BIGINT NOT NULL,
    kind         TEXT   NOT NULL CHECK (kind IN
                 ('restart', 'flush', 'resize', 'suspend', 'resume', 'delete')),
    -- MiB, of a resize. Asking for another size changes it while the operation is unfinished.
    memory_mb    BIGINT CHECK (memory_mb > 0),
    -- The actor as in the audit log: `operator`, or `user` and an id.
    requested_by TEXT   NOT NULL,
    -- How many times it was asked for: first, and with another size; from 1 again if that wasn't for an hour.
    requests     BIGINT NOT NULL,
    created_at   BIGINT NOT NULL,
    -- The last of these times.
    asked_at     BIGINT NOT NULL,
    revision     BIGINT NOT NULL,
    UNIQUE (cache_id, number)
);
CREATE INDEX operations_revision ON operations (revision);

-- What became of an operation; one without a row is pending. Written by the provisioner.
CREATE TABLE operation_progress (
    operation_id TEXT   PRIMARY KEY REFERENCES operations (id) ON DELETE CASCADE,
    state        TEXT   NOT NULL CHECK (state IN ('pending', 'running', 'done', 'failed')),
    -- Percent.
    progress     BIGINT NOT NULL CHECK (progress BETWEEN 0 AND 100),
    -- What it waits for, what it did, or why it failed and what helps.
    message      TEXT,
    -- What the provisioner needs to go on after a crash.
    checkpoint   TEXT,
    started_at   BIGINT,
    finished_at  BIGINT,
    revision     BIGINT NOT NULL
);
CREATE INDEX operation_progress_revision ON operation_progress (revision);
CREATE INDEX operation_progress_finished_at ON operation_progress (finished_at);

-- What each instance's memcached last said of itself. Written by the provisioner every few seconds. Unversioned.
CREATE TABLE instance_statistics (
    instance_id    TEXT   PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE,
    -- Bytes that items use, and may use.
    bytes          BIGINT NOT NULL,
    limit_bytes    BIGINT NOT NULL,
    items          BIGINT NOT NULL,
    -- Since memcached started.
    hits           BIGINT NOT NULL,
    misses         BIGINT NOT NULL,
    evictions      BIGINT NOT NULL,
    uptime_seconds BIGINT NOT NULL,
    sampled_at     BIGINT NOT NULL
);

-- One row: how much memory the machine has for caches, by the sum of their containers' limits. Written by the
-- provisioner every few seconds. Unversioned.
CREATE TABLE host_capacity (
    one            BIGINT PRIMARY KEY CHECK (one = 1),
    budget_bytes   BIGINT NOT NULL,
    reserved_bytes BIGINT NOT NULL,
    -- MiB by which the caches that run may grow together.
    growth_mb      BIGINT NOT NULL,
    -- Instances that wait for memory.
    waiting        BIGINT NOT NULL,
    changed_at     BIGINT NOT NULL
);
