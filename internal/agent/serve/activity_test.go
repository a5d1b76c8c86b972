package serve

import "testing"

func TestOutside(t *testing.T) {
	t.Parallel()
	const (
		header   = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
		listens  = "   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0"
		ssh      = "   1: 05001EAC:0016 01001EAC:D431 01 00000000:00000000 02:000A 00000000     0        0 2 2 0 20 4 30 10 -1"
		sending  = "   2: 05001EAC:9C40 08080808:01BB 02 00000001:00000000 01:0019 00000000     0        0 3 2 0 20 4 30 10 -1"
		loopback = "   3: 0100007F:1F90 0100007F:9C42 01 00000000:00000000 00:00000000 00000000     0        0 4 1 0 20 4 30 10 -1"
		itself   = "   4: 05001EAC:1F90 05001EAC:9C44 01 00000000:00000000 00:00000000 00000000     0        0 5 1 0 20 4 30 10 -1"
		mirror   = "   5: 05001EAC:9C44 05001EAC:1F90 01 00000000:00000000 00:00000000 00000000     0        0 6 1 0 20 4 30 10 -1"
		ended    = "   6: 05001EAC:0016 01001EAC:D432 06 00000000:00000000 03:0019 00000000     0        0 0 3 0"
		mapped   = "   7: 0000000000000000FFFF000005001EAC:0016 0000000000000000FFFF000001001EAC:D433 01 0:0 02:000A 0     0        0 7 2 0 20"
		loop6    = "   8: 00000000000000000000000001000000:1F90 00000000000000000000000001000000:9C46 01 0:0 00:00 0     0        0 8 1 0 20"
	)
	for _, test := range []struct {
		name  string
		lines []string
		want  int
	}{
		{"nobody", []string{header, listens, ended}, 0},
		{"ssh", []string{header, listens, ssh}, 1},
		{"ssh by a socket of both families", []string{mapped}, 1},
		{"a call that is not answered yet", []string{sending}, 1},
		{"loopback", []string{loopback, loop6}, 0},
		{"both ends are here", []string{itself, mirror}, 0},
		{"all", []string{listens, ssh, sending, loopback, itself, mirror, ended, mapped, loop6}, 3},
	} {
		var all []endpoints
		for _, l := range test.lines {
			if c, ok := parseEstablished(l); ok {
				all = append(all, c)
			}
		}
		if got := outside(all); got != test.want {
			t.Errorf("%s: %d connections, want %d", test.name, got, test.want)
		}
	}
}
