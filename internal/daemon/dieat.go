package daemon

import (
	"log/slog"
	"os"
	"strings"
	"syscall"

	"banger/internal/operation"
)

// dieAtVariable is for tests of crashes only: at that point of an operation, as operation.Registry.AtPoints
// names them, this daemon ends as by kill -9; until then it logs each point that it reaches. It is no setting, and
// without it nothing is different.
const dieAtVariable = "BANGER_TEST_DIE_AT"

func dieAt(environ []string, ops *operation.Registry, log *slog.Logger) {
	for _, kv := range environ {
		if where, found := strings.CutPrefix(kv, dieAtVariable+"="); found && where != "" {
			ops.AtPoints(func(point string) {
				log.Info("point reached", "point", point, "dies", point == where)
				if point == where {
					_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				}
			})
		}
	}
}
