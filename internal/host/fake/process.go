package fake

// processes implements host.Processes.
type processes struct{}
