//go:build !amd64

package qemu

// measureTSC knows nothing here: x86 guests on another CPU get an emulated counter.
func measureTSC() int64 { return 0 }
