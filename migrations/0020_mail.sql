-- Links for one use, which people get by mail. A link's secret isn't stored: it is a keyed hash of the id. Its use deletes
-- the link, and a change of the account's password or e-mail address deletes all of its links. Written by the web UI and
-- operators' commands.
CREATE TABLE account_links (
    id         TEXT   PRIMARY KEY,
    kind       TEXT   NOT NULL CHECK (kind IN ('reset_password', 'change_email', 'sign_up')),
    -- NULL if the link makes the account.
    user_id    TEXT   REFERENCES users (id),
    -- The address that the link was sent to, lower case.
    email      TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX account_links_user ON account_links (user_id);
CREATE INDEX account_links_email ON account_links (email);
CREATE INDEX account_links_expiry ON account_links (expires_at);

-- Mail: what waits, and what was sent in the last days. A mail's text is made when it is sent, so no link is stored. Written
-- by the web UI and operators' commands. Unversioned.
CREATE TABLE mails (
    id              TEXT   PRIMARY KEY,
    kind            TEXT   NOT NULL,
    -- NULL without an account.
    user_id         TEXT   REFERENCES users (id),
    -- Lower case.
    recipient       TEXT   NOT NULL,
    -- The link in its text, if there is one.
    link_id         TEXT,
    state           TEXT   NOT NULL CHECK (state IN ('waiting', 'sent', 'failed')),
    created_at      BIGINT NOT NULL,
    -- Who sends a mail sets this to the end of its lease first.
    next_attempt_at BIGINT NOT NULL,
    attempts        BIGINT NOT NULL,
    -- Why the last attempt failed; at most 200 characters.
    error           TEXT   NOT NULL
);
CREATE INDEX mails_due ON mails (next_attempt_at) WHERE state = 'waiting';
CREATE INDEX mails_recipient ON mails (recipient, kind, created_at);
CREATE INDEX mails_created ON mails (created_at);
CREATE INDEX mails_user ON mails (user_id);
