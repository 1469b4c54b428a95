-- Metering: what each instance used in each hour, from which bills are made. One row per hour, instance, and plan that its
-- cache had then. Rows are kept for 400 days unless set otherwise. Unversioned.
CREATE TABLE usage_hours (
    -- When the hour began.
    hour              BIGINT NOT NULL CHECK (hour >= 0 AND hour % 3600000 = 0),
    instance_id       TEXT   NOT NULL REFERENCES instances (id),
    -- The plan's name when this was counted: the plan may have been changed or deleted since.
    plan              TEXT   NOT NULL,
    -- As in usage. These and the next one are written by the proxies, with usage.
    hits              BIGINT NOT NULL DEFAULT 0,
    misses            BIGINT NOT NULL DEFAULT 0,
    stores            BIGINT NOT NULL DEFAULT 0,
    deletes           BIGINT NOT NULL DEFAULT 0,
    arithmetic        BIGINT NOT NULL DEFAULT 0,
    touches           BIGINT NOT NULL DEFAULT 0,
    others            BIGINT NOT NULL DEFAULT 0,
    errors            BIGINT NOT NULL DEFAULT 0,
    bytes_in          BIGINT NOT NULL DEFAULT 0,
    bytes_out         BIGINT NOT NULL DEFAULT 0,
    -- Client connections that were open at the same time, of all proxies.
    peak_connections  BIGINT NOT NULL DEFAULT 0,
    -- MiB of memory times the seconds for which they were reserved. Written by the provisioner.
    memory_mb_seconds BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (hour, instance_id, plan)
);
CREATE INDEX usage_hours_instance ON usage_hours (instance_id, hour, plan);

-- The last report of each proxy process that was added to usage, so that none that is sent again is added twice. Written
-- by the proxies, with usage. Unversioned.
CREATE TABLE usage_reports (
    -- Random; another one for each process.
    reporter    TEXT   PRIMARY KEY,
    -- Counted from 1 for each process.
    number      BIGINT NOT NULL,
    reported_at BIGINT NOT NULL
);
CREATE INDEX usage_reports_at ON usage_reports (reported_at);

-- The instances whose memory is reserved, and up to when that is in usage_hours. Written by the provisioner every few
-- seconds. Unversioned.
CREATE TABLE reserved_memory (
    instance_id   TEXT   PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE,
    memory_mb     BIGINT NOT NULL CHECK (memory_mb > 0),
    -- The span that was metered last; whole seconds.
    metered_from  BIGINT NOT NULL,
    metered_until BIGINT NOT NULL
);

-- More of what each instance's memcached last said of itself, since it started. What it said before is forgotten: compared
-- with a default of 0, all that it has counted since it started would have happened in one interval.
DELETE FROM instance_statistics;
ALTER TABLE instance_statistics ADD COLUMN connections       BIGINT NOT NULL DEFAULT 0;
ALTER TABLE instance_statistics ADD COLUMN sets              BIGINT NOT NULL DEFAULT 0;
ALTER TABLE instance_statistics ADD COLUMN evicted_unfetched BIGINT NOT NULL DEFAULT 0;
ALTER TABLE instance_statistics ADD COLUMN reclaimed         BIGINT NOT NULL DEFAULT 0;
ALTER TABLE instance_statistics ADD COLUMN out_of_memory     BIGINT NOT NULL DEFAULT 0;
ALTER TABLE instance_statistics ADD COLUMN bytes_read        BIGINT NOT NULL DEFAULT 0;
ALTER TABLE instance_statistics ADD COLUMN bytes_written     BIGINT NOT NULL DEFAULT 0;
-- The container's memory in bytes, and the CPU time that it has used, in microseconds.
ALTER TABLE instance_statistics ADD COLUMN container_bytes   BIGINT NOT NULL DEFAULT 0;
ALTER TABLE instance_statistics ADD COLUMN cpu_us            BIGINT NOT NULL DEFAULT 0;
-- Per size of items: numbers with spaces between them, sizes with commas between them.
ALTER TABLE instance_statistics ADD COLUMN slab_classes      TEXT   NOT NULL DEFAULT '';

-- The history of these figures: 10 s each for an hour, 5 minutes each for a week, hours for a year. An interval has the
-- slot of its number modulo how many are kept, so a new one takes the place of the oldest. Written by the provisioner
-- every few seconds. Unversioned.
CREATE TABLE statistics_history (
    instance_id       TEXT   NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    -- Seconds of an interval.
    resolution        BIGINT NOT NULL CHECK (resolution IN (10, 300, 3600)),
    slot              BIGINT NOT NULL CHECK (slot BETWEEN 0 AND 8759),
    begins_at         BIGINT NOT NULL,
    -- The time that the increments below cover.
    measured_ms       BIGINT NOT NULL,
    -- As of the end of the interval.
    bytes             BIGINT NOT NULL,
    limit_bytes       BIGINT NOT NULL,
    items             BIGINT NOT NULL,
    -- The most in the interval.
    connections       BIGINT NOT NULL,
    container_bytes   BIGINT NOT NULL,
    -- Increments.
    hits              BIGINT NOT NULL,
    misses            BIGINT NOT NULL,
    sets              BIGINT NOT NULL,
    evictions         BIGINT NOT NULL,
    evicted_unfetched BIGINT NOT NULL,
    reclaimed         BIGINT NOT NULL,
    out_of_memory     BIGINT NOT NULL,
    bytes_read        BIGINT NOT NULL,
    bytes_written     BIGINT NOT NULL,
    cpu_us            BIGINT NOT NULL,
    PRIMARY KEY (instance_id, resolution, slot)
);
