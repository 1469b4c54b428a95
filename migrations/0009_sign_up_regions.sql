-- The region that a user signed up from (an IPv4 /16 or IPv6 /32), so that none takes most accounts. NULL for private
-- addresses, for users that an operator added, and once the account is deleted. Written by the web UI.
ALTER TABLE users ADD COLUMN region TEXT;
