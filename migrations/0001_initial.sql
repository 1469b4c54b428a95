-- The meeting point of all roles. One SQL text for SQLite and PostgreSQL: TEXT and BIGINT only,
-- times in milliseconds since 1970, one writer per column (named at each table).

-- One row. Every write transaction increments it first and stamps the rows it touches, so that
-- revisions appear in commit order and a follower can ask for "everything after".
CREATE TABLE revision (
    one   BIGINT PRIMARY KEY CHECK (one = 1),
    value BIGINT NOT NULL
);
INSERT INTO revision (one, value) VALUES (1, 1);

-- One row, made at the first start. The id is in the name and label of all that we make in Docker.
CREATE TABLE installation (
    one        BIGINT PRIMARY KEY CHECK (one = 1),
    id         TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);

-- What an instance may use. Written by operators.
CREATE TABLE plans (
    name          TEXT   PRIMARY KEY,
    memory_mb     BIGINT NOT NULL CHECK (memory_mb > 0),
    connections   BIGINT NOT NULL CHECK (connections > 0),
    item_size_max BIGINT NOT NULL CHECK (item_size_max > 0),
    revision      BIGINT NOT NULL
);
INSERT INTO plans (name, memory_mb, connections, item_size_max, revision)
VALUES ('default', 64, 20000, 1048576, 1);

-- Written by the web UI and the operator's commands.
CREATE TABLE users (
    id            TEXT   PRIMARY KEY,
    email         TEXT   NOT NULL UNIQUE,
    password_hash TEXT,
    plan          TEXT   NOT NULL REFERENCES plans (name),
    is_admin      BIGINT NOT NULL,
    state         TEXT   NOT NULL CHECK (state IN ('active', 'suspended')),
    created_at    BIGINT NOT NULL,
    revision      BIGINT NOT NULL
);
CREATE INDEX users_revision ON users (revision);

-- What is wanted: one memcached per user. Written by the web UI and the operator's commands.
CREATE TABLE instances (
    id            TEXT   PRIMARY KEY,
    user_id       TEXT   NOT NULL UNIQUE REFERENCES users (id),
    memory_mb     BIGINT NOT NULL CHECK (memory_mb > 0),
    connections   BIGINT NOT NULL CHECK (connections > 0),
    item_size_max BIGINT NOT NULL CHECK (item_size_max > 0),
    wanted        TEXT   NOT NULL CHECK (wanted IN ('running', 'suspended', 'deleting')),
    created_at    BIGINT NOT NULL,
    revision      BIGINT NOT NULL
);
CREATE INDEX instances_revision ON instances (revision);

-- What is so: where an instance's memcached lives. Written by the provisioner alone.
CREATE TABLE routes (
    instance_id TEXT   PRIMARY KEY REFERENCES instances (id),
    state       TEXT   NOT NULL CHECK (state IN
                ('pending', 'running', 'asleep', 'restarting', 'suspended', 'failed', 'deleting')),
    generation  BIGINT NOT NULL,
    address     TEXT,
    container   TEXT,
    version     TEXT,
    message     TEXT,
    changed_at  BIGINT NOT NULL,
    revision    BIGINT NOT NULL
);
CREATE INDEX routes_revision ON routes (revision);

-- The bridge networks and the addresses on them. Written by the provisioner alone. An address is
-- held while instance_id is set, rests after released_at, and may be held again when it has rested.
CREATE TABLE networks (
    name       TEXT   PRIMARY KEY,
    bridge     TEXT   NOT NULL UNIQUE,
    subnet     TEXT   NOT NULL UNIQUE,
    gateway    TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE TABLE addresses (
    address     TEXT   PRIMARY KEY,
    network     TEXT   NOT NULL REFERENCES networks (name),
    instance_id TEXT   UNIQUE,
    released_at BIGINT
);
CREATE INDEX addresses_network ON addresses (network);

-- Written by the web UI and the operator's commands. The secret itself is not here: a keyed hash,
-- and what SCRAM-SHA-256 needs, so that turning SCRAM on later locks nobody out.
CREATE TABLE tokens (
    id               TEXT   PRIMARY KEY,
    user_id          TEXT   NOT NULL REFERENCES users (id),
    name             TEXT   NOT NULL,
    secret_hash      TEXT   NOT NULL,
    scram_salt       TEXT   NOT NULL,
    scram_iterations BIGINT NOT NULL,
    scram_stored_key TEXT   NOT NULL,
    scram_server_key TEXT   NOT NULL,
    created_at       BIGINT NOT NULL,
    revoked_at       BIGINT,
    revision         BIGINT NOT NULL
);
CREATE INDEX tokens_user ON tokens (user_id);
CREATE INDEX tokens_revision ON tokens (revision);

-- Browser sessions, known by the SHA-256 of their cookie. Written by the web UI alone; they change
-- with every page, so they don't touch the revision.
CREATE TABLE sessions (
    id_hash      TEXT   PRIMARY KEY,
    user_id      TEXT   NOT NULL REFERENCES users (id),
    form_token   TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL
);
CREATE INDEX sessions_user ON sessions (user_id);
