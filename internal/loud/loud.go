// Package loud leaves tests out, and says so: a test that did not run has proved nothing. It imports
// nothing of banger; tests and the conformance suites import it.
package loud

import (
	"os"
	"testing"
)

// Skip leaves a test out for want of something that a machine for tests ought to have; where
// BANGER_TEST_NO_SKIP is set (make test) the test fails instead. The words say what is missing.
func Skip(t testing.TB, format string, args ...any) {
	t.Helper()
	skip(t, "BANGER_TEST_NO_SKIP", format, args)
}

// SkipOutsideLab leaves a test out for want of a KVM, a device-mapper or a Firecracker, which no machine need
// have; in the laboratory (make lab), where all of them are, the test fails instead.
func SkipOutsideLab(t testing.TB, format string, args ...any) {
	t.Helper()
	skip(t, "LAB", format, args)
}

func skip(t testing.TB, forbidden, format string, args []any) {
	t.Helper()
	if os.Getenv(forbidden) != "" {
		t.Fatalf("must not be skipped: "+format, args...)
	}
	t.Skipf("SKIPPED, NOT TESTED: "+format, args...)
}
