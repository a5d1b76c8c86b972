package fake

// networks implements host.Networks.
type networks struct{}
