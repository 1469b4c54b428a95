-- Usage of instances. Written by the proxies every few seconds: each adds what it has counted since its last
-- report. Unversioned.

-- Operations by kind, and bytes between clients and proxies.
CREATE TABLE usage (
    instance_id TEXT   PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE,
    hits        BIGINT NOT NULL,
    misses      BIGINT NOT NULL,
    stores      BIGINT NOT NULL,
    deletes     BIGINT NOT NULL,
    arithmetic  BIGINT NOT NULL,
    touches     BIGINT NOT NULL,
    others      BIGINT NOT NULL,
    errors      BIGINT NOT NULL,
    bytes_in    BIGINT NOT NULL,
    bytes_out   BIGINT NOT NULL,
    changed_at  BIGINT NOT NULL
);

-- Latency histogram: requests that took at most le_us microseconds and more than the next smaller le_us.
CREATE TABLE usage_latency (
    instance_id TEXT   NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    le_us       BIGINT NOT NULL,
    requests    BIGINT NOT NULL,
    PRIMARY KEY (instance_id, le_us)
);

-- Open client connections per proxy. Rows that are not renewed belong to a proxy that is gone.
CREATE TABLE usage_connections (
    instance_id TEXT   NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    proxy       TEXT   NOT NULL,
    connections BIGINT NOT NULL,
    changed_at  BIGINT NOT NULL,
    PRIMARY KEY (instance_id, proxy)
);
