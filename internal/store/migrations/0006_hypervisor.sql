-- Which hypervisor a VM was created with is part of its spec, and so of its snapshots'.
UPDATE vms SET record = json_remove(json_set(record, '$.spec.hypervisor', json_extract(record, '$.runtime.hypervisor')), '$.runtime.hypervisor');
UPDATE snapshots SET record = json_set(record, '$.spec.hypervisor', (SELECT json_extract(vms.record, '$.spec.hypervisor') FROM vms WHERE vms.id = snapshots.vm_id));
