package machine

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger/api"
)

// TestAPI shows each thing that another engine would need, over the socket, on a real VM.
func TestAPI(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("ps") // starts the daemon

	create := api.VMCreate{Name: "x", ClientID: "engine-1", Start: true, Spec: api.VMSpec{Net: api.NetNone, Labels: map[string]string{"team": "blue"}}}
	var made api.VMCreated
	b.call(202, "POST", "/v1/vms", create, &made)
	b.sub("create is idempotent on the client's id", func(t *testing.T, b *box) {
		var again api.VMCreated
		text := ""
		b.call(200, "POST", "/v1/vms", create, &again)
		same(t, "id", again.VM.ID, made.VM.ID)
		other := create
		other.Spec.CPUs = 2
		b.call(http.StatusConflict, "POST", "/v1/vms", other, &text)
		code(t, text, api.CodeExists)
	})
	same(t, "operation", b.operation(made.Operation.ID).State, api.OperationDone)

	b.sub("an operation has steps", func(t *testing.T, b *box) {
		op := b.operation(made.Operation.ID)
		same(t, "result", op.Result, made.VM.ID)
		if len(op.Steps) == 0 {
			t.Error("no steps")
		}
		for _, s := range op.Steps {
			if s.Name == "" || s.EndedAt == nil {
				t.Errorf("step %+v", s)
			}
		}
	})
	b.sub("labels and filters", func(t *testing.T, b *box) {
		for filter, want := range map[string]int{"label=team": 1, "label=team=blue": 1, "label=team=red": 0, "state=running": 1, "state=stopped": 0} {
			var list []api.VM
			b.call(200, "GET", "/v1/vms?filter="+url.QueryEscape(filter), nil, &list)
			same(t, filter, len(list), want)
		}
		text := ""
		b.call(200, "GET", "/v1/vms?filter=label%3Dnone", nil, &text)
		same(t, "an empty list", strings.TrimSpace(text), "[]")
		b.call(400, "GET", "/v1/vms?filter=shape%3Dround", nil, &text)
		code(t, text, api.CodeInvalid)
	})
	b.sub("exec that waits", jsonExec)
	b.sub("exec streams", execStreams)
	b.sub("files", func(t *testing.T, b *box) {
		data := noise(300_000)
		b.call(204, "PUT", "/v1/vms/x/files?path=/root/f&mode=0751", data, nil)
		same(t, "mode in the guest", b.guest("x", "stat -c %a /root/f"), "751")
		text := ""
		header := b.call(200, "GET", "/v1/vms/x/files?path=/root/f", nil, &text)
		same(t, "mode", strings.TrimLeft(header.Get(api.FileModeHeader), "0"), "751")
		same(t, "bytes", text == string(data), true)
		b.call(404, "GET", "/v1/vms/x/files?path=/no/such", nil, &text)
		code(t, text, api.CodeNotFound)
	})
	b.sub("trees", func(t *testing.T, b *box) {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for _, h := range []tar.Header{
			{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o640, Size: 4},
		} {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte("tree")[:h.Size]); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		b.call(204, "PUT", "/v1/vms/x/tree?path=/srv", out.Bytes(), nil)
		same(t, "in the guest", b.guest("x", "cat /srv/d/f; stat -c %a /srv/d/f"), "tree640")
		text := ""
		b.call(200, "GET", "/v1/vms/x/tree?path=/srv/d", nil, &text)
		names := []string{}
		for r := tar.NewReader(strings.NewReader(text)); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, strings.TrimSuffix(h.Name, "/"))
		}
		same(t, "names", strings.Join(names, " "), "d d/f")

		// A link that leads out of the place, and a file through it.
		out.Reset()
		w = tar.NewWriter(&out)
		for _, h := range []tar.Header{
			{Name: "d/out", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, {Name: "d/out/evil", Typeflag: tar.TypeReg, Mode: 0o644},
			{Name: "../../etc/evil", Typeflag: tar.TypeReg, Mode: 0o644},
		} {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		status := b.try("PUT", "/v1/vms/x/tree?path=/srv", out.Bytes())
		same(t, "outside of the place", b.guest("x", "ls /etc/evil 2>/dev/null; true"), "")
		if status < 400 {
			t.Errorf("a hostile tree is taken: %d", status)
		}
	})
	b.sub("dialling a guest's port, with half-close", func(t *testing.T, b *box) {
		b.guest("x", "nc -ll -p 9000 -e sha256sum >/dev/null 2>&1 & sleep 0")
		b.must("wait", "--for", "port:9000", "--timeout", "3m", "x")
		s := b.upgrade("GET", "/v1/vms/x/dial?port=9000", "banger-raw")
		if _, err := s.conn.Write([]byte("half")); err != nil {
			t.Fatal(err)
		}
		if err := s.conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		// The sum is made only when our half has ended, and comes back over the other half.
		answer, err := io.ReadAll(s.r)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "answer", strings.TrimSpace(string(answer)), "a11ae06469c63740d7b0ecf802f282a0d46e94f31a654dfcd3c0dc6dc277f904  -")
	})
	b.sub("stats of one and of all", func(t *testing.T, b *box) {
		var one api.VMStats
		var all []api.VMStats
		b.call(200, "GET", "/v1/vms/x/stats", nil, &one)
		b.call(200, "GET", "/v1/stats", nil, &all)
		if one.CPUMS <= 0 || one.RSSBytes < 16<<20 || one.DiskReadBytes <= 0 || one.DiskUsedBytes <= 0 || one.GuestMemTotalBytes < 64<<20 {
			t.Errorf("%+v", one)
		}
		same(t, "how many", len(all), 1)
	})
	b.sub("info", func(t *testing.T, b *box) {
		var info api.Info
		b.call(200, "GET", "/v1/info", nil, &info)
		if info.Version == "" || info.Accel == "" || info.AccelReason == "" || info.CPUs == 0 || info.MemoryFreeBytes == 0 || info.DiskFreeBytes == 0 {
			t.Errorf("%+v", info)
		}
		same(t, "VMs running", info.VMsRunning, 1)
		if !slices.ContainsFunc(info.Images, func(i api.Image) bool { return i.Name == "minimal" }) {
			t.Errorf("images: %+v", info.Images)
		}
	})
	b.sub("signal, wait, and the record of the end", func(t *testing.T, b *box) {
		b.call(201, "POST", "/v1/vms/x/main", api.ExecSpec{Argv: []string{"sleep", "600"}}, nil)
		b.call(204, "POST", "/v1/vms/x/signal", api.VMSignal{Signal: "TERM"}, nil)
		var res api.WaitResult
		b.call(200, "GET", "/v1/vms/x/wait?for=exit", nil, &res)
		if res.Main == nil || res.Main.Signal != "TERM" || res.Main.ExitCode == nil || *res.Main.ExitCode != 143 {
			t.Errorf("%+v", res.Main)
		}
		text := ""
		b.call(504, "GET", "/v1/vms/x/wait?for=stopped&timeout_ms=200", nil, &text)
		code(t, text, api.CodeTimeout)
		b.call(200, "GET", "/v1/vms/x", nil, &text)
		if !strings.Contains(text, `"signal":"TERM"`) {
			t.Errorf("the record of the main command is gone: %s", text)
		}
	})
	b.sub("logs by offset", logOffsets)
	b.sub("events go on after kill -9", eventCursor)
	b.sub("an operation is cancelled and undone", func(t *testing.T, b *box) {
		var made api.VMCreated
		b.call(202, "POST", "/v1/vms", api.VMCreate{Name: "cut", Start: true, Spec: api.VMSpec{Net: api.NetNone}}, &made)
		b.call(200, "POST", "/v1/operations/"+made.Operation.ID+"/cancel", nil, nil)
		same(t, "state", b.operation(made.Operation.ID).State, api.OperationCancelled)
		text := ""
		b.call(404, "GET", "/v1/vms/cut", nil, &text)
		code(t, text, api.CodeNotFound)
	})
	b.sub("stop, kill, delete", func(t *testing.T, b *box) {
		var op api.Operation
		for _, c := range []struct{ method, path string }{{"POST", "/v1/vms/x/stop"}, {"POST", "/v1/vms/x/start"}, {"POST", "/v1/vms/x/kill"}, {"DELETE", "/v1/vms/x"}} {
			b.call(202, c.method, c.path, nil, &op)
			same(t, c.path, b.operation(op.ID).State, api.OperationDone)
		}
		b.checkGone(made.VM)
	})
}

