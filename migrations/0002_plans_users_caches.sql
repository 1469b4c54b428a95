-- Limits of a cache. Written by operators' commands.
CREATE TABLE plans (
    name                  TEXT   PRIMARY KEY,
    -- MiB.
    memory_mb             BIGINT NOT NULL CHECK (memory_mb > 0),
    -- Client connections; enforced by each proxy on its own.
    connections           BIGINT NOT NULL CHECK (connections > 0),
    -- Bytes.
    item_size_max         BIGINT NOT NULL CHECK (item_size_max > 0),
    -- Enforced by each proxy on its own; NULL is no limit.
    operations_per_second BIGINT CHECK (operations_per_second > 0),
    -- Bytes of requests and replies together; enforced by each proxy on its own; NULL is no limit.
    bytes_per_second      BIGINT CHECK (bytes_per_second > 0),
    revision              BIGINT NOT NULL
);
INSERT INTO plans (name, memory_mb, connections, item_size_max, revision)
VALUES ('default', 64, 20000, 1048576, 1);

-- Accounts. Written by the web UI and operators' commands.
CREATE TABLE users (
    id            TEXT   PRIMARY KEY,
    -- Lower case. `deleted <id>` once the account is deleted.
    email         TEXT   NOT NULL UNIQUE,
    -- Argon2id in PHC form; NULL if the account can't sign in to the web UI.
    password_hash TEXT,
    -- The plan of caches that the user creates.
    plan          TEXT   NOT NULL REFERENCES plans (name),
    is_admin      BIGINT NOT NULL,
    state         TEXT   NOT NULL CHECK (state IN ('active', 'suspended')),
    created_at    BIGINT NOT NULL,
    -- A deleted account's row stays, because other rows refer to it.
    deleted_at    BIGINT,
    revision      BIGINT NOT NULL
);
CREATE INDEX users_revision ON users (revision);

-- What users have and pay for. Written by the web UI and operators' commands.
CREATE TABLE caches (
    id         TEXT   PRIMARY KEY,
    user_id    TEXT   NOT NULL REFERENCES users (id),
    -- `deleted <id>` once the cache is deleted.
    name       TEXT   NOT NULL,
    -- Decides the cache's limits.
    plan       TEXT   NOT NULL REFERENCES plans (name),
    created_at BIGINT NOT NULL,
    -- A deleted cache's row stays, because other rows refer to it.
    deleted_at BIGINT,
    revision   BIGINT NOT NULL,
    UNIQUE (user_id, name)
);
CREATE INDEX caches_revision ON caches (revision);
-- Followers find the caches of a changed plan.
CREATE INDEX plans_revision ON plans (revision);
CREATE INDEX caches_plan ON caches (plan);
