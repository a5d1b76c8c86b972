package local

// networks implements host.Networks.
type networks struct{}
