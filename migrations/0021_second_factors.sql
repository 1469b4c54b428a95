-- Second factors: one-time passwords by time (RFC 6238). The secret isn't stored: it is a keyed hash of the seed. Written by the
-- web UI; operators' commands remove them.
CREATE TABLE second_factors (
    user_id      TEXT   PRIMARY KEY REFERENCES users (id),
    -- 24 letters and digits.
    seed         TEXT   NOT NULL,
    -- The session that began to set it up: until it is confirmed, no other is shown the secret.
    begun_by     TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    -- NULL until a code has proved that the user's device has the secret.
    confirmed_at BIGINT,
    -- The time step of the last code that was used: this one and earlier ones are refused.
    last_step    BIGINT NOT NULL
);

-- Recovery codes, which are used up instead of a code. Written by the web UI.
CREATE TABLE recovery_codes (
    user_id   TEXT   NOT NULL REFERENCES users (id),
    -- A keyed hash, hexadecimal.
    code_hash TEXT   NOT NULL,
    PRIMARY KEY (user_id, code_hash)
);

-- Sign-ins whose password was right and whose code is awaited. Written by the web UI. Unversioned.
CREATE TABLE pending_sign_ins (
    -- SHA-256 of the cookie, hexadecimal.
    id_hash       TEXT   PRIMARY KEY,
    user_id       TEXT   NOT NULL REFERENCES users (id),
    expires_at    BIGINT NOT NULL,
    -- Codes that may still be tried.
    attempts_left BIGINT NOT NULL
);
CREATE INDEX pending_sign_ins_user ON pending_sign_ins (user_id, expires_at);
CREATE INDEX pending_sign_ins_expiry ON pending_sign_ins (expires_at);

-- Users download the entries that they have caused.
CREATE INDEX audit_actor ON audit (actor, seq);
