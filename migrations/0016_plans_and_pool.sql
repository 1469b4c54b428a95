-- The share of the CPU that caches get while others want it too: 100 is Docker's own.
ALTER TABLE plans ADD COLUMN cpu_weight BIGINT NOT NULL DEFAULT 100 CHECK (cpu_weight BETWEEN 1 AND 10000);
-- NULL leaves it to the setting limits.caches_per_user.
ALTER TABLE plans ADD COLUMN caches_per_user BIGINT CHECK (caches_per_user > 0);
-- What users are told that the plan costs: free text.
ALTER TABLE plans ADD COLUMN price_label TEXT;

-- What the instances that run, or are to, may use together: read with each sign-up.
CREATE INDEX instances_running ON instances (memory_mb, connections, item_size_max) WHERE desired = 'running';

-- Instances that were made ahead, before anybody asked for them: containers that run, each for the id of an instance that
-- doesn't exist yet. A sign-up takes one by creating its instance with that id, so that no column has two writers. Written
-- by the provisioner. Unversioned.
CREATE TABLE ready_instances (
    id            TEXT   PRIMARY KEY,
    -- As in instances.
    memory_mb     BIGINT NOT NULL,
    connections   BIGINT NOT NULL,
    item_size_max BIGINT NOT NULL,
    created_at    BIGINT NOT NULL,
    -- NULL until it may be taken.
    ready_at      BIGINT
);
