package server

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"banger/api"
)

// Limits of JSON bodies.
const (
	smallBody = 1 << 20
	// execBody leaves room for 64 MiB of stdin_data, which base64 makes a third longer.
	execBody = 96 << 20
)

// decode reads the JSON body into v. Unknown fields are refused: a misspelt one must not be
// taken for a wish that was heard.
func (c *call) decode(v any, limit int64) error {
	dec := json.NewDecoder(http.MaxBytesReader(c.w, c.r.Body, limit))
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	if errors.Is(err, io.EOF) {
		return nil // no body
	}
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		err = errors.New("there is more than one JSON value")
	}
	var tooLarge *http.MaxBytesError
	var wrongType *json.UnmarshalTypeError
	switch {
	case c.ctx.Err() != nil:
		return c.ctx.Err()
	case errors.As(err, &tooLarge):
		return api.Errorf(api.CodeInvalid, "the request's body has more than %d bytes", limit)
	case errors.As(err, &wrongType):
		return api.Errorf(api.CodeInvalid, "field %q cannot be a %s", wrongType.Field, wrongType.Value)
	}
	return api.Errorf(api.CodeInvalid, "cannot read the request's body: %s", strings.TrimPrefix(err.Error(), "json: "))
}

// checkQuery parses the query, holds it against the route's list and keeps it in c.
func checkQuery(c *call, params []param) error {
	query, err := parseQuery(c.r.URL.RawQuery)
	if err != nil {
		return err
	}
	for name, values := range query {
		i := slices.IndexFunc(params, func(p param) bool { return p.name == name })
		if i < 0 {
			return api.Errorf(api.CodeInvalid, "unknown query parameter %q%s", name, known(params))
		}
		if err := params[i].check(values); err != nil {
			return err
		}
	}
	for _, p := range params {
		if p.required && query.Get(p.name) == "" {
			return api.Errorf(api.CodeInvalid, "query parameter %q is missing", p.name)
		}
	}
	c.query = query
	return nil
}

func (p param) check(values []string) error {
	if p.kind != list && len(values) > 1 {
		return api.Errorf(api.CodeInvalid, "query parameter %q is given %d times", p.name, len(values))
	}
	for _, v := range values {
		var err error
		switch p.kind {
		case flag:
			_, err = strconv.ParseBool(v)
		case number:
			_, err = strconv.ParseUint(v, 10, 63)
		case octal:
			_, err = strconv.ParseUint(v, 8, 12)
		}
		if err != nil {
			return api.Errorf(api.CodeInvalid, "query parameter %q cannot be %q: it is %s", p.name, v, p.kind.words())
		}
	}
	return nil
}

func (k kind) words() string {
	switch k {
	case flag:
		return "true or false"
	case number:
		return "a whole number of 0 or more"
	case octal:
		return "up to four octal digits"
	}
	return "text"
}

func known(params []param) string {
	if len(params) == 0 {
		return "; this call takes none"
	}
	names := make([]string, 0, len(params))
	for _, p := range params {
		names = append(names, p.name)
	}
	return "; there are: " + strings.Join(names, ", ")
}
