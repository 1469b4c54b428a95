-- What an instance's clients do. Written by the proxies, every few seconds: all only add to it, so that
-- any number of them may. High-rate: it doesn't touch the revision.
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

-- How long requests took: so many of at most le_us microseconds (and of more than the next smaller).
CREATE TABLE usage_latency (
    instance_id TEXT   NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    le_us       BIGINT NOT NULL,
    requests    BIGINT NOT NULL,
    PRIMARY KEY (instance_id, le_us)
);

-- Connections that each proxy holds. A row that nobody has renewed for long is of a proxy that is gone.
CREATE TABLE usage_connections (
    instance_id TEXT   NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    proxy       TEXT   NOT NULL,
    connections BIGINT NOT NULL,
    changed_at  BIGINT NOT NULL,
    PRIMARY KEY (instance_id, proxy)
);
