-- Browser sessions of the web UI. Written by the web UI with almost every page. Unversioned.
CREATE TABLE sessions (
    -- SHA-256 of the cookie, hexadecimal.
    id_hash      TEXT   PRIMARY KEY,
    user_id      TEXT   NOT NULL REFERENCES users (id),
    -- The CSRF token of the session's forms.
    form_token   TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL
);
CREATE INDEX sessions_user ON sessions (user_id);
