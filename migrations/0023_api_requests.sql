-- Creations through the JSON API that named an idempotency key, kept for a day: sent again, they aren't done again. Written
-- by the web UI. Unversioned.
CREATE TABLE api_requests (
    user_id     TEXT   NOT NULL REFERENCES users (id),
    -- HMAC-SHA-256 of the idempotency key, hexadecimal.
    key_hash    TEXT   NOT NULL,
    -- The same of method, path and body.
    fingerprint TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    -- The id of what was created, once it is done.
    resource    TEXT,
    PRIMARY KEY (user_id, key_hash)
);
CREATE INDEX api_requests_created ON api_requests (created_at);
