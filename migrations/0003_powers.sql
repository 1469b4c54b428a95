-- What a token may do, on which keys, until when and from where. Written by the web UI and the operator's
-- commands. Tokens that are there already may do everything.
ALTER TABLE tokens ADD COLUMN scopes TEXT NOT NULL DEFAULT 'read,write,flush,stats';
-- Only keys that begin with it; all if there is none.
ALTER TABLE tokens ADD COLUMN key_prefix TEXT;
-- It lets nobody in from then on.
ALTER TABLE tokens ADD COLUMN expires_at BIGINT;
-- CIDRs with commas between them; from anywhere if there is none.
ALTER TABLE tokens ADD COLUMN allow_from TEXT;
-- The token that has taken its place.
ALTER TABLE tokens ADD COLUMN successor TEXT;
