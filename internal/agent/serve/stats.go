package serve

import (
	"bufio"
	"net/http"
	"os"
	"strconv"
	"strings"

	"banger/api/agentapi"
)

// stats are the guest's own figures.
func (s *Server) stats(w http.ResponseWriter, _ *http.Request) error {
	var st agentapi.Stats
	mem := keyed("/proc/meminfo", ":")
	st.MemTotalBytes = kib(mem["MemTotal"])
	st.MemUsedBytes = max(0, st.MemTotalBytes-kib(mem["MemAvailable"]))
	// proc(5): eight figures of receiving, of which the first is bytes; then those of sending.
	if f := strings.Fields(keyed("/proc/net/dev", ":")[s.o.NetDevice]); len(f) >= 9 {
		st.NetRxBytes, _ = strconv.ParseInt(f[0], 10, 64)
		st.NetTxBytes, _ = strconv.ParseInt(f[8], 10, 64)
	}
	if data, err := os.ReadFile("/proc/loadavg"); err == nil {
		first, _, _ := strings.Cut(string(data), " ")
		st.Load1, _ = strconv.ParseFloat(first, 64)
	}
	return ok(w, st)
}

// keyed reads the lines of a file as key and value.
func keyed(path, sep string) map[string]string {
	out := map[string]string{}
	f, err := os.Open(path)
	if err != nil {
		return out
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if k, v, ok := strings.Cut(sc.Text(), sep); ok {
			out[strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
	}
	return out
}

// kib reads "1234 kB" as bytes.
func kib(s string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSuffix(s, " kB"), 10, 64)
	return n << 10
}
