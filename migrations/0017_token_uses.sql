-- When each token was last used. Written by the proxies every few seconds, at most twice a minute for a token.
-- Unversioned.
CREATE TABLE token_uses (
    token_id TEXT   PRIMARY KEY REFERENCES tokens (id) ON DELETE CASCADE,
    used_at  BIGINT NOT NULL,
    -- The client's IP address.
    source   TEXT   NOT NULL
);
