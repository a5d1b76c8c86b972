// Program lint is banger's linter: a vet tool of analysers, each with the line that
// defends it. It runs as `go vet -vettool`, so results are cached per package and it
// costs seconds after the first time. golangci-lint has more linters, but pulls in
// some 400 modules and takes minutes to compile on two cores, on every fresh machine;
// this one takes well under one, and names exactly what we want.
//
// A finding is silenced by `//nolint:NAME // reason` on its line or on the line above.
// Without a reason that comment is a finding itself.
package main

import (
	"strings"

	"github.com/gostaticanalysis/nilerr"
	"github.com/polyfloyd/go-errorlint/errorlint"
	"github.com/timakin/bodyclose/passes/bodyclose"
	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/analysis/passes/nilness"
	"golang.org/x/tools/go/analysis/passes/reflectvaluecompare"
	"golang.org/x/tools/go/analysis/passes/sortslice"
	"golang.org/x/tools/go/analysis/passes/unusedwrite"
	"golang.org/x/tools/go/analysis/passes/waitgroup"
	"golang.org/x/tools/go/analysis/unitchecker"
	"honnef.co/go/tools/analysis/lint"
	"honnef.co/go/tools/simple"
	"honnef.co/go/tools/staticcheck"
	"honnef.co/go/tools/stylecheck"
)

// linters returns every analyser and why it is worth its time. `make lint` runs
// plain `go vet` besides.
func linters() []*analysis.Analyzer {
	var all []*analysis.Analyzer
	add := func(_ string, as ...*analysis.Analyzer) { all = append(all, as...) }

	add("SA*: about 90 certain bugs (lost results, impossible conditions, misused standard library)", plain(staticcheck.Analyzers)...)
	add("S*: the shorter standard way is the one that the reader knows", plain(simple.Analyzers)...)
	add("ST1005: errors are joined into sentences, so they start small and end without a stop", pick(stylecheck.Analyzers, "ST1005")...)
	add("ST1006 ST1016: one receiver name per type, and not `this`", pick(stylecheck.Analyzers, "ST1006", "ST1016")...)
	add("ST1008: an error is the last result, or it is overlooked", pick(stylecheck.Analyzers, "ST1008")...)
	add("ST1012: error variables are recognised by their name", pick(stylecheck.Analyzers, "ST1012")...)
	add("ST1017: no yoda conditions", pick(stylecheck.Analyzers, "ST1017")...)
	add("ST1019: one package imported twice is two names for one thing", pick(stylecheck.Analyzers, "ST1019")...)
	add("ST1023 is not here: a written type often tells more than a derived one")
	add("errcheck: an error that nobody looks at is lost data sooner or later", notInTests(errChecker()))
	add("errorlint: wrapped errors compared with == silently stop matching", errorlint.NewAnalyzer())
	add("nilerr: `if err != nil { return nil }` hides failures", nilerr.Analyzer)
	add("bodyclose: an unread body leaks the connection to the daemon", notInTests(bodyclose.Analyzer))
	add("nilness: a nil that is certainly followed", nilness.Analyzer)
	add("unusedwrite: a field set on a copy that nobody reads", unusedwrite.Analyzer)
	add("waitgroup: Add inside the goroutine races with Wait", waitgroup.Analyzer)
	add("sortslice and reflectvaluecompare: calls that compile and panic or lie", sortslice.Analyzer, reflectvaluecompare.Analyzer)
	add("nolint: silencing needs a reason that the next reader can check", nolintReason)
	add("noinit: nothing happens before main, nothing is registered behind the reader's back", noInit)
	add("globals: time, ids and state come in through a struct, or two tests disturb each other", noMutableGlobals)
	add("unused: dead code is read, tested and mended for nothing", unusedAnalyzer)
	return all
}

func plain(as []*lint.Analyzer) []*analysis.Analyzer {
	out := make([]*analysis.Analyzer, 0, len(as))
	for _, a := range as {
		if !a.Doc.NonDefault {
			out = append(out, a.Analyzer)
		}
	}
	return out
}

func pick(as []*lint.Analyzer, names ...string) []*analysis.Analyzer {
	var out []*analysis.Analyzer
	for _, a := range as {
		for _, name := range names {
			if a.Analyzer.Name == name {
				out = append(out, a.Analyzer)
			}
		}
	}
	if len(out) != len(names) {
		panic("no such linter among: " + strings.Join(names, " "))
	}
	return out
}

func main() { unitchecker.Main(silenceable(linters())...) }
