-- What users are notified of: in the web UI, by mail and through webhooks. The newest of each user are kept, for a month. Written by
-- the web UI. Unversioned, as all tables below.
CREATE TABLE notifications (
    id         TEXT   PRIMARY KEY,
    user_id    TEXT   NOT NULL REFERENCES users (id),
    -- NULL if it isn't about a cache. The name is the one that the cache had.
    cache_id   TEXT   REFERENCES caches (id),
    cache_name TEXT   NOT NULL,
    kind       TEXT   NOT NULL,
    -- What it is about, and which occurrence: the same one is added once, however many web UIs see it.
    subject    TEXT   NOT NULL,
    period     TEXT   NOT NULL,
    -- A JSON object of texts and numbers, without secrets. Times are milliseconds since 1970.
    data       TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (kind, subject, period)
);
CREATE INDEX notifications_user ON notifications (user_id, created_at, id);
CREATE INDEX notifications_subject ON notifications (kind, subject, created_at);
CREATE INDEX notifications_created ON notifications (created_at);

-- Which kinds a user gets by mail; without a row those that need action.
CREATE TABLE notification_preferences (
    user_id    TEXT PRIMARY KEY REFERENCES users (id),
    -- Names with commas between them.
    mail_kinds TEXT NOT NULL
);

-- Up to where the web UI has looked for what it notifies users of: a time, and the id of the last row of that time.
CREATE TABLE notification_positions (
    source TEXT   PRIMARY KEY,
    at     BIGINT NOT NULL,
    key    TEXT   NOT NULL
);

-- Caches whose owners were notified that they failed, and not yet that they work again.
CREATE TABLE failed_caches (
    cache_id  TEXT   PRIMARY KEY REFERENCES caches (id),
    failed_at BIGINT NOT NULL
);

-- Addresses that notifications are sent to. The secret of the signatures isn't stored: it is a keyed hash of id and generation.
CREATE TABLE webhooks (
    id              TEXT   PRIMARY KEY,
    user_id         TEXT   NOT NULL REFERENCES users (id),
    url             TEXT   NOT NULL,
    -- Of the URL: few deliveries go to one host at a time.
    host            TEXT   NOT NULL,
    description     TEXT   NOT NULL,
    -- Names with commas between them.
    kinds           TEXT   NOT NULL,
    state           TEXT   NOT NULL CHECK (state IN ('enabled', 'disabled')),
    -- Why it is disabled: 'user', 'gone' or 'failing'.
    reason          TEXT   NOT NULL,
    -- Of the secret. For a day after rotated_at the one before counts, too.
    generation      BIGINT NOT NULL,
    rotated_at      BIGINT,
    created_at      BIGINT NOT NULL,
    -- When the first of the attempts failed that have failed since the last success.
    failing_since   BIGINT,
    -- When its next delivery is due; NULL if none waits.
    next_attempt_at BIGINT,
    -- The web UI that delivers sets this to the end of its lease first.
    leased_until    BIGINT NOT NULL,
    -- When something was sent to it last: the one that has waited longest is sent to first.
    served_at       BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX webhooks_user ON webhooks (user_id, created_at, id);
CREATE INDEX webhooks_due ON webhooks (next_attempt_at) WHERE state = 'enabled';
CREATE INDEX webhooks_leased ON webhooks (host, leased_until);
CREATE INDEX webhooks_failing ON webhooks (failing_since) WHERE failing_since IS NOT NULL AND state = 'enabled';

-- A notification on its way to a webhook. It goes with its notification.
CREATE TABLE webhook_deliveries (
    id              TEXT   PRIMARY KEY,
    webhook_id      TEXT   NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    notification_id TEXT   NOT NULL REFERENCES notifications (id) ON DELETE CASCADE,
    state           TEXT   NOT NULL CHECK (state IN ('waiting', 'delivered', 'failed')),
    attempts        BIGINT NOT NULL,
    next_attempt_at BIGINT NOT NULL,
    -- Of the last attempt: the receiver's HTTP status, or why there was none; at most 200 characters, never the receiver's words.
    status          BIGINT,
    error           TEXT   NOT NULL,
    created_at      BIGINT NOT NULL,
    attempted_at    BIGINT
);
CREATE INDEX webhook_deliveries_webhook ON webhook_deliveries (webhook_id, created_at, id);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (webhook_id, next_attempt_at) WHERE state = 'waiting';
CREATE INDEX webhook_deliveries_notification ON webhook_deliveries (notification_id);

-- Whether users were notified. Written by the web UI. Nobody is notified of what happened before this migration.
ALTER TABLE leaks ADD COLUMN notified BIGINT NOT NULL DEFAULT 0;
UPDATE leaks SET notified = 1;
CREATE INDEX leaks_unnotified ON leaks (at) WHERE notified = 0;
-- That it happened, and that it happens again and again.
ALTER TABLE instance_events ADD COLUMN notified BIGINT NOT NULL DEFAULT 0;
ALTER TABLE instance_events ADD COLUMN repetition_notified BIGINT NOT NULL DEFAULT 0;
UPDATE instance_events SET notified = 1, repetition_notified = 1;
CREATE INDEX instance_events_unnotified ON instance_events (last_at)
    WHERE notified = 0 AND (contents_lost = 1 OR cause = 'out_of_memory');
CREATE INDEX instance_events_repeated ON instance_events (last_at)
    WHERE repetition_notified = 0 AND count >= 5 AND cause IN ('crashed', 'out_of_memory', 'hung');
-- Certificates by their expiry, and intervals in which memcached refused to store for lack of memory.
CREATE INDEX certificates_expiry ON certificates (not_after);
CREATE INDEX statistics_history_full ON statistics_history (begins_at) WHERE resolution = 300 AND out_of_memory > 0;
