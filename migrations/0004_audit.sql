-- Who did what: written in the transaction that does it, never changed. Each entry's hash is made of the
-- entry and of the hash before it, so that whoever changes or removes one breaks the chain behind it.
CREATE TABLE audit (
    seq     BIGINT PRIMARY KEY,
    at      BIGINT NOT NULL,
    actor   TEXT   NOT NULL,
    action  TEXT   NOT NULL,
    subject TEXT   NOT NULL,
    detail  TEXT   NOT NULL,
    hash    TEXT   NOT NULL
);
