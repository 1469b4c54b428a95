-- What its owner calls a certificate; may be empty.
ALTER TABLE certificates ADD COLUMN name TEXT NOT NULL DEFAULT '';
