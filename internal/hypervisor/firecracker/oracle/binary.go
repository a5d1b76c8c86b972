package oracle

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// file is what a program's file tells, without running it.
type file struct {
	// static: it needs no other file to be started, and so can be in a jail.
	static  bool
	seccomp seccomp
}

// readFile reads a program.
func readFile(path string) (file, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return file{}, err
	}
	f, err := elf.NewFile(bytes.NewReader(text))
	if err != nil {
		return file{}, fmt.Errorf("%s is no program for Linux: %w", path, err)
	}
	out := file{static: true, seccomp: filters(text)}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			out.static = false
		}
	}
	return out, nil
}

// seccomp is the seccomp programs in a file. Firecracker is built with those of resources/seccomp for its target where there are some,
// which is so for musl and release builds only; else its build.rs puts in programs that allow everything. So the kernel reports
// filters of any Firecracker, and only the programs themselves tell. They lie in the file as the kernel takes them, in an envelope
// (bitcode) whose format changes between versions and is not looked at.
type seccomp struct {
	// programs is how many there are, refusing how many of them refuse anything at all.
	programs, refusing int
}

// errAllowAll is for programs that are there and refuse nothing: that is sure. errUnknown is for a file in which none was found,
// which may be because they lie in it in another form.
var (
	errAllowAll = errors.New("its seccomp filters allow every system call")
	errUnknown  = errors.New("it cannot be seen whether it has seccomp filters")
)

// check is nil where each thread has a filter: one for the VMM, one for its API and one for the CPUs.
func (f seccomp) check() error {
	switch {
	case f.programs == 0:
		return errUnknown
	case f.refusing < f.programs:
		return errAllowAll
	}
	return nil
}

// The instructions of BPF as seccomp(2) has them: 16 bits of code, 8 and 8 of jumps, 32 of operand.
const (
	size = 8
	ret  = 0x06 // BPF_RET | BPF_K
	// longest is the kernel's BPF_MAXINSNS.
	longest = 4096

	retKillThread = 0x00000000
	retTrap       = 0x00030000
	retErrno      = 0x00050000
	actions       = 0xffff0000
)

// begin is what libseccomp begins a program with: load the architecture, and compare it. Between the two halves are the jumps.
var begin = []byte{0x20, 0, 0, 0, 4, 0, 0, 0, 0x15, 0}

// archX8664 is AUDIT_ARCH_X86_64.
const archX8664 = 0xc000003e

func filters(text []byte) seccomp {
	var f seccomp
	for {
		at := bytes.Index(text, begin)
		if at < 0 {
			return f
		}
		text = text[at:]
		if len(text) >= 2*size && binary.LittleEndian.Uint32(text[size+4:]) == archX8664 {
			f.programs++
			if refuses(text) {
				f.refusing++
			}
		}
		text = text[len(begin):]
	}
}

// refuses reads a program to its end, which is where it refuses other architectures: libseccomp puts that last.
func refuses(program []byte) bool {
	for n := 0; n < longest && len(program) >= size; n, program = n+1, program[size:] {
		if binary.LittleEndian.Uint16(program) != ret {
			continue
		}
		switch action := binary.LittleEndian.Uint32(program[4:]); action & actions {
		case retTrap, retErrno:
			return true
		case retKillThread:
			return false
		}
	}
	return false
}