func code(t *testing.T, text string, want api.Code) {
	t.Helper()
	var body api.ErrorBody
	decode(t, text, &body)
	if body.Error.Code != want || body.Error.Message == "" {
		t.Errorf("error %s, want code %s", text, want)
	}
}

func sh(line string) api.ExecSpec { return api.ExecSpec{Argv: []string{"sh", "-c", line}} }

// jsonExec: the same call, with an answer instead of a stream.
func jsonExec(t *testing.T, b *box) {
	run := func(spec api.ExecSpec) (res api.ExecResult) {
		b.call(200, "POST", "/v1/vms/x/exec", spec, &res)
		return res
	}
	r := run(sh("echo out; echo err >&2; exit 5"))
	same(t, "exit code", r.ExitCode, 5)
	same(t, "stdout", r.Stdout, "out\n")
	same(t, "stderr", r.Stderr, "err\n")

	r = run(sh("head -c 3000000 /dev/zero | tr '\\0' a; echo done >&2"))
	same(t, "what is kept of 3 MB", len(r.Stdout), 1<<20)
	same(t, "truncated", r.Truncated, true)
	same(t, "the command ran to its end", r.Stderr, "done\n")

	r = run(sh(`printf '\377\376'`))
	same(t, "not UTF-8", r.StdoutBase64, "//4=")

	spec := sh("echo before; sleep 600")
	spec.TimeoutMS = 1000
	r = run(spec)
	if r.ExitCode != 124 || !r.TimedOut || r.Stdout != "before\n" || r.DurationMS < 1000 {
		t.Errorf("time-out: %+v", r)
	}
	r = run(sh("kill -9 $$"))
	if r.ExitCode != 137 || r.Signal != "KILL" {
		t.Errorf("signal: %+v", r)
	}
	spec = api.ExecSpec{Argv: []string{"cat"}, Stdin: true, StdinData: []byte("in")}
	same(t, "stdin", run(spec).Stdout, "in")

	text := ""
	b.call(400, "POST", "/v1/vms/x/exec", api.ExecSpec{}, &text)
	code(t, text, api.CodeInvalid)
	b.call(400, "POST", "/v1/vms/x/exec", map[string]any{"argv": []string{"true"}, "colour": "red"}, &text)
	code(t, text, api.CodeInvalid)
}

