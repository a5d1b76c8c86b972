package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/api"
)

// patience bounds what would otherwise hang a failing test.
const patience = 20 * time.Second

// serve opens a server with the routes given on a real socket.
func serve(t *testing.T, routes ...route) (s *Server, socket string) {
	t.Helper()
	return serveAs(t, os.Geteuid(), routes...)
}

// serveAs takes the daemon to be of that uid.
func serveAs(t *testing.T, uid int, routes ...route) (s *Server, socket string) {
	t.Helper()
	s = &Server{Services: Services{Log: slog.New(slog.DiscardHandler), UID: uid}, mux: http.NewServeMux(), ready: make(chan struct{})}
	s.open(routes)
	s.Ready()
	return s, listen(t, s)
}

func listen(t *testing.T, s *Server) string {
	t.Helper()
	// Not t.TempDir(): its name may be longer than a socket's may be.
	dir, err := os.MkdirTemp("", "bs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return path
}

func httpClient(socket string) *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
}

// send does one request and returns the status and the body.
func send(t *testing.T, socket, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://x"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := httpClient(socket).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// refused sends and wants an error of this code whose message holds every word.
func refused(t *testing.T, socket, method, path, body string, code api.Code, words ...string) {
	t.Helper()
	status, text := send(t, socket, method, path, body)
	var e api.ErrorBody
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		t.Fatalf("%s %s: %q is no error: %v", method, path, text, err)
	}
	if e.Error.Code != code || status != code.Status() || e.Error.Retryable != code.Retryable() {
		t.Errorf("%s %s %s: %d %+v, want %s", method, path, body, status, e.Error, code)
	}
	for _, w := range words {
		if !strings.Contains(e.Error.Message, w) {
			t.Errorf("%s %s %s: %q does not say %q", method, path, body, e.Error.Message, w)
		}
	}
}

type thing struct {
	Name  string            `json:"name"`
	Count int               `json:"count"`
	List  []string          `json:"list"`
	Map   map[string]string `json:"map"`
	At    time.Time         `json:"at"`
	Sub   *thing            `json:"sub"`
}

func TestDecode(t *testing.T) {
	_, socket := serve(t, route{"POST /thing", owner, "", nil,
		accept(http.StatusCreated, 100, func(_ *call, in thing) (thing, error) { return in, nil })})
	for body, words := range map[string][]string{
		`{"nmae":"x"}`:     {"unknown field", "nmae"},
		`{"count":"many"}`: {"count", "string"},
		`{"name":`:         {"body"},
		`{} {}`:            {"more than one"},
		`{"name":"` + strings.Repeat("x", 200) + `"}`: {"more than 100 bytes"},
	} {
		refused(t, socket, "POST", "/thing", body, api.CodeInvalid, words...)
	}
	if status, text := send(t, socket, "POST", "/thing", ""); status != 201 || !strings.Contains(text, `"name":""`) {
		t.Errorf("no body: %d %s", status, text)
	}
}

