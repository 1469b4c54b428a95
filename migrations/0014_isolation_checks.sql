-- How each running container was last found to be shut off from everything else. Written by the provisioner, which checks
-- a few instances at a time. Unversioned.
CREATE TABLE isolation_checks (
    instance_id  TEXT   PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE,
    -- The container's id in Docker: the row says nothing of another container.
    container    TEXT   NOT NULL,
    ports        TEXT   NOT NULL CHECK (ports IN ('passed', 'failed', 'unknown')),
    restrictions TEXT   NOT NULL CHECK (restrictions IN ('passed', 'failed', 'unknown')),
    reachability TEXT   NOT NULL CHECK (reachability IN ('passed', 'failed', 'unknown')),
    login        TEXT   NOT NULL CHECK (login IN ('passed', 'failed', 'unknown')),
    -- The id of the image that the container was created from, and whether new containers get another one.
    image        TEXT   NOT NULL,
    outdated     BIGINT NOT NULL,
    -- What failed, and why something wasn't checked, for operators. Bounded.
    detail       TEXT   NOT NULL,
    checked_at   BIGINT NOT NULL
);

-- One row: the last upgrade of all instances to the image that new ones get. Written by operators' commands.
CREATE TABLE image_upgrade (
    one          BIGINT PRIMARY KEY CHECK (one = 1),
    id           TEXT   NOT NULL,
    wanted       TEXT   NOT NULL CHECK (wanted IN ('running', 'paused', 'aborted')),
    -- Instances that are restarted at a time.
    parallel     BIGINT NOT NULL CHECK (parallel > 0),
    -- Counts how many times it was told to go on: failures of earlier attempts are forgotten.
    attempt      BIGINT NOT NULL,
    requested_by TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    revision     BIGINT NOT NULL
);

-- One row: how far that upgrade is. Written by the provisioner, which asks for restarts in `operations` as an operator does.
CREATE TABLE image_upgrade_progress (
    one             BIGINT PRIMARY KEY CHECK (one = 1),
    upgrade_id      TEXT   NOT NULL,
    attempt         BIGINT NOT NULL,
    state           TEXT   NOT NULL CHECK (state IN ('running', 'paused', 'stopped', 'aborted', 'done')),
    -- Instances that had another image when it began, or later; those that have the new one; those whose restart failed.
    total           BIGINT NOT NULL,
    done            BIGINT NOT NULL,
    failed          BIGINT NOT NULL,
    -- Failures since the last instance that succeeded.
    failures_in_row BIGINT NOT NULL,
    -- What it does or waits for, or why it stopped and what helps.
    message         TEXT,
    changed_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL
);
