-- When a session's user last entered the password again, after the sign-in; NULL if never. Written by the web UI.
ALTER TABLE sessions ADD COLUMN confirmed_at BIGINT;

-- What administrators list: users by e-mail address, caches from the newest on, instances by state, and the audit log by
-- subject and from a time on. By actor, audit_actor finds its entries.
CREATE INDEX users_email ON users (email) WHERE deleted_at IS NULL;
CREATE INDEX caches_live ON caches (created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX routes_state ON routes (state, changed_at, instance_id);
CREATE INDEX audit_subject ON audit (subject, seq);
CREATE INDEX audit_at ON audit (at, seq);
