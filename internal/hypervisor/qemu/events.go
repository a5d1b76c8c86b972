package qemu

import (
	"time"

	"banger/internal/hypervisor"
	"banger/internal/hypervisor/qemu/qmp"
)

// diskFull is the reason of a pause that ends by itself once there is room.
const diskFull = "no space left on the host"

// onEvent turns QEMU's words into ours. It runs on the control connection's reader.
func (i *instance) onEvent(e qmp.Event) {
	switch e.Name {
	case "RESET":
		i.onReset(e)
	case "SHUTDOWN":
		var d struct {
			Guest bool `json:"guest"`
		}
		if e.Decode(&d) == nil && d.Guest {
			i.mu.Lock()
			i.off = true
			i.mu.Unlock()
			i.emit(hypervisor.EventShutdown, "", e.At)
		}
	case "BLOCK_IO_ERROR":
		i.onBlockError(e)
	case "MIGRATION":
		i.onMigration(e)
	case "JOB_STATUS_CHANGE":
		i.onJobStatus(e)
	case "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED":
		i.onJobEnd(e)
	case "STOP":
		i.onStop(e.At)
	case "RESUME":
		i.onResume(e.At)
	}
}

// onReset: a reset of ours is the same boot, begun again, and no news.
func (i *instance) onReset(e qmp.Event) {
	var d struct {
		Guest bool `json:"guest"`
	}
	i.guest.Reset()
	if e.Decode(&d) == nil && d.Guest {
		i.emit(hypervisor.EventReset, "", e.At)
		i.watchBoot()
	}
}

// onBlockError keeps the reason for the STOP that follows.
func (i *instance) onBlockError(e qmp.Event) {
	var d struct {
		Action  string `json:"action"`
		NoSpace bool   `json:"nospace"`
		Reason  string `json:"reason"`
	}
	if e.Decode(&d) != nil || d.Action != "stop" {
		return
	}
	reason := d.Reason
	if d.NoSpace {
		reason = diskFull
	}
	i.mu.Lock()
	i.ioReason = reason
	i.mu.Unlock()
}

// awaitMigration is called before a state is loaded; the channel gets how that ended.
func (i *instance) awaitMigration() <-chan string {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.migrated = make(chan string, 1)
	return i.migrated
}

func (i *instance) onMigration(e qmp.Event) {
	var d struct {
		Status string `json:"status"`
	}
	if e.Decode(&d) != nil || d.Status != "completed" && d.Status != "failed" {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.migrated != nil {
		i.migrated <- d.Status
		i.migrated = nil
	}
}

// onStop: a stop that we asked for is no news.
func (i *instance) onStop(at time.Time) {
	i.mu.Lock()
	i.stoppedAt = at
	reason, ours := i.ioReason, i.standing.Load()
	i.mu.Unlock()
	if ours {
		return
	}
	if reason == "" {
		reason = "QEMU stopped the guest"
		if l := i.log.Last(); l != "" {
			reason += ": " + l
		}
	}
	i.pausedBy(reason, at)
}

// pausedBy tells of a pause, once, and sees to its end where it can.
func (i *instance) pausedBy(reason string, at time.Time) {
	i.mu.Lock()
	i.ioReason = reason
	again := i.paused
	i.paused = true
	i.mu.Unlock()
	if again {
		return
	}
	i.emit(hypervisor.EventPaused, reason, at)
	if reason == diskFull {
		go i.resumeWhenRoom()
	}
}

// onResume: the first one is Start's own, and no news.
func (i *instance) onResume(at time.Time) {
	i.mu.Lock()
	was := i.paused
	i.paused, i.ioReason = false, ""
	i.standing.Store(false)
	i.resumedAt = at
	i.mu.Unlock()
	if was {
		i.emit(hypervisor.EventResumed, "", at)
	}
}

func (i *instance) emit(k hypervisor.EventKind, detail string, at time.Time) {
	i.queue.Put(hypervisor.Event{Kind: k, Detail: detail, At: at})
}
