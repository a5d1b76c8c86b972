package vm

import (
	"runtime"

	"banger/api"
)

// New makes the service; Reconcile must run before anything else is asked of it.
//
// Each part gets what it stands on, which is made before it. Where one made earlier has to tell a later one of something,
// it has a function for that, which is set at the end.
func New(o Options) *Service {
	if o.Memory == nil {
		o.Memory = memoryOf
	}
	life, locks, names, uses := newBackground(), &vmLocks{}, &names{random: o.Random}, &uses{}
	records := &Records{store: o.Store, now: o.Now, life: life}
	machines := &machines{host: o.Host, backends: o.Backends, images: o.Images, paths: o.Paths}
	vmms := &vmms{
		host: o.Host, machines: machines, handles: handleCache{paths: o.Paths}, life: life, log: o.Log, changed: records.Wake,
		live: map[string]*liveVM{},
	}
	logs := &Logs{records: records, paths: o.Paths, log: o.Log, running: vmms.ids}
	spare := &spareRoom{paths: o.Paths, log: o.Log}
	chains := &chains{
		store: o.Store, records: records, locks: locks, machines: machines, layers: o.Layers, images: o.Images,
		alive: vmms.alive, life: life, paths: o.Paths, log: o.Log, now: o.Now,
		flattenings: map[string]*flattening{}, flattenDue: map[string]bool{},
	}
	points := &points{
		host: o.Host, store: o.Store, records: records, machines: machines, layers: o.Layers, chains: chains,
		newID: names.newID, alive: vmms.alive, paths: o.Paths, log: o.Log, now: o.Now,
	}
	specs := &specs{
		backends: o.Backends, images: o.Images, network: o.Network, names: names, paths: o.Paths, defaults: o.Defaults,
		memory: o.Memory, random: o.Random, uidBase: o.UIDBase, uidCount: o.UIDCount,
	}
	mains := &mains{records: records, life: life, paths: o.Paths, log: o.Log, now: o.Now}
	bringUp := &bringUp{
		store: o.Store, records: records, locks: locks, operations: o.Operations, network: o.Network, knownHosts: o.KnownHosts,
		mains: mains, alive: vmms.alive, life: life, paths: o.Paths, log: o.Log, now: o.Now, random: o.Random,
		readyTimeout: o.ReadyTimeout, fileSync: o.FileSync, home: o.Home,
	}
	stops := &stops{
		store: o.Store, records: records, vmms: vmms, network: o.Network, paths: o.Paths, log: o.Log, now: o.Now,
		stopTimeout: o.StopTimeout,
	}
	snapshots := &Snapshots{
		store: o.Store, records: records, locks: locks, operations: o.Operations, machines: machines, points: points,
		kill: stops.kill, spare: spare, layers: o.Layers, templates: o.Templates, newID: names.newID, paths: o.Paths,
		now: o.Now, forgetMain: mains.forget,
	}
	removals := &removals{
		store: o.Store, records: records, locks: locks, operations: o.Operations, stops: stops,
		forgetSnapshots: snapshots.forgetOf, uses: uses, spare: spare, layers: o.Layers, templates: o.Templates,
		knownHosts: o.KnownHosts, paths: o.Paths, now: o.Now,
	}
	suspends := &suspends{
		store: o.Store, records: records, machines: machines, vmms: vmms, kill: stops.kill, uses: uses, paths: o.Paths,
		now: o.Now,
	}
	queue := &queue{now: o.Now, wake: make(chan struct{}, 1), armed: o.Clones.Armed}
	starts := &starts{
		host: o.Host, store: o.Store, records: records, locks: locks, machines: machines, vmms: vmms,
		dropUnused: points.dropUnused, flattenLater: chains.later, bringUp: bringUp, stops: stops, suspends: suspends,
		completeRestore: snapshots.completeRestore, queue: queue, network: o.Network, images: o.Images, templates: o.Templates,
		paths: o.Paths, log: o.Log, now: o.Now, memory: o.Memory, readyTimeout: o.ReadyTimeout,
		turns: newTurns(runtime.NumCPU()),
	}
	pool := &Pool{
		store: o.Store, records: records, locks: locks, operations: o.Operations, queue: queue, specs: specs,
		templateWant: machines.templateWant, vmms: vmms, bringUp: bringUp, starts: starts, removeVM: removals.remove,
		templates: o.Templates, newID: names.newID, life: life, log: o.Log, now: o.Now, memory: o.Memory, size: o.Clones.Size,
		reserve: o.Clones.Reserve,
	}
	takes := &takes{
		host: o.Host, store: o.Store, records: records, locks: locks, operations: o.Operations, queue: queue, bringUp: bringUp,
		network: o.Network, knownHosts: o.KnownHosts, names: names, alive: vmms.alive, log: o.Log, now: o.Now,
		throwAway: pool.throwAway, size: o.Clones.Size,
	}
	idling := &idling{
		host: o.Host, store: o.Store, locks: locks, operations: o.Operations, suspendNow: suspends.suspend, uses: uses,
		now: o.Now,
	}
	reactions := &reactions{
		records: records, locks: locks, vmms: vmms, bringUp: bringUp, stops: stops, remove: removals.remove, pool: pool,
		spare: spare, paths: o.Paths, log: o.Log, now: o.Now,
	}
	powers := &powers{
		store: o.Store, records: records, locks: locks, operations: o.Operations, start: starts.start, stops: stops,
		suspends: suspends, remove: removals.remove, alive: vmms.alive, now: o.Now,
	}

	vmms.happened, vmms.ended, vmms.watchIdle = reactions.happened, reactions.ended, idling.watch
	mains.remove = func(id string) { removals.begin(id, func(api.VM) error { return nil }) } // the log tells of a failure
	snapshots.start = starts.start
	starts.giveUp = pool.giveUp

	return &Service{
		creates: &creates{
			store: o.Store, records: records, locks: locks, operations: o.Operations, specs: specs, start: starts.start,
			makeHostKey: bringUp.makeHostKey, takes: takes, snapshots: snapshots, remove: removals.remove, newID: names.newID,
			paths: o.Paths, now: o.Now, giveUp: pool.giveUp,
		},
		powers: powers,
		changes: &changes{
			store: o.Store, records: records, locks: locks, operations: o.Operations, specs: specs, machines: machines,
			images: o.Images, layers: o.Layers, alive: vmms.alive, paths: o.Paths,
		},
		forks: &forks{
			store: o.Store, records: records, locks: locks, operations: o.Operations, specs: specs, machines: machines,
			points: points, starts: starts, bringUp: bringUp, remove: removals.remove, knownHosts: o.KnownHosts,
			newID: names.newID, paths: o.Paths, now: o.Now, readyTimeout: o.ReadyTimeout,
		},
		removals: removals,
		imageSaves: &imageSaves{
			store: o.Store, records: records, locks: locks, operations: o.Operations, specs: specs, machines: machines,
			points: points, network: o.Network, images: o.Images, layers: o.Layers, newID: names.newID, paths: o.Paths,
			admit: starts.admit, uid: o.Templates.UID, readyTimeout: o.ReadyTimeout,
		},
		reconciler: &reconciler{
			store: o.Store, records: records, locks: locks, backends: o.Backends, machines: machines, vmms: vmms,
			points: points, bringUp: bringUp, stops: stops, remove: removals.remove, snapshots: snapshots, pool: pool,
			logs: logs, spare: spare, network: o.Network, layers: o.Layers, life: life, paths: o.Paths, log: o.Log,
		},
		Records: records,
		Guests: &Guests{
			store: o.Store, records: records, operations: o.Operations, vmms: vmms, start: starts.start, mains: mains,
			uses: uses, life: life, now: o.Now, sessionLog: o.SessionLog,
		},
		Snapshots: snapshots,
		Objects: &Objects{
			store: o.Store, records: records, specs: specs, templateWant: machines.templateWant, removeIf: removals.removeIf,
			pool: pool, images: o.Images, templates: o.Templates,
		},
		Pool: pool, Logs: logs,
		Stats: &Stats{records: records, host: o.Host, alive: vmms.alive, now: o.Now},
		HostPower: &HostPower{
			records: records, operations: o.Operations, powers: powers, shutdown: o.Shutdown, stopTimeout: o.StopTimeout,
		},
		vmms: vmms, life: life,
	}
}
