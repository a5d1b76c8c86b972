package resolvconf

import (
	"fmt"
	"testing"
)

func TestParse(t *testing.T) {
	const text = "# nameserver 1.1.1.1\nsearch example.org\nnameserver 127.0.0.53\n\tnameserver   fe80::1%eth0 # router\nnameserver\nnameserver here\nnameserver ::ffff:192.0.2.1\noptions edns0"
	if got, want := fmt.Sprint(Parse(text)), "[127.0.0.53 fe80::1%eth0 192.0.2.1]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("nameserver 127.0.0.53\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, a := range Parse(text) {
			if !a.IsValid() {
				t.Errorf("an invalid address from %q", text)
			}
		}
	})
}
