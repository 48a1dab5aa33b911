-- `record` is the ticket; the other columns repeat what is asked for or compared, and are written with it.
CREATE TABLE tickets (
    id           TEXT    NOT NULL PRIMARY KEY,
    version      INTEGER NOT NULL,
    record       TEXT    NOT NULL,
    state        TEXT    NOT NULL,
    -- The digest while the ticket is open, so that no two open ones have the same; NULL once it is closed.
    open_digest  TEXT    UNIQUE,
    issuer       TEXT    NOT NULL,
    subject      TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    -- When its time is up; NULL once it has ended.
    overdue_from INTEGER
) STRICT;

CREATE INDEX tickets_by_state ON tickets (state, id);
CREATE INDEX tickets_by_requester ON tickets (issuer, subject, id);
CREATE INDEX tickets_overdue ON tickets (overdue_from) WHERE overdue_from IS NOT NULL;
CREATE INDEX tickets_closed ON tickets (created_at) WHERE open_digest IS NULL;

PRAGMA user_version = 2;
