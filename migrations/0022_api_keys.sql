-- Keys of the JSON API. Written by the web UI and by operators' commands. Unversioned.
CREATE TABLE api_keys (
    -- The public half: 12 letters and digits.
    id           TEXT   PRIMARY KEY,
    user_id      TEXT   NOT NULL REFERENCES users (id),
    name         TEXT   NOT NULL,
    -- HMAC-SHA-256 of the secret half, hexadecimal.
    secret_hash  TEXT   NOT NULL,
    -- Names with commas between them.
    scopes       TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    -- Refused from this time on; NULL is never.
    expires_at   BIGINT,
    -- Written at most once a minute.
    last_used_at BIGINT,
    revoked_at   BIGINT
);
CREATE INDEX api_keys_user ON api_keys (user_id, created_at);
