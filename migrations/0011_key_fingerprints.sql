-- The installation's row also tells which keys belong to it, by an HMAC of a constant under each key. `memgate up` and
-- `memgate migrate` record them where there are none, and nothing ever changes them: every role and command compares
-- them with its key files, and refuses others.
ALTER TABLE installation ADD COLUMN token_key_fingerprint TEXT;
ALTER TABLE installation ADD COLUMN lane_key_fingerprint TEXT;
