package api

import (
	"errors"
	"fmt"
	"net/http"
)

// Code is one of the closed set of reasons why banger refuses or fails.
type Code string

// The codes. Their HTTP status and whether a retry can help stand in codeTable
// and nowhere else.
const (
	CodeInvalid      Code = "invalid"            // the request makes no sense as it is
	CodeNotFound     Code = "not_found"          // no such VM, image, kernel, operation, file
	CodeExists       Code = "already_exists"     // the name or client id is taken by something else
	CodeConflict     Code = "conflict"           // not possible in the present state
	CodeBusy         Code = "busy"               // somebody else is at it; try again
	CodeNotReady     Code = "not_ready"          // the guest's agent has not answered (yet)
	CodeTimeout      Code = "timeout"            // it did not happen in the time allowed
	CodeCancelled    Code = "cancelled"          // the caller went away or asked to stop
	CodeUnsupported  Code = "unsupported"        // this host, hypervisor or image cannot do it
	CodeMissing      Code = "missing_dependency" // a program or right on the host is missing
	CodeExhausted    Code = "exhausted"          // no memory, disk, address or other resource left
	CodeDenied       Code = "permission_denied"  // the caller may not
	CodeUnreachable  Code = "unreachable"        // the daemon, or a port in the guest, does not answer
	CodeHostIdentity Code = "host_identity"      // the guest's ssh host key is not the pinned one
	CodeInternal     Code = "internal"           // a defect in banger; details are in the daemon's log
)

type codeFacts struct {
	status    int
	retryable bool
	meaning   string
}

var codeTable = map[Code]codeFacts{
	CodeInvalid:      {http.StatusBadRequest, false, "the request makes no sense as it is"},
	CodeNotFound:     {http.StatusNotFound, false, "no such VM, image, kernel, operation or file"},
	CodeExists:       {http.StatusConflict, false, "the name or client id is taken by something else"},
	CodeConflict:     {http.StatusConflict, false, "not possible in the present state"},
	CodeBusy:         {http.StatusConflict, true, "somebody else is at it"},
	CodeNotReady:     {http.StatusServiceUnavailable, true, "the guest's agent has not answered yet"},
	CodeTimeout:      {http.StatusGatewayTimeout, true, "it did not happen in the time allowed"},
	CodeCancelled:    {499, false, "the caller went away or asked to stop"},
	CodeUnsupported:  {http.StatusUnprocessableEntity, false, "this host, hypervisor or image cannot do it"},
	CodeMissing:      {http.StatusFailedDependency, false, "a program or right on the host is missing"},
	CodeExhausted:    {http.StatusInsufficientStorage, true, "no memory, disk, address or other resource left"},
	CodeDenied:       {http.StatusForbidden, false, "the caller may not"},
	CodeUnreachable:  {http.StatusBadGateway, true, "the daemon, or a port in the guest, does not answer"},
	CodeHostIdentity: {http.StatusConflict, false, "the guest's ssh host key is not the pinned one"},
	CodeInternal:     {http.StatusInternalServerError, false, "a defect in banger; details are in the daemon's log"},
}

// Codes returns every code with its meaning, for the generated documents.
func Codes() map[Code]string {
	out := make(map[Code]string, len(codeTable))
	for c, f := range codeTable {
		out[c] = f.meaning
	}
	return out
}

// Status is the HTTP status that an error of this code is sent with.
func (c Code) Status() int {
	if f, ok := codeTable[c]; ok {
		return f.status
	}
	return http.StatusInternalServerError
}

// Retryable reports whether the same request may succeed later, unchanged.
func (c Code) Retryable() bool { return codeTable[c].retryable }

// Error is the one error that crosses the wire, inside {"error": …}.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	// Hint is what to do about it: a command where one exists, else empty.
	Hint      string `json:"hint"`
	Retryable bool   `json:"retryable"`
	// OperationID names the operation whose log lines tell the rest; may be empty.
	OperationID string `json:"operation_id"`
	// Cause is kept on this side of the wire for the log and errors.Is.
	Cause error `json:"-"`
}

// ErrorBody is the JSON body of every answer that is not a success.
type ErrorBody struct {
	Error Error `json:"error"`
}

func (e *Error) Error() string { return e.Message }

func (e *Error) Unwrap() error { return e.Cause }

// WithHint returns a copy of e that tells what to do.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// Errorf makes an error of the given code. A %w operand becomes its cause.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Retryable: code.Retryable(), Cause: errors.Unwrap(err)}
}

// AsError finds the *Error in err's chain, with the full message of err; an
// error that carries none becomes CodeInternal. It returns nil for nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if !errors.As(err, &e) {
		return &Error{Code: CodeInternal, Message: err.Error(), Cause: err}
	}
	if err.Error() == e.Message {
		return e
	}
	c := *e
	c.Message, c.Cause = err.Error(), err
	return &c
}

// CodeOf is the code of the *Error in err's chain, CodeInternal where there is
// none, and empty for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	return AsError(err).Code
}
