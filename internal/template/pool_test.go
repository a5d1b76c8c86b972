package template

import "testing"

func TestPool(t *testing.T) {
	const mib = 1 << 20
	good := Pool{Wanted: 2, Armed: true, Template: true, Reserve: 500 * mib, Price: 300 * mib, Memory: Memory{Total: 4000 * mib, Available: 2000 * mib}}
	for _, c := range []struct {
		what   string
		change func(*Pool)
		want   Step
	}{
		{"empty", func(*Pool) {}, PoolMakes},
		{"half full", func(p *Pool) { p.Have = 1 }, PoolMakes},
		{"full", func(p *Pool) { p.Have = 2 }, PoolRests},
		{"too many", func(p *Pool) { p.Have = 3 }, PoolGivesUp},
		{"switched off", func(p *Pool) { p.Wanted = 0 }, PoolRests},
		{"switched off with some left", func(p *Pool) { p.Wanted, p.Have = 0, 1 }, PoolGivesUp},
		{"nobody has started anything", func(p *Pool) { p.Armed = false }, PoolRests},
		{"adopted ones stay though nobody has", func(p *Pool) { p.Armed, p.Have = false, 2 }, PoolRests},
		{"no template", func(p *Pool) { p.Template = false }, PoolRests},
		{"a start is under way", func(p *Pool) { p.Busy = true }, PoolWaits},
		{"a start is under way, nothing is missing", func(p *Pool) { p.Busy, p.Have = true, 2 }, PoolRests},
		{"just room enough", func(p *Pool) { p.Memory.Available = 1100 * mib }, PoolMakes},
		{"not quite", func(p *Pool) { p.Memory.Available = 1100*mib - 1 }, PoolWaits},
		{"what there is stays", func(p *Pool) { p.Memory.Available, p.Have = 600*mib, 2 }, PoolRests},
		{"the reserve is touched", func(p *Pool) { p.Memory.Available, p.Have = 500*mib-1, 1 }, PoolGivesUp},
		{"the reserve is touched while a start is under way", func(p *Pool) { p.Memory.Available, p.Have, p.Busy = 500*mib-1, 1, true }, PoolGivesUp},
		{"nothing to give up", func(p *Pool) { p.Memory.Available = 1 }, PoolWaits},
		{"unknown memory", func(p *Pool) { p.Memory = Memory{} }, PoolMakes},
		{"others wait for memory", func(p *Pool) { p.Memory.Pressure, p.Have = 10, 2 }, PoolGivesUp},
		{"others have waited a moment ago", func(p *Pool) { p.Memory.Pressure, p.Have = 5, 1 }, PoolWaits},
		{"hardly anybody waits", func(p *Pool) { p.Memory.Pressure, p.Have = 0.5, 1 }, PoolMakes},
	} {
		p := good
		c.change(&p)
		if got := p.Next(); got != c.want {
			t.Errorf("%s: %d, want %d (%+v)", c.what, got, c.want, p)
		}
	}
}
