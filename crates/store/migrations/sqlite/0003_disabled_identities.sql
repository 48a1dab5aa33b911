-- Who is disabled, since when, by whom and why. A row goes when its identity is enabled again.
CREATE TABLE disabled_identities (
    issuer  TEXT NOT NULL,
    subject TEXT NOT NULL,
    record  TEXT NOT NULL,
    PRIMARY KEY (issuer, subject)
) STRICT;

PRAGMA user_version = 3;
