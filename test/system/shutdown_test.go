package system

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// witness makes what the later parts look at: a user of its own, and a unit that is ended when the network goes down, and
// writes down when that was. It stands where a host's own network would: Before=network.target.
func witness(t *testing.T) {
	root.must(t, "useradd", "--create-home", "--shell", "/bin/bash", "--groups", "kvm", "own")
	write(t, "/etc/systemd/system/lab-network.service", `[Unit]
Description=the network of this lab host
Wants=network.target
Before=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/sh -c 'date +%%s.%%N >/var/lib/lab/network-down'

[Install]
WantedBy=multi-user.target
`)
	root.must(t, "systemctl", "enable", "--now", "lab-network.service")
}

// span is when an operation was at work.
type span struct{ begin, end time.Time }

// shutdownTime is what all VMs have together, where the configuration says so; the default is 90 s.
const shutdownTime = 40 * time.Second

// checkShutdown: as the host went down, so many VMs were suspended or stopped side by side, in the time that they have, before the network.
func checkShutdown(t *testing.T, kind string, count int) {
	t.Helper()
	asked := kept[time.Time](t, "rebooted")
	down, err := strconv.ParseFloat(strings.TrimSpace(read(t, "/var/lib/lab/network-down")), 64)
	if err != nil {
		t.Fatal(err)
	}
	network := time.Unix(0, int64(down*1e9))
	if network.Before(asked) {
		t.Fatalf("the network went down at %s, before the reboot at %s: the witness is of another one", network, asked)
	}
	spans := operations(t, kind, asked, network.Add(time.Minute))
	if len(spans) != count {
		t.Fatalf("%d operations of kind %s after the reboot was asked for, want %d: %v", len(spans), kind, count, spans)
	}
	// The times at which the first and the last of them began and ended.
	began, begun, ended, end := spans[0].begin, spans[0].begin, spans[0].end, spans[0].end
	for _, s := range spans {
		began, begun = earlier(began, s.begin), later(begun, s.begin)
		ended, end = earlier(ended, s.end), later(end, s.end)
	}
	if end.After(network) {
		t.Errorf("%s ended at %s, the network at %s", kind, end, network)
	}
	if begun.After(ended) {
		t.Errorf("one after the other: %v", spans)
	}
	if took := end.Sub(began); kind == "vm.stop" && took > shutdownTime {
		t.Errorf("%s took %s, and was to take %s at the most", kind, took, shutdownTime)
	}
	since := func(at time.Time) string { return fmt.Sprintf("%.1f s", at.Sub(asked).Seconds()) }
	t.Logf("after the reboot was asked for: %d of %s begun from %s to %s, ended from %s to %s; network down at %s", count, kind,
		since(began), since(begun), since(ended), since(end), since(network))
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// operations are those of a kind that began in this time, by the daemon's log. One without an end, or that failed, is an error.
func operations(t *testing.T, kind string, from, to time.Time) []span {
	t.Helper()
	line := regexp.MustCompile(`^time=(\S+) .*msg="operation (begins|ended)" operation=(\S+) kind=` + regexp.QuoteMeta(kind) + ` (.*)$`)
	begun := map[string]time.Time{}
	var spans []span
	for text := range strings.Lines(read(t, systemState+"/bangerd.log")) {
		m := line.FindStringSubmatch(strings.TrimSpace(text))
		if m == nil {
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, m[1])
		if err != nil {
			t.Fatal(err)
		}
		if at.Before(from) || at.After(to) {
			continue
		}
		if m[2] == "begins" {
			begun[m[3]] = at
			continue
		}
		if !strings.Contains(m[4], "state=done") {
			t.Errorf("it failed: %s", text)
		}
		if begin, ok := begun[m[3]]; ok {
			spans = append(spans, span{begin, at})
			delete(begun, m[3])
		}
	}
	for id := range begun {
		t.Errorf("%s %s has no end: the host did not wait for it", kind, id)
	}
	return spans
}