// execStreams: what only a live stream can do.
func execStreams(t *testing.T, b *box) {
	b.sub("half-close", func(t *testing.T, b *box) {
		spec := api.ExecSpec{Argv: []string{"sh", "-c", "cat; echo end; sleep 1; echo later"}, Stdin: true}
		s := b.exec("x", spec)
		s.send(stdinChannel, []byte("line\n"))
		s.output("line")
		s.control(api.Control{Type: api.ControlEOF})
		c, out := s.end()
		same(t, "output after the end of stdin", out, "end\nlater\n")
		same(t, "exit code", c.ExitCode, 0)
	})
	b.sub("terminal and resize", func(t *testing.T, b *box) {
		s := b.exec("x", api.ExecSpec{Argv: []string{"sh"}, TTY: true, Stdin: true, Rows: 24, Cols: 80})
		s.send(stdinChannel, []byte("stty size\n"))
		s.output("24 80")
		s.control(api.Control{Type: api.ControlResize, Rows: 50, Cols: 132})
		s.send(stdinChannel, []byte("stty size\n"))
		s.output("50 132")
		s.send(stdinChannel, []byte("exit 9\n"))
		c, _ := s.end()
		same(t, "exit code", c.ExitCode, 9)
	})
	b.sub("signal", func(t *testing.T, b *box) {
		s := b.exec("x", sh("trap 'echo caught; exit 3' USR1; echo ready; while :; do sleep 0.1; done"))
		s.output("ready")
		s.control(api.Control{Type: api.ControlSignal, Signal: "USR1"})
		c, out := s.end()
		same(t, "output", out, "caught\n")
		same(t, "exit code", c.ExitCode, 3)
	})
	b.sub("a disconnect cancels", func(t *testing.T, b *box) {
		s := b.exec("x", sh("echo begun; exec sleep 7777"))
		s.output("begun")
		s.conn.Close()
		eventually(t, "the command has been ended", func() bool {
			return b.guest("x", "ps | grep 'sleep 7777' | grep -v grep || true") == ""
		})
	})
	b.sub("a frame of more than 64 KiB is an error", func(t *testing.T, b *box) {
		s := b.exec("x", api.ExecSpec{Argv: []string{"cat"}, Stdin: true})
		s.send(stdinChannel, make([]byte, 64<<10+1))
		if c, _ := s.end(); c.Type != api.ControlError || c.Error == nil || c.Error.Code != api.CodeInvalid {
			t.Errorf("%+v", c)
		}
	})
	b.sub("a program that is not there", func(t *testing.T, b *box) {
		c, _ := b.exec("x", api.ExecSpec{Argv: []string{"no-such"}}).end()
		if c.Type == api.ControlExit && c.ExitCode != 127 {
			t.Errorf("%+v", c)
		}
	})
}

