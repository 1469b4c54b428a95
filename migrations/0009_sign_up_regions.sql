-- The region that a user signed up from (an IPv4 /16 or IPv6 /32), so that none takes most accounts. NULL for private
-- addresses, for users that an operator added, and once the account is deleted. Written by the web UI.
ALTER TABLE users ADD COLUMN region TEXT;
-- Sign-ups count the users that aren't deleted.
CREATE INDEX users_live ON users (region) WHERE deleted_at IS NULL;
