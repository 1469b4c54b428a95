-- What all roles share. One SQL text serves SQLite and PostgreSQL: columns are TEXT or BIGINT, booleans are
-- 0 or 1, times are milliseconds since 1970. Each column has one writer, named at its table.

-- One row: the number of the last write. A write transaction increments it first and stamps the rows that it
-- touches with the result, so revisions appear in commit order, and a follower can read everything after one.
-- Tables that are written several times per second don't take part; their comments say "unversioned".
CREATE TABLE revision (
    one   BIGINT PRIMARY KEY CHECK (one = 1),
    value BIGINT NOT NULL
);
INSERT INTO revision (one, value) VALUES (1, 1);

-- One row, written by the first role that starts. The id is part of the name and the label of everything that
-- memgate creates in Docker.
CREATE TABLE installation (
    one        BIGINT PRIMARY KEY CHECK (one = 1),
    id         TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);
