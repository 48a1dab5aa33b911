-- `record` is a grant as it was issued, and never changes. What can change stands beside it, so that each change is one
-- statement: the end of its lease, and how it was revoked. Times that are compared are nanoseconds since 1970.
CREATE TABLE grants (
    id          TEXT    NOT NULL PRIMARY KEY,
    record      TEXT    NOT NULL,
    issued_at   INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    lease_until TEXT,
    revocation  TEXT
) STRICT;

CREATE INDEX grants_by_age ON grants (issued_at, id);
CREATE INDEX grants_unrevoked ON grants (expires_at) WHERE revocation IS NULL;

-- One row, written by each health check: a disk that is full, or read-only, shows there first.
CREATE TABLE health (
    id     INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    checks INTEGER NOT NULL
) STRICT;

PRAGMA application_id = 1349481076;
PRAGMA user_version = 1;
