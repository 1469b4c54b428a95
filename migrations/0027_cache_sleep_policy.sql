-- Seconds without a command after which a cache is put to sleep, where its user wants that earlier than its plan; NULL: after the
-- plan's time. Written by the web UI and operators' commands.
ALTER TABLE caches ADD COLUMN sleep_after_seconds BIGINT CHECK (sleep_after_seconds > 0);
