-- A layer is a disk's contents up to some moment; a file of its name lies beside. It is kept for as long as a VM's disk
-- lies on it, or another such layer does. The lowest of a chain lies on a template, or on the image.
CREATE TABLE layers (
    id         TEXT PRIMARY KEY,
    parent     TEXT NOT NULL, -- empty for the lowest
    kind       TEXT NOT NULL, -- root or work
    vm_id      TEXT NOT NULL, -- whose disk it was; may be gone
    created_at TEXT NOT NULL
) STRICT;
