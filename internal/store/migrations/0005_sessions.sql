-- What is known of the guests' sessions; the guest's own word counts for more. They go with their VM. A fork's have the
-- ids of its source's.
CREATE TABLE sessions (
    vm_id  TEXT NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    id     TEXT NOT NULL,
    name   TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (vm_id, id),
    UNIQUE (vm_id, name)
) STRICT;
