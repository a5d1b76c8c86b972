package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"time"

	"banger/api"
)

// answer sends v as JSON with the call's status; empty is sent as no content.
func (c *call) answer(v any) error {
	if _, none := v.(empty); none {
		if c.status == http.StatusOK {
			c.status = http.StatusNoContent
		}
		c.w.WriteHeader(c.status)
		return nil
	}
	data, err := encode(v)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(c.status)
	_, _ = c.w.Write(data) // whoever does not read any more needs no error
	return nil
}

// fail sends e, if nothing was sent before; else it breaks the connection, since a cut
// answer must not look like a whole one.
func (c *call) fail(e *api.Error) {
	if c.w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	data, err := encode(api.ErrorBody{Error: *e})
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(e.Code.Status())
	_, _ = c.w.Write(data)
}

// wireError is the error as the caller sees it. This is the only place that decides it.
func wireError(err error) *api.Error {
	var e *api.Error
	switch {
	case errors.As(err, &e):
		e = api.AsError(err)
	case errors.Is(err, context.Canceled):
		e = api.Errorf(api.CodeCancelled, "cancelled")
	case errors.Is(err, context.DeadlineExceeded):
		e = api.Errorf(api.CodeTimeout, "it took too long: %w", err)
	default:
		e = api.AsError(err).WithHint("banger daemon logs")
	}
	c := *e
	c.Retryable = c.Code.Retryable()
	return &c
}

// encode is v as one line of JSON, as the API promises it: no null lists or maps, times in UTC.
func encode(v any) ([]byte, error) {
	out := reflect.New(reflect.TypeOf(v)).Elem()
	tidy(out, reflect.ValueOf(v))
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // people read this too
	err := enc.Encode(out.Interface())
	return buf.Bytes(), err
}

// tidy copies src to dst, never sharing what it changes.
func tidy(dst, src reflect.Value) {
	if t, ok := src.Interface().(time.Time); ok {
		dst.Set(reflect.ValueOf(t.UTC()))
		return
	}
	switch src.Kind() {
	case reflect.Struct:
		for i := range src.NumField() {
			if src.Type().Field(i).IsExported() {
				tidy(dst.Field(i), src.Field(i))
			}
		}
	case reflect.Slice:
		if src.Type().Elem().Kind() == reflect.Uint8 {
			dst.Set(src)
			return
		}
		dst.Set(reflect.MakeSlice(src.Type(), src.Len(), src.Len()))
		for i := range src.Len() {
			tidy(dst.Index(i), src.Index(i))
		}
	case reflect.Map:
		dst.Set(src)
		if src.IsNil() {
			dst.Set(reflect.MakeMap(src.Type()))
		}
	case reflect.Pointer:
		if !src.IsNil() {
			dst.Set(reflect.New(src.Type().Elem()))
			tidy(dst.Elem(), src.Elem())
		}
	default:
		dst.Set(src)
	}
}

func parseQuery(raw string) (url.Values, error) {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "cannot read the query: %w", err)
	}
	return q, nil
}
