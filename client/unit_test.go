package client

import "testing"

func TestMoves(t *testing.T) {
	for _, c := range []struct {
		properties string
		want       bool
	}{
		{"ActiveState=active\n", true}, {"ActiveState=activating\n", true}, {"ActiveState=inactive\n", false}, {"ActiveState=failed\n", false},
		{"ActiveState=inactive\nJob=17\n", true}, {"Job=0\nActiveState=inactive\n", false}, {"", false},
	} {
		if got := moves(c.properties); got != c.want {
			t.Errorf("%q: %v", c.properties, got)
		}
	}
}
