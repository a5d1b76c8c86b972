package brief

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"banger/api"
	"banger/api/agentapi"
)

// fill sets every field to something: a field that a list forgets does not come back.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1700000000, 123456789)))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0))
	case reflect.String:
		v.SetString("text \x00é")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8, reflect.Uint32:
		v.SetUint(200)
	default:
		v.SetInt(-70000)
	}
}

func roundTrip[T any](t *testing.T, put func([]byte, T) []byte, get func([]byte) (T, error), full T) {
	t.Helper()
	var zero T
	for _, want := range []T{full, zero} {
		b := put(nil, want)
		got, err := get(b)
		if c, ok := any(&got).(*api.Control); ok && err == nil && c.Type == api.ControlExit {
			c.Type = any(want).(api.Control).Type
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
		for n := range b { // what is cut off is refused
			if _, err := get(b[:n]); api.CodeOf(err) != api.CodeInvalid {
				t.Errorf("%T: the first %d bytes of %d: %v", want, n, len(b), err)
			}
		}
		if _, err := get(append(bytes.Clone(b), 0)); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%T: with a byte more: %v", want, err)
		}
	}
}

func TestRoundTrips(t *testing.T) {
	var p agentapi.Personalise
	var h agentapi.Health
	var s api.ExecSpec
	for _, v := range []any{&p, &h, &s} {
		fill(reflect.ValueOf(v).Elem())
	}
	roundTrip(t, AppendPersonalise, Personalise, p)
	roundTrip(t, AppendHealth, Health, h)
	roundTrip(t, AppendExec, Exec, s)
	roundTrip(t, AppendExit, Exit, api.Control{Type: api.ControlExit, ExitCode: 137, Signal: "KILL", TimedOut: true, DurationMS: 1 << 40})
	empty := agentapi.Personalise{Entropy: []byte{}, AuthorizedKeys: []string{}, Network: &agentapi.Network{}}
	roundTrip(t, AppendPersonalise, Personalise, empty)
}

func FuzzMessages(f *testing.F) {
	f.Add(AppendPersonalise(nil, agentapi.Personalise{Hostname: "x", Network: &agentapi.Network{Resolvers: []string{"y"}}}))
	f.Add(AppendHealth(nil, agentapi.Health{Degraded: []string{"a"}}))
	f.Add(AppendExec(nil, api.ExecSpec{Argv: []string{"true"}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := Personalise(b); err == nil {
			again(t, AppendPersonalise, Personalise, p)
		}
		if h, err := Health(b); err == nil {
			again(t, AppendHealth, Health, h)
		}
		if s, err := Exec(b); err == nil {
			again(t, AppendExec, Exec, s)
		}
		if m, err := Exit(b); err == nil {
			again(t, AppendExit, Exit, m)
		}
	})
}

// again: what was read is written so that the same is read.
func again[T any](t *testing.T, put func([]byte, T) []byte, get func([]byte) (T, error), v T) {
	t.Helper()
	if got, err := get(put(nil, v)); err != nil || !reflect.DeepEqual(got, v) {
		t.Errorf("got %+v, %v, want %+v", got, err, v)
	}
}
