package main

// inLab are the tests of test/machine that a lab host runs: each thing that a hypervisor or its disks do at least once.
func inLab() []string {
	return []string{
		"TestRun", "TestExec", "TestStopStartReset", "TestGuestEndsItself", // run, exec, stop, reboot
		"TestDaemonKilled", "TestHandles", "TestVMMDies", // kill -9, reconcile
		"TestDamagedTemplate", "TestSuspend", "TestPause", "TestFork", "TestForkRefused", // templates, suspend, fork
	}
}

// notInLab are all the others, each with its reason: everything of banger above hypervisor and disks is the same on any of
// them, and a guest in a lab host is emulated twice.
func notInLab() map[string]string {
	const (
		above  = "what it tests lies above hypervisors and disks; it runs under plain emulation"
		many   = "twenty machines or more, or a hundred operations: too long where guests are emulated twice"
		clock  = "it measures times, which emulation of emulation stretches"
		qemu   = "it tests QEMU's arguments, files or absence"
		points = "it starts a command once per point of an operation: too long here; TestDaemonKilled and TestHandles run"
		long   = "make test-long"
	)
	return map[string]string{
		"TestAPI": above, "TestDemo": "it builds images", "TestREADME": "it runs what stands in a file of the project", "TestImageSave": above,
		"TestIdleSuspend": clock, "TestIdleWakes": clock, "TestIdleWakesSSH": clock, "TestForkClock": clock, "TestPool": clock,
		"TestBridge": "the network is the host's; its packets are forged with a compiler that the lab host has not", "TestNone": above, "TestHelped": "every test here runs beside bangerd-root",
		"TestSession": above, "TestSessionsSystemd": above, "TestSessionsMany": many, "TestSessionFloods": many, "TestSessionTerminal": above,
		"TestSessionOnFullDisk": above, "TestFileSync": above, "TestFileSyncPool": above, "TestGitIdentity": above, "TestLoginsAreMended": above,
		"TestSessionsOfFork": above, "TestWorkspace": above, "TestUser": "it builds images; a user's daemon beside bangerd-root is what the whole suite runs on", "TestTakenDNSPort": above,
		"TestClones": many, "TestSuspendChain": many, "TestShortChains": many,
		"TestDaemonDiesInSuspend": points, "TestDaemonDiesInClone": points, "TestDaemonDiesInTemplate": points, "TestDaemonDiesInFork": points,
		"TestPowerCut": points, "TestReboot": above, "TestFreezeOnFullDisk": qemu, "TestDiscard": qemu, "TestCloneDriver": qemu,
		"TestSnapshot": many, "TestRunFromSnapshot": above, "TestSnapshotElsewhere": above, "TestSuspendedElsewhere": above,
		"TestSystemd": "its parts run and ssh are the suites debian-*", "TestNeverReady": clock, "TestIgnoresStop": clock, "TestInterrupted": clock,
		"TestRefused": above, "TestMissingQEMU": qemu, "TestVMM": qemu,
		"TestLongCycles": "it is the suite leaks-firecracker", "TestLongFigures": "it is the suites figures-*", "TestLongForkChain": long, "TestLongPowerCutInFork": long, "TestLongConsoleIsBounded": long, "TestLongFullDisk": long,
		"TestLongPodman": long, "TestLongMany": long, "TestLongPowerCutInStart": long, "TestLongDaemonDiesInSave": long,
		"TestLongSessionFloods": long, "TestLongPowerCutSnapshot": long, "TestLongDaemonDiesInSnapshot": long, "TestLongUserDebian": long,
	}
}
