package server

import (
	"net/http"

	"banger/api"
)

var (
	pathParam = param{"path", text, "absolute path in the guest", true}
	userParam = param{"user", text, "owner in the guest: name or uid, optionally :group; root if absent", false}
)

// routes is the whole HTTP API. The order is that of the documents.
func (s *Server) routes() []route {
	return []route{
		{"GET /v1/info", owner | early, "what this daemon is and what it can do on this host", nil, answer(200, s.info)},
		{"GET /v1/doctor", owner | early, "checks of the host, each with what mends it", nil, answer(200, s.doctor)},
		{"GET /v1/openapi.json", owner | early, "this document", nil, raw(200, "application/json", "", s.openAPI)},
		{"POST /v1/daemon/stop", owner | early, "end the daemon; its VMs go on running", nil, answer(http.StatusNoContent, s.stopDaemon)},
		{"POST /v1/host/shutdown", owner, "suspend or stop every VM, as configured for the host's shutdown", nil, begin(s.hostShutdown)},
		{"POST /v1/host/boot", owner, "start the VMs that are to start with the host", nil, begin(s.hostBoot)},
		{"GET /v1/events", owner, "what has happened and, with follow, happens", []param{
			{"after", number, "cursor of the last event seen; 0 for all that are kept", false},
			{"follow", flag, "go on until the caller hangs up", false},
		}, stream(s.events)},
		{"GET /v1/stats", owner, "what each running VM uses", nil, answer(200, s.allStats)},
		{"POST /v1/prune", owner, "remove stopped VMs, and images and kernels that nothing uses", []param{
			{"dry_run", flag, "only tell what would go", false},
		}, answer(200, s.prune)},

		{"GET /v1/vms", owner, "all VMs that pass every filter", []param{
			{"filter", list, "label=K, label=K=V or state=S; may be given several times", false},
		}, answer(200, s.listVMs)},
		{"POST /v1/vms", owner, "make a VM; idempotent by client_id", nil, accept(http.StatusCreated, smallBody, s.createVM).or(200, 202)},
		{"GET /v1/vms/{ref}", owner, "one VM", nil, answer(200, s.getVM)},
		{"PATCH /v1/vms/{ref}", owner, "change CPUs, memory and labels; grow disks", nil, accept(200, smallBody, s.updateVM)},
		{"DELETE /v1/vms/{ref}", owner, "remove a VM", []param{{"force", flag, "even if it runs or has snapshots, which go with it", false}}, begin(s.deleteVM)},
		{"POST /v1/vms/{ref}/start", owner, "start a VM; let a suspended one go on", nil, beginWith(s.startVM)},
		{"POST /v1/vms/{ref}/stop", owner, "stop a VM: asked first, then forced", nil, beginWith(s.stopVM)},
		{"POST /v1/vms/{ref}/restart", owner, "stop and start a VM", nil, beginWith(s.restartVM)},
		{"POST /v1/vms/{ref}/kill", owner, "power a VM off at once", nil, begin(s.killVM)},
		{"POST /v1/vms/{ref}/suspend", owner, "freeze a VM to disk and give its memory back", nil, begin(s.suspendVM)},
		{"POST /v1/vms/{ref}/pause", owner, "stop a VM's CPUs", nil, answer(200, s.pauseVM)},
		{"POST /v1/vms/{ref}/unpause", owner, "let a paused VM go on", nil, answer(200, s.unpauseVM)},
		{"POST /v1/vms/{ref}/fork", owner, "make machines that go on from where a running VM is", nil, accept(http.StatusAccepted, smallBody, s.forkVM)},
		{"POST /v1/vms/{ref}/reset", owner, "give a stopped VM a fresh root disk; its work disk stays", nil, beginWith(s.resetVM)},
		{"GET /v1/vms/{ref}/snapshots", owner, "the snapshots of a VM, oldest first", nil, answer(200, s.listSnapshotsOf)},
		{"POST /v1/vms/{ref}/snapshots", owner, "snapshot a running, paused or suspended VM", nil, beginWith(s.createSnapshot)},
		{"GET /v1/vms/{ref}/snapshots/{name}", owner, "one snapshot", nil, answer(200, s.getSnapshot)},
		{"POST /v1/vms/{ref}/snapshots/{name}/restore", owner, "put a VM back to a snapshot, and let it go on from there", nil, beginWith(s.restoreSnapshot)},
		{"DELETE /v1/vms/{ref}/snapshots/{name}", owner, "remove a snapshot", nil, answer(200, s.deleteSnapshot)},
		{"PUT /v1/vms/{ref}/workspaces", owner, "record a repository that was brought into the guest", nil, accept(200, smallBody, s.recordWorkspace)},
		{"POST /v1/vms/{ref}/signal", owner, "send a signal to the main command", nil, accept(http.StatusNoContent, smallBody, s.signalVM)},
		{"POST /v1/vms/{ref}/exec", owner, "run a command: live over an upgraded connection, or wait for its end", nil, s.execAction()},
		{"POST /v1/vms/{ref}/main", owner, "start the main command, which runs on without its caller", nil, accept(http.StatusCreated, execBody, s.startMain)},
		{"GET /v1/vms/{ref}/wait", owner, "wait until something holds", []param{
			{"for", text, "exit, ready, stopped or port:N; exit if absent", false},
			{"timeout_ms", number, "error timeout after so long; 0 or absent: never", false},
		}, answer(200, s.wait)},
		{"GET /v1/vms/{ref}/logs", owner, "output of the main command, or the console", []param{
			{"source", text, "main (if absent) or console", false},
			{"stream", text, "stdout or stderr of main; both if absent", false},
			{"offset", number, "first byte wanted", false},
			{"tail", number, "lines from the end; all if absent", false},
			{"follow", flag, "go on until the command, or the VM, has ended", false},
			{"timestamps", flag, "start each line with its time and a space", false},
		}, raw(200, "text/plain; charset=utf-8", "", s.logs).with(api.LogOffsetHeader, "offset of the first byte sent")},
		{"GET /v1/vms/{ref}/stats", owner, "what one VM uses", nil, answer(200, s.stats)},
		{"GET /v1/vms/{ref}/ports", owner, "what listens in the guest, and how to reach it", nil, answer(200, s.ports)},
		{"GET /v1/vms/{ref}/stat", owner, "describe a path in the guest", []param{pathParam}, answer(200, s.statFile)},
		{"GET /v1/vms/{ref}/files", owner, "read a file of the guest", []param{pathParam},
			raw(200, "application/octet-stream", "", s.getFile).with(api.FileModeHeader, "permission bits, octal")},
		{"PUT /v1/vms/{ref}/files", owner, "write a file of the guest, put in place by rename", []param{
			pathParam, userParam, {"mode", octal, "permission bits; 0644 if absent", false},
		}, raw(http.StatusNoContent, "", "application/octet-stream", s.putFile)},
		{"GET /v1/vms/{ref}/tree", owner, "read a directory of the guest as a tar stream", []param{pathParam},
			raw(200, "application/x-tar", "", s.getTree)},
		{"PUT /v1/vms/{ref}/tree", owner, "unpack a tar stream below a directory of the guest", []param{pathParam, userParam},
			raw(http.StatusNoContent, "", "application/x-tar", s.putTree)},
		{"GET /v1/vms/{ref}/dial", owner, "connect to a TCP port on the guest's loopback", []param{
			{"port", number, "1 to 65535", true},
		}, s.dialAction()},

		{"GET /v1/vms/{ref}/sessions", owner, "the sessions of a VM, oldest first", nil, answer(200, s.listSessionsOf)},
		{"POST /v1/vms/{ref}/sessions", owner, "start a session; one that cannot be started is answered in state failed", nil,
			accept(http.StatusCreated, execBody, s.startSession)},
		{"GET /v1/vms/{ref}/sessions/{session}", owner, "one session, by name or id", nil, answer(200, s.getSession)},
		{"DELETE /v1/vms/{ref}/sessions/{session}", owner, "remove a session that has ended, with its logs", nil, answer(200, s.deleteSession)},
		{"GET /v1/vms/{ref}/sessions/{session}/logs", owner, "what a session has written", []param{
			{"stream", text, "stdout (if absent) or stderr", false},
			{"offset", number, "first byte wanted; where that is gone, the first that is there", false},
			{"tail", number, "lines from the end; all if absent", false},
			{"follow", flag, "go on until the session has ended", false},
		}, raw(200, "text/plain; charset=utf-8", "", s.sessionLogs).with(api.LogOffsetHeader, "offset of the first byte sent")},
		{"POST /v1/vms/{ref}/sessions/{session}/attach", owner, "be the one who sees what a session writes, and types", sessionOffsets,
			frames(s.attachSession).with(api.StdoutOffsetHeader, "offset of the first byte of stdout that will be sent").
				with(api.StderrOffsetHeader, "offset of the first byte of stderr that will be sent").with(api.StdinOffsetHeader, stdinOffset)},
		{"POST /v1/vms/{ref}/sessions/{session}/send", owner, "write to a session's standard input: start, stdin, eof to end it, an empty stdin frame; then exit", sendKey,
			frames(s.sendSession).with(api.StdinOffsetHeader, stdinOffset)},
		{"POST /v1/vms/{ref}/sessions/{session}/stop", owner, "ask a session's command to end (TERM)", nil, answer(200, s.stopSession)},
		{"POST /v1/vms/{ref}/sessions/{session}/signal", owner, "send a signal to a session's process group; KILL is for all it has started", nil,
			accept(http.StatusNoContent, smallBody, s.signalSession)},
		{"GET /v1/vms/{ref}/sessions/{session}/wait", owner, "wait until a session has ended", []param{
			{"timeout_ms", number, "error timeout after so long; 0 or absent: never", false},
		}, answer(200, s.waitSession)},
		{"GET /v1/sessions", owner, "all sessions of all VMs", nil, answer(200, s.listSessions)},

		{"GET /v1/images", owner, "all images", nil, answer(200, s.listImages)},
		{"POST /v1/images/build", owner, "build an image", nil, beginWith(s.buildImage)},
		{"POST /v1/images/import", owner, "import an image from a file or directory of the host", nil, beginWith(s.importImage)},
		{"POST /v1/images/save", owner, "make an image of a running VM's root", nil, beginWith(s.saveImage)},
		{"GET /v1/images/{ref}", owner, "one image", nil, answer(200, s.getImage)},
		{"DELETE /v1/images/{ref}", owner, "remove an image that no VM uses", nil, answer(http.StatusNoContent, s.deleteImage)},
		{"GET /v1/kernels", owner, "all kernels", nil, answer(200, s.listKernels)},
		{"POST /v1/kernels/build", owner, "build a kernel", nil, beginWith(s.buildKernel)},
		{"POST /v1/kernels/import", owner, "import a kernel from files of the host", nil, beginWith(s.importKernel)},
		{"GET /v1/kernels/{ref}", owner, "one kernel", nil, answer(200, s.getKernel)},
		{"DELETE /v1/kernels/{ref}", owner, "remove a kernel that no VM uses", nil, answer(http.StatusNoContent, s.deleteKernel)},

		{"GET /v1/templates", owner, "all templates, discarded ones that are still in use too", nil, answer(200, s.listTemplates)},
		{"POST /v1/templates/build", owner, "build a template ahead", nil, beginWith(s.buildTemplate)},
		{"POST /v1/templates/prune", owner, "remove templates that no VM lies on", nil, answer(200, s.pruneTemplates)},
		{"DELETE /v1/templates/{ref}", owner, "remove a template; one in use goes with the last VM on it", nil, answer(200, s.deleteTemplate)},

		{"GET /v1/snapshots", owner, "all snapshots of all VMs, oldest first", nil, answer(200, s.listSnapshots)},

		{"GET /v1/operations", owner, "the last 1,000 operations, oldest first", nil, answer(200, s.listOperations)},
		{"GET /v1/operations/{id}", owner, "one operation", nil, answer(200, s.getOperation)},
		{"POST /v1/operations/{id}/cancel", owner, "ask an operation to stop and undo what it did", nil, answer(200, s.cancelOperation)},
		{"GET /v1/operations/{id}/watch", owner, "an operation at each change until it ends", nil, stream(s.watchOperation)},
	}
}
