-- Credentials of a cache. Written by the web UI and operators' commands. The secret is not stored, only what
-- verifies it.
CREATE TABLE tokens (
    id               TEXT   PRIMARY KEY,
    cache_id         TEXT   NOT NULL REFERENCES caches (id),
    name             TEXT   NOT NULL,
    -- HMAC-SHA-256 of the secret under the token key, hexadecimal.
    secret_hash      TEXT   NOT NULL,
    -- SCRAM-SHA-256's salt, iteration count, StoredKey and ServerKey (RFC 5802), hexadecimal.
    scram_salt       TEXT   NOT NULL,
    scram_iterations BIGINT NOT NULL,
    scram_stored_key TEXT   NOT NULL,
    scram_server_key TEXT   NOT NULL,
    -- Names with commas between them.
    scopes           TEXT   NOT NULL,
    -- The prefix of all keys that the token may use; NULL is any key.
    key_prefix       TEXT,
    -- The token is refused from this time on; NULL is never.
    expires_at       BIGINT,
    -- CIDRs with commas between them; NULL is any source.
    allow_from       TEXT,
    -- Client connections of the token, enforced by each proxy on its own; NULL is half of the cache's.
    connections      BIGINT CHECK (connections > 0),
    -- The id of the token that replaces this one.
    successor        TEXT,
    created_at       BIGINT NOT NULL,
    revoked_at       BIGINT,
    revision         BIGINT NOT NULL
);
-- Active tokens of a cache, however many others it has had: those that end after a time, and those without an end.
CREATE INDEX tokens_active ON tokens (cache_id, (COALESCE(expires_at, 9223372036854775807))) WHERE revoked_at IS NULL;
-- The newest tokens of a cache.
CREATE INDEX tokens_cache ON tokens (cache_id, created_at, id);
-- Tokens that ended long ago.
CREATE INDEX tokens_ended ON tokens ((COALESCE(revoked_at, expires_at)));
CREATE INDEX tokens_revision ON tokens (revision);

-- Client certificates, each issued for a token. Written by the web UI and operators' commands.
CREATE TABLE certificates (
    -- SHA-256 of the certificate's DER, hexadecimal.
    fingerprint TEXT   PRIMARY KEY,
    token_id    TEXT   NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    created_at  BIGINT NOT NULL,
    not_after   BIGINT NOT NULL,
    revision    BIGINT NOT NULL
);
CREATE INDEX certificates_token ON certificates (token_id);
CREATE INDEX certificates_revision ON certificates (revision);

-- Tokens that were found in public and revoked for it. Written by the web UI.
CREATE TABLE leaks (
    token_id     TEXT   PRIMARY KEY REFERENCES tokens (id),
    -- The user of the token's cache.
    user_id      TEXT   NOT NULL REFERENCES users (id),
    at           BIGINT NOT NULL,
    -- Where the token was found and in what kind of place, as its finder reported it.
    url          TEXT   NOT NULL,
    source       TEXT   NOT NULL,
    -- When the user dismissed the report.
    dismissed_at BIGINT
);
CREATE INDEX leaks_user ON leaks (user_id, at, token_id);
CREATE INDEX leaks_open ON leaks (user_id, at, token_id) WHERE dismissed_at IS NULL;
