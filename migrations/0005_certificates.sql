-- Client certificates, each issued for a token and known by the SHA-256 of its DER. Written by the web UI and
-- the operator's commands; never changed. They end with their token.
CREATE TABLE certificates (
    fingerprint TEXT   PRIMARY KEY,
    token_id    TEXT   NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    created_at  BIGINT NOT NULL,
    not_after   BIGINT NOT NULL,
    revision    BIGINT NOT NULL
);
CREATE INDEX certificates_token ON certificates (token_id);
CREATE INDEX certificates_revision ON certificates (revision);
