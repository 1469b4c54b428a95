-- The desired state: one memcached per cache. Written by the web UI and operators' commands.
CREATE TABLE instances (
    id            TEXT   PRIMARY KEY,
    -- UNIQUE until a cache may have several instances.
    cache_id      TEXT   NOT NULL UNIQUE REFERENCES caches (id),
    -- MiB; memcached's -m.
    memory_mb     BIGINT NOT NULL CHECK (memory_mb > 0),
    -- Client connections; enforced by each proxy on its own.
    connections   BIGINT NOT NULL CHECK (connections > 0),
    -- Bytes; memcached's -I.
    item_size_max BIGINT NOT NULL CHECK (item_size_max > 0),
    desired       TEXT   NOT NULL CHECK (desired IN ('running', 'suspended', 'deleting')),
    created_at    BIGINT NOT NULL,
    revision      BIGINT NOT NULL
);
CREATE INDEX instances_revision ON instances (revision);
-- Lists of all are read in this order, without sorting what other tables hold.
CREATE INDEX instances_created ON instances (created_at, id);

-- The observed state: where an instance's memcached lives. Written by the provisioner.
CREATE TABLE routes (
    instance_id TEXT   PRIMARY KEY REFERENCES instances (id),
    state       TEXT   NOT NULL CHECK (state IN
                ('pending', 'running', 'asleep', 'restarting', 'suspended', 'failed', 'deleting')),
    -- Incremented with every new container.
    generation  BIGINT NOT NULL,
    -- An IP address on a bridge network of ours.
    address     TEXT,
    -- The container's id in Docker.
    container   TEXT,
    -- memcached's version.
    version     TEXT,
    -- Why the state is failed or pending, for the owner.
    message     TEXT,
    changed_at  BIGINT NOT NULL,
    revision    BIGINT NOT NULL
);
CREATE INDEX routes_revision ON routes (revision);

-- Bridge networks of this installation. Written by the provisioner. Unversioned.
CREATE TABLE networks (
    name       TEXT   PRIMARY KEY,
    bridge     TEXT   NOT NULL UNIQUE,
    subnet     TEXT   NOT NULL UNIQUE,
    gateway    TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);

-- Addresses for containers on these networks. Written by the provisioner. An address is leased while
-- instance_id is set. After released_at it is not leased again until a cooldown has passed. Unversioned.
CREATE TABLE addresses (
    address     TEXT   PRIMARY KEY,
    network     TEXT   NOT NULL REFERENCES networks (name),
    instance_id TEXT   UNIQUE,
    released_at BIGINT
);
CREATE INDEX addresses_network ON addresses (network);
