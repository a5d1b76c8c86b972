package serve

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// process is a line of /proc/PID/stat (proc(5)).
type process struct {
	procID
	parent, session int
	dead            bool
}

func processes() []process {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	var out []process
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			if p, ok := readProcess(pid); ok {
				out = append(out, p)
			}
		}
	}
	return out
}

func readProcess(pid int) (process, bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, false
	}
	return parseStat(pid, string(data))
}

// parseStat reads what follows the name, which may hold anything.
func parseStat(pid int, line string) (process, bool) {
	i := strings.LastIndexByte(line, ')')
	if i < 0 {
		return process{}, false
	}
	f := strings.Fields(line[i+1:])
	if len(f) < 20 {
		return process{}, false
	}
	parent, err1 := strconv.Atoi(f[1])
	session, err2 := strconv.Atoi(f[3])
	start, err3 := strconv.ParseUint(f[19], 10, 64)
	if errors.Join(err1, err2, err3) != nil {
		return process{}, false
	}
	dead := f[0] == "Z" || f[0] == "X"
	return process{procID: procID{pid, start}, parent: parent, session: session, dead: dead}, true
}
