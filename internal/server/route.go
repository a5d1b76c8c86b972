package server

import (
	"maps"
	"net/http"
	"reflect"

	"banger/api"
	"banger/internal/operation"
)

// route is a line of the table. Everything that the OpenAPI document says is taken from it.
type route struct {
	// pattern is "METHOD /path/{ref}".
	pattern string
	access  access
	doc     string
	query   []param
	action  action
}

// param is a query parameter. What is not in a route's list is refused.
type param struct {
	name string
	kind kind
	doc  string
	// required ones are refused when missing or empty.
	required bool
}

// kind is a parameter's type.
type kind string

// The kinds.
const (
	text   kind = "text"
	flag   kind = "flag"
	number kind = "number" // whole, 0 or more
	list   kind = "list"   // of text: ?x=1&x=2
	octal  kind = "octal"
)

// action is what a route does, with the types that it reads and answers.
type action struct {
	// request is the JSON body's type, nil where there is none; upload is the media type of another body.
	request reflect.Type
	upload  string
	// response is the JSON answer's type, nil for none; media its media type where it is not one JSON value.
	response reflect.Type
	media    string
	// status is that of a success, others what it may be instead.
	status int
	others []int
	// upgrade is the token of the stream that the connection may turn into.
	upgrade string
	// headers are set on the answer, each with its meaning.
	headers map[string]string
	serve   func(*call) error
}

// empty is the body of a call that has none.
type empty struct{}

// answer is an action that reads no body.
func answer[T any](status int, fn func(*call) (T, error)) action {
	return action{response: bodyType[T](), status: status, serve: func(c *call) error {
		v, err := fn(c)
		if err != nil {
			return err
		}
		return c.answer(v)
	}}
}

// accept is an action that reads a JSON body of at most limit bytes; an absent one is a zero B.
func accept[B, T any](status int, limit int64, fn func(*call, B) (T, error)) action {
	return action{request: bodyType[B](), response: bodyType[T](), status: status, serve: func(c *call) error {
		var body B
		if err := c.decode(&body, limit); err != nil {
			return err
		}
		v, err := fn(c, body)
		if err != nil {
			return err
		}
		return c.answer(v)
	}}
}

// begin is an action that starts an operation.
func begin(fn func(*call) (*operation.Operation, error)) action {
	return answer(http.StatusAccepted, func(c *call) (api.Operation, error) { return c.begun(fn(c)) })
}

// beginWith is begin with a JSON body.
func beginWith[B any](fn func(*call, B) (*operation.Operation, error)) action {
	return accept(http.StatusAccepted, smallBody, func(c *call, b B) (api.Operation, error) { return c.begun(fn(c, b)) })
}

func (c *call) begun(o *operation.Operation, err error) (api.Operation, error) {
	if err != nil {
		return api.Operation{}, err
	}
	c.operation = o.ID()
	return o.Snapshot(), nil
}

// stream is an action that answers with a JSON value of type T per line until it ends.
func stream[T any](fn func(*call, func(T) error) error) action {
	return action{response: bodyType[T](), media: "application/x-ndjson", status: http.StatusOK, serve: func(c *call) error {
		return c.lines(func(line func(any) error) error {
			return fn(c, func(v T) error { return line(v) })
		})
	}}
}

// raw is an action that sends or takes something else than JSON.
func raw(status int, media, upload string, fn func(*call) error) action {
	return action{media: media, upload: upload, status: status, serve: fn}
}

// or names other statuses of a success.
func (a action) or(statuses ...int) action {
	a.others = statuses
	return a
}

// with names a header of the answer.
func (a action) with(header, doc string) action {
	a.headers = maps.Clone(a.headers)
	if a.headers == nil {
		a.headers = map[string]string{}
	}
	a.headers[header] = doc
	return a
}

func bodyType[T any]() reflect.Type {
	t := reflect.TypeFor[T]()
	if t == reflect.TypeFor[empty]() {
		return nil
	}
	return t
}
