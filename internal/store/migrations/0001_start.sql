-- A VM's record is one JSON document (api.VM); beside it stand the columns that rules
-- or look-ups need. The document and the columns are written together, in vm.go only.
CREATE TABLE vms (
    id        TEXT PRIMARY KEY,
    name      TEXT NOT NULL UNIQUE,
    client_id TEXT UNIQUE,
    state     TEXT NOT NULL,
    guest_ip  TEXT UNIQUE,
    uid       INTEGER UNIQUE,
    image     TEXT NOT NULL,
    kernel    TEXT NOT NULL,
    -- create_spec is what the client asked for, to tell a repeated create from a different one.
    create_spec TEXT NOT NULL,
    record    TEXT NOT NULL
) STRICT;

CREATE TABLE images (
    name   TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    record TEXT NOT NULL
) STRICT;

CREATE TABLE kernels (
    name   TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    record TEXT NOT NULL
) STRICT;

-- AUTOINCREMENT: a cursor is never given twice, not even after the newest event is pruned.
CREATE TABLE events (
    cursor INTEGER PRIMARY KEY AUTOINCREMENT,
    at     TEXT NOT NULL,
    kind   TEXT NOT NULL,
    vm_id  TEXT NOT NULL,
    name   TEXT NOT NULL,
    data   TEXT NOT NULL
) STRICT;
