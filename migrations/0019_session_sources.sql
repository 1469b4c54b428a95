-- From where each session was started: what its user sees in the list of sessions. Empty for those from before.
ALTER TABLE sessions ADD COLUMN source TEXT NOT NULL DEFAULT '';
-- The browser's User-Agent header, at most 200 characters.
ALTER TABLE sessions ADD COLUMN user_agent TEXT NOT NULL DEFAULT '';
