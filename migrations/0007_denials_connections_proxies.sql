-- Denied logins and requests, aggregated. Written by the proxies every few seconds; only the newest rows of
-- each token and cause are kept. Never contains a secret. Unversioned.
CREATE TABLE denials (
    token_id TEXT   NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    -- The token's cache.
    cache_id TEXT   NOT NULL REFERENCES caches (id),
    cause    TEXT   NOT NULL,
    -- The client's IP address; '*' stands for many addresses.
    source   TEXT   NOT NULL,
    -- The login mechanism or the command; never client input.
    detail   TEXT   NOT NULL,
    -- Of the last denial.
    protocol TEXT   NOT NULL CHECK (protocol IN ('text', 'binary')),
    tls      BIGINT NOT NULL,
    count    BIGINT NOT NULL,
    first_at BIGINT NOT NULL,
    last_at  BIGINT NOT NULL,
    PRIMARY KEY (token_id, cause, source, detail)
);
CREATE INDEX denials_last_at ON denials (last_at);
CREATE INDEX denials_cache ON denials (cache_id, last_at);

-- Heartbeats. Each proxy writes its own row about every second. Unversioned.
CREATE TABLE proxies (
    -- Name and process id: two proxies of one name run during a takeover.
    id         TEXT   PRIMARY KEY,
    -- Host and port.
    name       TEXT   NOT NULL,
    -- memgate's version.
    version    TEXT   NOT NULL,
    started_at BIGINT NOT NULL,
    seen_at    BIGINT NOT NULL,
    -- The revision up to which this proxy has applied every change, to open connections too.
    applied    BIGINT NOT NULL
);
CREATE INDEX proxies_seen_at ON proxies (seen_at);

-- Requests to list an instance's live connections. Written by the web UI and operators' commands. Unversioned.
CREATE TABLE connection_requests (
    instance_id  TEXT   PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE,
    requested_at BIGINT NOT NULL
);
CREATE INDEX connection_requests_at ON connection_requests (requested_at);

-- Each proxy's reply to the request of requested_at. Written by the proxies. Unversioned.
CREATE TABLE connection_lists (
    instance_id  TEXT   NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    proxy_id     TEXT   NOT NULL,
    requested_at BIGINT NOT NULL,
    -- All connections; live_connections has the oldest of them.
    total        BIGINT NOT NULL,
    PRIMARY KEY (instance_id, proxy_id)
);
CREATE TABLE live_connections (
    instance_id TEXT   NOT NULL,
    proxy_id    TEXT   NOT NULL,
    number      BIGINT NOT NULL,
    since       BIGINT NOT NULL,
    token_id    TEXT   NOT NULL,
    -- The client's IP address.
    source      TEXT   NOT NULL,
    protocol    TEXT   NOT NULL CHECK (protocol IN ('text', 'binary')),
    tls         BIGINT NOT NULL,
    operations  BIGINT NOT NULL,
    PRIMARY KEY (instance_id, proxy_id, number, since),
    FOREIGN KEY (instance_id, proxy_id) REFERENCES connection_lists (instance_id, proxy_id) ON DELETE CASCADE
);

-- Requests to close a connection. Written by the web UI and operators' commands, except closed_at, which the
-- proxy writes once it has closed the connection.
CREATE TABLE connection_closes (
    instance_id  TEXT   NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    proxy_id     TEXT   NOT NULL,
    number       BIGINT NOT NULL,
    since        BIGINT NOT NULL,
    requested_at BIGINT NOT NULL,
    closed_at    BIGINT,
    PRIMARY KEY (proxy_id, instance_id, number, since)
);
