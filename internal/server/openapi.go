package server

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"banger/api"
)

//go:generate go test . -run ^TestDescriptions$ -update
//go:generate go test . -run ^TestDocument$ -update

// Document is the OpenAPI 3.1 description of the route table and of the types that it
// reads and answers.
func Document() ([]byte, error) {
	// The actions are methods; none is called here.
	return document(new(Server).routes())
}

type object = map[string]any

func document(routes []route) ([]byte, error) {
	words, err := loadDescriptions()
	if err != nil {
		return nil, err
	}
	b := &schemas{words: words, done: object{}, requests: requestTypes(routes)}
	errorBody := b.of(typeOf[api.ErrorBody]())
	b.of(typeOf[api.Control]()) // of no route: it travels in frames
	paths := object{}
	for _, r := range routes {
		method, path, _ := strings.Cut(r.pattern, " ")
		item, ok := paths[path].(object)
		if !ok {
			item = object{}
			paths[path] = item
		}
		item[strings.ToLower(method)] = b.operation(r, method, path)
	}
	data, err := json.MarshalIndent(object{
		"openapi": "3.1.0",
		"info": object{
			"title": "banger", "version": "v1",
			"description": "The API of bangerd, on a unix socket that serves the daemon's own uid and root only. " +
				"Sizes are bytes, durations milliseconds, times RFC 3339 in UTC. A list is never null. Within /v1 fields are only ever added. " +
				"Unknown fields and unknown query parameters are refused. A {ref} of a VM is its id, a unique prefix of it of at least four characters, or its name.",
			"license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
		},
		"servers": []object{{"url": "/", "description": "http over the unix socket bangerd.sock"}},
		"paths":   paths,
		"components": object{
			"schemas": b.done,
			"responses": object{"Error": object{
				"description": "Any answer that is not a success.\n\n" + codeTable(),
				"content":     object{"application/json": object{"schema": errorBody}},
			}},
		},
	}, "", "  ")
	return append(data, '\n'), err
}

// codeTable is the one documented table of error codes.
func codeTable() string {
	var b strings.Builder
	b.WriteString("| code | status | retry may help | meaning |\n|---|---|---|---|\n")
	codes := api.Codes()
	for _, c := range slices.Sorted(maps.Keys(codes)) {
		retry := "no"
		if c.Retryable() {
			retry = "yes"
		}
		fmt.Fprintf(&b, "| %s | %d | %s | %s |\n", c, c.Status(), retry, codes[c])
	}
	return b.String()
}

// streamDocs says what each kind of stream carries.
var streamDocs = map[string]string{
	api.UpgradeRaw: "It carries the bytes of the TCP connection both ways; the end of one direction is a half-close.",
	api.UpgradeFrames: "It carries frames both ways: a byte of channel (1 stdin, 2 stdout, 3 stderr, 4 control), the length as " +
		"32 bits big-endian, at most 65536 bytes of payload. A control frame is a Control. The caller's first frame is the control `start`; " +
		"`resize`, `signal` and `eof` may follow; the last one from the daemon is `exit` or `error`. Hanging up ends the command. " +
		"Without these headers, or with `Accept: application/json`, the call waits for the command's end and answers its result.",
}

func (b *schemas) operation(r route, method, path string) object {
	op := object{
		"operationId": operationID(method, path),
		"summary":     r.doc,
		"responses":   b.responses(r.action),
	}
	var params []object
	for segment := range strings.SplitSeq(path, "/") {
		if name := strings.Trim(segment, "{}"); name != segment {
			params = append(params, object{"name": name, "in": "path", "required": true, "schema": object{"type": "string"}})
		}
	}
	for _, p := range r.query {
		params = append(params, object{
			"name": p.name, "in": "query", "required": p.required, "description": p.doc, "schema": p.kind.schema(),
		})
	}
	if params != nil {
		op["parameters"] = params
	}
	switch a := r.action; {
	case a.request != nil:
		op["requestBody"] = object{"content": object{"application/json": object{"schema": b.of(a.request)}}}
	case a.upload != "":
		op["requestBody"] = object{"required": true, "content": object{a.upload: object{}}}
	}
	if doc, ok := streamDocs[r.action.upgrade]; ok {
		op["description"] = "With the headers `Connection: Upgrade` and `Upgrade: " + r.action.upgrade +
			"` the connection becomes a stream (answer 101). " + doc
	}
	return op
}

func (b *schemas) responses(a action) object {
	out := object{"default": object{"$ref": "#/components/responses/Error"}}
	for _, status := range append([]int{a.status}, a.others...) {
		answer := object{"description": http.StatusText(status)}
		switch {
		case a.response != nil && a.media != "":
			answer["description"] = "one JSON value per line; an error ends the stream as a line {\"error\": …}"
			answer["content"] = object{a.media: object{"schema": b.of(a.response)}}
		case a.response != nil:
			answer["content"] = object{"application/json": object{"schema": b.of(a.response)}}
		case a.media != "":
			answer["content"] = object{a.media: object{}}
		}
		headers := object{}
		for name, doc := range a.headers {
			headers[name] = object{"description": doc, "schema": object{"type": "string"}}
		}
		if len(headers) > 0 {
			answer["headers"] = headers
		}
		out[strconv.Itoa(status)] = answer
	}
	if a.upgrade != "" {
		out["101"] = object{"description": "the connection is now a stream of kind " + a.upgrade}
	}
	return out
}

// operationID is "getVmsRefLogs" for GET /v1/vms/{ref}/logs.
func operationID(method, path string) string {
	id := strings.ToLower(method)
	for _, word := range strings.FieldsFunc(strings.TrimPrefix(path, "/v1"), func(r rune) bool { return strings.ContainsRune("/{}._", r) }) {
		id += strings.ToUpper(word[:1]) + word[1:]
	}
	return id
}

func (k kind) schema() object {
	switch k {
	case flag:
		return object{"type": "boolean"}
	case number:
		return object{"type": "integer", "format": "int64", "minimum": 0}
	case list:
		return object{"type": "array", "items": object{"type": "string"}}
	case octal:
		return object{"type": "string", "pattern": "^[0-7]{1,4}$"}
	}
	return object{"type": "string"}
}
