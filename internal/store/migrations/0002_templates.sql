-- A template is found by its key as long as it is good; a discarded one stays, without its key,
-- for as long as a VM's disks lie on its layers.
CREATE TABLE templates (
    id     TEXT PRIMARY KEY,
    key    TEXT UNIQUE,
    record TEXT NOT NULL
) STRICT;
