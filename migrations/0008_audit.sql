-- The audit log. Each entry is written in the transaction that it describes, and never changed. Its hash covers
-- the entry and the hash before it, so a changed or removed entry breaks the chain.
CREATE TABLE audit (
    -- Counted from 1 without gaps.
    seq     BIGINT PRIMARY KEY,
    at      BIGINT NOT NULL,
    actor   TEXT   NOT NULL,
    action  TEXT   NOT NULL,
    subject TEXT   NOT NULL,
    detail  TEXT   NOT NULL,
    -- SHA-256, hexadecimal.
    hash    TEXT   NOT NULL
);
