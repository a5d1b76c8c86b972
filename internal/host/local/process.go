package local

// processes implements host.Processes.
type processes struct{}
