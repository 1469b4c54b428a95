-- When an account was ended. The row stays, without address and password, for what refers to it. Written by
-- the web UI and the operator's commands.
ALTER TABLE users ADD COLUMN deleted_at BIGINT;

-- Tokens that were found where everybody can read them, each revoked for it: where, as whoever found it said.
-- dismissed_at is when its user has seen that. Written by the web UI.
CREATE TABLE leaks (
    token_id     TEXT   PRIMARY KEY REFERENCES tokens (id),
    at           BIGINT NOT NULL,
    url          TEXT   NOT NULL,
    source       TEXT   NOT NULL,
    dismissed_at BIGINT
);