func TestEncode(t *testing.T) {
	zone := time.FixedZone("", 2*3600)
	data, err := encode([]thing{{Name: "a", At: time.Date(2026, 1, 2, 3, 4, 5, 0, zone), Sub: &thing{}}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `[{"name":"a","count":0,"list":[],"map":{},"at":"2026-01-02T01:04:05Z","sub":` +
		`{"name":"","count":0,"list":[],"map":{},"at":"0001-01-01T00:00:00Z","sub":null}}]` + "\n"
	if string(data) != want {
		t.Errorf("got  %s\nwant %s", data, want)
	}
	if data, err = encode([]api.VM(nil)); err != nil || string(data) != "[]\n" {
		t.Errorf("an empty list is %q, %v", data, err)
	}
}

func TestQuery(t *testing.T) {
	_, socket := serve(t, route{"GET /q/{ref}", owner, "", []param{
		{"on", flag, "", false}, {"n", number, "", false}, {"mode", octal, "", false}, {"many", list, "", false}, {"must", text, "", true},
	}, answer(200, func(c *call) ([]any, error) {
		return []any{c.ref(), c.flag("on"), c.number("n", -1), c.query["many"]}, nil
	})})
	for query, words := range map[string][]string{
		"must=1&no=1":                  {"unknown", `"no"`, "must"},
		"":                             {"must", "missing"},
		"must=1&on=perhaps":            {"on", "perhaps", "true or false"},
		"must=1&n=-1":                  {"n", "-1"},
		"must=1&mode=0999":             {"mode", "octal"},
		"must=1&must=2":                {"must", "2 times"},
		"must=1&n=9999999999999999999": {"n"},
	} {
		refused(t, socket, "GET", "/q/x?"+query, "", api.CodeInvalid, words...)
	}
	status, text := send(t, socket, "GET", "/q/a%2Fb?must=1&on=true&n=7&many=x&many=y", "")
	if want := `["a/b",true,7,["x","y"]]` + "\n"; status != 200 || text != want {
		t.Errorf("%d %s, want %s", status, text, want)
	}
	refused(t, socket, "PUT", "/q/x", "", api.CodeNotFound, "PUT /q/x")
	refused(t, socket, "GET", "/nowhere", "", api.CodeNotFound)
}

func TestErrors(t *testing.T) {
	var err error
	_, socket := serve(t, route{"GET /fail", owner, "", nil, answer(200, func(*call) (empty, error) { return empty{}, err })})
	for _, c := range []struct {
		err  error
		code api.Code
	}{
		{errors.New("disk on fire"), api.CodeInternal},
		{context.DeadlineExceeded, api.CodeTimeout},
		{context.Canceled, api.CodeCancelled},
		{errors.Join(errors.New("a"), api.Errorf(api.CodeBusy, "b")), api.CodeBusy},
	} {
		err = c.err
		refused(t, socket, "GET", "/fail", "", c.code)
	}
}

// TestLines: each line comes when it is made, and a late error is the last line.
func TestLines(t *testing.T) {
	step := make(chan error)
	_, socket := serve(t, route{"GET /s", owner, "", nil, stream(func(_ *call, send func(thing) error) error {
		for err := range step {
			if err != nil {
				return err
			}
			if err := send(thing{Name: "line"}); err != nil {
				return err
			}
		}
		return nil
	})})
	go func() { step <- nil }()
	resp, err := httpClient(socket).Get("http://x/s")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for range 3 {
		var got thing
		if err := dec.Decode(&got); err != nil || got.Name != "line" {
			t.Fatalf("%+v, %v", got, err)
		}
		select {
		case step <- nil: // only now is the next one made
		case <-time.After(patience):
			t.Fatal("the stream stands still")
		}
	}
	if err := dec.Decode(new(thing)); err != nil {
		t.Fatal(err)
	}
	step <- api.Errorf(api.CodeExhausted, "no more")
	var last api.ErrorBody
	if err := dec.Decode(&last); err != nil || last.Error.Code != api.CodeExhausted {
		t.Errorf("%+v, %v", last, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		t.Errorf("after the error came %v", err)
	}
}

func TestStreamThatFailsAtOnceIsARefusal(t *testing.T) {
	_, socket := serve(t, route{"GET /s", owner, "", nil, stream(func(*call, func(thing) error) error {
		return api.Errorf(api.CodeNotFound, "nothing")
	})})
	refused(t, socket, "GET", "/s", "", api.CodeNotFound, "nothing")
}

// TestCutAnswer: bytes that end early must not look like all of them.
func TestCutAnswer(t *testing.T) {
	_, socket := serve(t, route{"GET /bytes", owner, "", nil, raw(200, "text/plain", "", func(c *call) error {
		return c.copyOut("text/plain", io.NopCloser(io.MultiReader(strings.NewReader("half"), failing{})))
	})})
	resp, err := httpClient(socket).Get("http://x/bytes")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("a cut answer was read as %q without an error", text)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the guest has gone") }

// TestHangUp: a caller that goes away cancels what it asked for.
func TestHangUp(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan error, 1)
	_, socket := serve(t, route{"POST /long", owner, "", nil, accept(200, smallBody, func(c *call, _ thing) (empty, error) {
		close(begun)
		<-c.ctx.Done()
		ended <- c.ctx.Err()
		return empty{}, c.ctx.Err()
	})})
	ctx, hangUp := context.WithCancel(t.Context())
	go func() { <-begun; hangUp() }()
	req, err := http.NewRequestWithContext(ctx, "POST", "http://x/long", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := httpClient(socket).Do(req); err == nil {
		t.Error("answered")
	}
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("the request goes on without its caller")
	}
}

// TestUpgrade: bytes sent along with the request are not lost, and each direction ends alone.
func TestUpgrade(t *testing.T) {
	var s *Server
	action := action{upgrade: api.UpgradeRaw, serve: func(c *call) error {
		return s.upgrade(c, api.UpgradeRaw, func(conn *upgraded) error {
			text, err := io.ReadAll(conn) // until the caller's half-close
			if err != nil {
				return err
			}
			_, err = io.WriteString(conn, "got "+string(text))
			return err
		})
	}}
	s, socket := serve(t, route{"GET /up", owner, "", nil, action})
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET /up HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: banger-raw\r\n\r\nearly "); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp, err)
	}
	if _, err := io.WriteString(conn, "late"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(r); err != nil || string(text) != "got early late" {
		t.Errorf("%q, %v", text, err)
	}
}

// TestShutdownEndsStreams: followers and upgraded connections do not hold up the end.
func TestShutdownEndsStreams(t *testing.T) {
	begun := make(chan struct{}, 2)
	var s *Server
	s, socket := serve(t,
		route{"GET /follow", owner, "", nil, stream(func(c *call, send func(thing) error) error {
			if err := send(thing{}); err != nil {
				return err
			}
			begun <- struct{}{}
			<-c.ctx.Done()
			return context.Cause(c.ctx)
		})},
		route{"GET /up", owner, "", nil, action{serve: func(c *call) error {
			return s.upgrade(c, api.UpgradeRaw, func(*upgraded) error {
				begun <- struct{}{}
				<-c.ctx.Done()
				return nil
			})
		}}})
	last := make(chan string, 1)
	go func() {
		_, text := send(t, socket, "GET", "/follow", "")
		last <- text
	}()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /up HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-begun
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if text := <-last; !strings.Contains(text, "the daemon is stopping") {
		t.Errorf("the follower was told %q", text)
	}
}

func TestEarlyRoutes(t *testing.T) {
	s := &Server{Services: Services{Log: slog.New(slog.DiscardHandler), UID: os.Geteuid()}, mux: http.NewServeMux(), ready: make(chan struct{})}
	ok := answer(200, func(*call) ([]int, error) { return nil, nil })
	s.open([]route{{"GET /early", owner | early, "", nil, ok}, {"GET /late", owner, "", nil, ok}})
	socket := listen(t, s)
	if status, _ := send(t, socket, "GET", "/early", ""); status != 200 {
		t.Errorf("early: %d", status)
	}
	late := make(chan int, 1)
	go func() { status, _ := send(t, socket, "GET", "/late", ""); late <- status }()
	if status, _ := send(t, socket, "GET", "/early", ""); status != 200 {
		t.Errorf("early: %d", status)
	}
	select {
	case <-late:
		t.Error("a late route was answered before the daemon knows its machines")
	default:
	}
	s.Ready()
	if status := <-late; status != 200 {
		t.Errorf("late: %d", status)
	}
}

// TestEveryRouteIsGuarded: no route is open to anybody but the owner.
func TestEveryRouteIsGuarded(t *testing.T) {
	for _, r := range new(Server).routes() {
		if r.access&owner == 0 {
			t.Errorf("%s lets nobody in", r.pattern)
		}
		if r.doc == "" || r.action.serve == nil {
			t.Errorf("%s is unfinished", r.pattern)
		}
	}
	_, socket := serve(t, route{"GET /open", early, "", nil, answer(200, func(*call) ([]int, error) { return nil, nil })})
	refused(t, socket, "GET", "/open", "", api.CodeDenied)
}
