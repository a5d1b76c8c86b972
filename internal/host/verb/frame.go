package verb

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"banger/api"
)

// MaxFrame bounds a message: rules for 4096 guests take half of it.
const MaxFrame = 1 << 20

// maxFiles bounds the descriptors of a message; the kernel's own bound is 253 (SCM_MAX_FD).
const maxFiles = 64

// Request is a question; Reply its answer, of which one field is set. Descriptors go beside both.
type (
	Request struct {
		Verb Verb            `json:"verb"`
		Args json.RawMessage `json:"args,omitempty"`
	}
	Reply struct {
		Error  *api.Error      `json:"error,omitempty"`
		Result json.RawMessage `json:"result,omitempty"`
	}
)

// ErrTooLarge is for a message beyond MaxFrame, of which nothing was read.
var ErrTooLarge = errors.New("the message is too large")

// Send writes one message: four bytes of length, big endian, and JSON. The files ride on its first byte; they stay the caller's.
func Send(c *net.UnixConn, v any, files []*os.File) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(body) > MaxFrame || len(files) > maxFiles {
		return fmt.Errorf("%w: %d bytes, %d descriptors", ErrTooLarge, len(body), len(files))
	}
	frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			if fds[i], err = number(f); err != nil {
				return err
			}
		}
		rights = unix.UnixRights(fds...)
	}
	n, _, err := c.WriteMsgUnix(frame, rights, nil)
	runtime.KeepAlive(files)
	if err == nil && n < len(frame) {
		_, err = c.Write(frame[n:])
	}
	return err
}

// number is the file's descriptor. Fd would make it a blocking one, for all who share it.
func number(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err == nil {
		err = raw.Control(func(n uintptr) { fd = int(n) })
	}
	return fd, err
}

// Receive reads one message into v. The files are the caller's to close, also those that came with an error.
func Receive(c *net.UnixConn, v any) (files []*os.File, err error) {
	var head [4]byte
	rights := make([]byte, unix.CmsgSpace(maxFiles*4))
	n, oobn, flags, _, err := c.ReadMsgUnix(head[:], rights)
	if err != nil {
		return nil, err
	}
	files, err = filesOf(rights[:oobn])
	if err != nil {
		return files, err
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return files, fmt.Errorf("%w: more than %d descriptors", ErrTooLarge, maxFiles)
	}
	if n == 0 {
		return files, io.EOF
	}
	if _, err := io.ReadFull(c, head[n:]); err != nil {
		return files, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > MaxFrame {
		return files, fmt.Errorf("%w: %d bytes, %d are allowed", ErrTooLarge, size, MaxFrame)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c, body); err != nil {
		return files, err
	}
	return files, json.Unmarshal(body, v)
}

func filesOf(rights []byte) ([]*os.File, error) {
	if len(rights) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}
