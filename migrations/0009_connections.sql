-- Somebody wants to see an instance's live connections. Written by the web UI and the commands. High-rate, like
-- all of live connections: it doesn't touch the revision.
CREATE TABLE connection_requests (
    instance_id TEXT   PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE,
    asked_at    BIGINT NOT NULL
);

-- What each proxy has answered to the wish of then: how many there are, and which, as far as there is room.
-- Written by the proxies, each its own; cleared when nobody asks any more.
CREATE TABLE connection_lists (
    instance_id TEXT   NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    proxy_id    TEXT   NOT NULL,
    asked_at    BIGINT NOT NULL,
    total       BIGINT NOT NULL,
    PRIMARY KEY (instance_id, proxy_id)
);
CREATE TABLE live_connections (
    instance_id TEXT   NOT NULL,
    proxy_id    TEXT   NOT NULL,
    number      BIGINT NOT NULL,
    since       BIGINT NOT NULL,
    token_id    TEXT   NOT NULL,
    source      TEXT   NOT NULL,
    protocol     TEXT   NOT NULL CHECK (protocol IN ('text', 'binary')),
    tls         BIGINT NOT NULL,
    operations  BIGINT NOT NULL,
    PRIMARY KEY (instance_id, proxy_id, number, since),
    FOREIGN KEY (instance_id, proxy_id) REFERENCES connection_lists (instance_id, proxy_id) ON DELETE CASCADE
);

-- Connections that are to end. Written by the web UI and the commands, but for done_at: that is the proxy's.
CREATE TABLE connection_closes (
    instance_id TEXT   NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    proxy_id    TEXT   NOT NULL,
    number      BIGINT NOT NULL,
    since       BIGINT NOT NULL,
    ordered_at  BIGINT NOT NULL,
    done_at     BIGINT,
    PRIMARY KEY (proxy_id, instance_id, number, since)
);
