// Package archtest owns the test of who may import what, and of the other rules of
// the house that a compiler does not know. Nobody may import it.
package archtest
