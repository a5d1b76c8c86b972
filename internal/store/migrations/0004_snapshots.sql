-- A VM's snapshots. They go before it: a VM that has any cannot be deleted. The VM's record names them too, oldest
-- first; both are written together, in snapshot.go only.
CREATE TABLE snapshots (
    id     TEXT PRIMARY KEY,
    vm_id  TEXT NOT NULL REFERENCES vms (id),
    name   TEXT NOT NULL,
    record TEXT NOT NULL,
    UNIQUE (vm_id, name)
) STRICT;