// logOffsets: the log of a talkative command is rotated, and offsets stay true.
func logOffsets(t *testing.T, b *box) {
	b.call(201, "POST", "/v1/vms/x/main", sh("echo first; sleep 1; echo second >&2; echo third"), nil)
	b.call(200, "GET", "/v1/vms/x/wait?for=exit", nil, nil)
	text := ""
	b.call(200, "GET", "/v1/vms/x/logs", nil, &text)
	all := text
	if !strings.Contains(all, "first\n") || !strings.Contains(all, "second\n") || !strings.Contains(all, "third\n") {
		t.Errorf("logs: %q", all)
	}
	// A follower has the whole of it, and ends with the command.
	b.call(201, "POST", "/v1/vms/x/main", sh("echo one; sleep 1; echo two"), nil)
	b.call(200, "GET", "/v1/vms/x/logs?follow=true", nil, &text)
	same(t, "followed", text, "one\ntwo\n")
	b.call(201, "POST", "/v1/vms/x/main", sh("echo first; echo second >&2; echo third"), nil)
	b.call(200, "GET", "/v1/vms/x/wait?for=exit", nil, nil)
	b.call(200, "GET", "/v1/vms/x/logs", nil, &all)
	header := b.call(200, "GET", "/v1/vms/x/logs?offset=6", nil, &text)
	same(t, "from byte 6", text, all[6:])
	same(t, "header", header.Get(api.LogOffsetHeader), "6")
	b.call(200, "GET", "/v1/vms/x/logs?tail=1", nil, &text)
	same(t, "last line", text, all[strings.LastIndex(strings.TrimSuffix(all, "\n"), "\n")+1:])
	b.call(200, "GET", "/v1/vms/x/logs?stream=stderr", nil, &text)
	same(t, "stderr", text, "second\n")
	b.call(200, "GET", "/v1/vms/x/logs?timestamps=true", nil, &text)
	for line := range strings.Lines(text) {
		stamp, _, _ := strings.Cut(line, " ")
		if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil {
			t.Errorf("time of a line: %v", err)
		}
	}
	// 72 MiB: more than is kept, so the beginning goes, and what is left stands where it stood.
	const lines, width = 72 << 10, 1 << 10
	b.call(201, "POST", "/v1/vms/x/main", sh(fmt.Sprintf(
		`awk -v s="$(head -c 1015 /dev/zero | tr '\0' .)" 'BEGIN { for (i = 0; i < %d; i++) printf "%%08d%%s\n", i, s }'`, lines)), nil)
	b.call(200, "GET", "/v1/vms/x/wait?for=exit", nil, nil)
	header = b.call(200, "GET", "/v1/vms/x/logs?offset=0", nil, &text)
	first, err := strconv.Atoi(header.Get(api.LogOffsetHeader))
	if err != nil || first == 0 {
		t.Fatalf("the log was not rotated: first offset %d, %v", first, err)
	}
	same(t, "end of the log", first+len(text), lines*width)
	at := (lines - 5) * width
	b.call(200, "GET", fmt.Sprintf("/v1/vms/x/logs?offset=%d", at), nil, &text)
	same(t, "line at its offset after rotation", text[:8], fmt.Sprintf("%08d", lines-5))
}

// eventCursor: who has seen events up to a cursor misses none and sees none twice, whatever became of the daemon.
func eventCursor(t *testing.T, b *box) {
	read := func(after int64) (events []api.Event) {
		text := ""
		b.call(200, "GET", fmt.Sprintf("/v1/events?after=%d", after), nil, &text)
		for line := range strings.Lines(text) {
			var e api.Event
			decode(t, line, &e)
			events = append(events, e)
		}
		return events
	}
	before := read(0)
	if len(before) == 0 || before[0].Kind != "vm.created" {
		t.Fatalf("%+v", before)
	}
	last := before[len(before)-1].Cursor
	b.killDaemon()
	b.must("set", "x", "--label", "after=kill")
	b.must("create", "--name", "second", "--net", "none")
	after := read(last)
	var kinds []string
	for i, e := range after {
		kinds = append(kinds, e.Kind)
		if e.Cursor <= last || i > 0 && e.Cursor <= after[i-1].Cursor {
			t.Errorf("cursor %d after %d", e.Cursor, last)
		}
	}
	if !slices.Contains(kinds, "vm.updated") || !slices.Contains(kinds, "vm.created") {
		t.Errorf("events after the cursor: %v", kinds)
	}
	// A follower gets what happens while it looks.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://banger/v1/events?follow=true&after=%d", after[len(after)-1].Cursor), nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := b.http().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b.must("rm", "second")
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		var e api.Event
		decode(t, lines.Text(), &e)
		if e.Kind == "vm.deleted" && e.Name == "second" {
			return
		}
	}
	t.Error("the follower was not told of the end of a VM")
}
