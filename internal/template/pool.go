package template

// Pool is what decides how many clones wait to be taken: all that is known about them and about the host at one moment.
type Pool struct {
	// Wanted is how many there should be, Have how many there are, ready or being made.
	Wanted, Have int
	// Armed is false until somebody has shown that clones will be wanted: a pool that nobody draws from only costs.
	Armed bool
	// Template is whether there is one to thaw them from. A pool builds none.
	Template bool
	// Busy is true while a start, or what follows it at once, is under way, for which the pool must not slow the host down.
	Busy bool
	// Memory is the host's, Reserve what must stay available of it, Price what one clone may come to take. All in bytes.
	Memory         Memory
	Reserve, Price int64
}

// Memory is how a host is off for memory.
type Memory struct {
	// Total and Available are bytes (MemTotal and MemAvailable of proc(5)); 0 where it is not known, and then all is well.
	Total, Available int64
	// Pressure is the share of time in the last ten seconds, in percent, in which something waited for memory
	// ("some avg10" of /proc/pressure/memory).
	Pressure float64
}

// From pressureHigh on the pool is given up; it is filled again only below pressureLow.
const (
	pressureHigh = 10
	pressureLow  = 1
)

// Step is what a pool is to do next.
type Step int

// The steps.
const (
	PoolRests   Step = iota // nothing to do until something changes
	PoolWaits               // a clone is missing, but this is not the time
	PoolMakes               // make one
	PoolGivesUp             // take one away, the youngest
)

// Next is the next step; asked again after each.
func (p Pool) Next() Step {
	switch {
	case p.Have > p.Wanted, p.Have > 0 && p.short():
		return PoolGivesUp
	case p.Have == p.Wanted || !p.Armed || !p.Template:
		return PoolRests
	case p.Busy || !p.roomy():
		return PoolWaits
	}
	return PoolMakes
}

// short is true when what the pool holds is wanted by others.
func (p Pool) short() bool {
	return p.Memory.Pressure >= pressureHigh || p.Memory.Available > 0 && p.Memory.Available < p.Reserve
}

// roomy is true when one more clone leaves the reserve alone, and room for a start of the same size besides.
func (p Pool) roomy() bool {
	return p.Memory.Pressure < pressureLow && (p.Memory.Available == 0 || p.Memory.Available >= p.Reserve+2*p.Price)
}
