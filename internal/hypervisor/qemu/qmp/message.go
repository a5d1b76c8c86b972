package qmp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// request is a command on the wire.
type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        string `json:"id"`
}

// message is anything that QEMU sends; which of the fields is there tells what it is.
type message struct {
	Greeting  json.RawMessage `json:"QMP"`
	Return    json.RawMessage `json:"return"`
	Error     *Error          `json:"error"`
	ID        json.RawMessage `json:"id"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

type kind string

const (
	kindGreeting kind = "a greeting"
	kindReturn   kind = "an answer"
	kindError    kind = "an error"
	kindEvent    kind = "an event"
	kindUnknown  kind = "nothing known"
)

// Error is QEMU's refusal of a command.
type Error struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
	// Command is what was refused; we set it.
	Command string `json:"-"`
}

func (e *Error) Error() string { return fmt.Sprintf("QEMU refused %s: %s", e.Command, e.Desc) }

// Event is something that QEMU says unasked.
type Event struct {
	Name string
	Data json.RawMessage
	At   time.Time
}

// Decode reads the event's data into v; an event without data leaves v as it is.
func (e Event) Decode(v any) error {
	if len(e.Data) == 0 {
		return nil
	}
	return json.Unmarshal(e.Data, v)
}

// readMessage reads one line.
func readMessage(in *bufio.Reader) (message, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return message{}, fmt.Errorf("a QMP message of more than %d bytes", maxLine)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return message{}, err
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			return parseMessage(line)
		}
		line = line[:0]
	}
}

func parseMessage(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, fmt.Errorf("cannot parse a QMP message: %w", err)
	}
	return m, nil
}

func (m *message) kind() kind {
	switch {
	case m.Event != "":
		return kindEvent
	case m.Error != nil:
		return kindError
	case m.Return != nil:
		return kindReturn
	case m.Greeting != nil:
		return kindGreeting
	}
	return kindUnknown
}

// id is ours if it is a string, else empty.
func (m *message) id() string {
	var s string
	if json.Unmarshal(m.ID, &s) != nil {
		return ""
	}
	return s
}

func (m *message) event() Event {
	return Event{Name: m.Event, Data: m.Data, At: time.Unix(m.Timestamp.Seconds, m.Timestamp.Microseconds*1000)}
}

func (m *message) result(command string, out any) error {
	if m.Error != nil {
		m.Error.Command = command
		return m.Error
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, out); err != nil {
		return fmt.Errorf("cannot read the answer to %s: %w", command, err)
	}
	return nil
}
