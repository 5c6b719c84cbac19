CREATE TABLE domain (
    name TEXT PRIMARY KEY CHECK (name = lower(name)),
    kind TEXT NOT NULL CHECK (kind IN ('mailbox', 'relay')),
    enabled INTEGER NOT NULL DEFAULT 1
);
INSERT INTO domain VALUES ('example.org', 'mailbox', 1);
INSERT INTO domain VALUES ('example.com', 'relay', 1);
INSERT INTO domain VALUES ('example.net', 'relay', 0);
