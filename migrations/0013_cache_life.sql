-- 1 while the cache itself is suspended, whatever its user is. Written by the web UI and operators' commands.
ALTER TABLE caches ADD COLUMN suspended BIGINT NOT NULL DEFAULT 0;

-- 1 if memcached keeps the contents of a cache when it is stopped on purpose. Written by operators' commands.
ALTER TABLE plans ADD COLUMN warm BIGINT NOT NULL DEFAULT 0;
-- Seconds without a command after which a cache is stopped until the next one; NULL is never. Written by operators' commands.
ALTER TABLE plans ADD COLUMN sleep_after_seconds BIGINT CHECK (sleep_after_seconds > 0);

-- Requests to wake instances that sleep. Written by the proxies: one for each time that an instance sleeps. One with an
-- older revision than the instance's route has been obeyed.
CREATE TABLE wake_requests (
    instance_id       TEXT   PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE,
    wake_requested_at BIGINT NOT NULL,
    revision          BIGINT NOT NULL
);
CREATE INDEX wake_requests_revision ON wake_requests (revision);
