package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// Every test of test/machine runs in the laboratory, or it is said why not.
func TestEveryMachineTestIsChosen(t *testing.T) {
	files, err := filepath.Glob("../machine/*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	known := map[string]bool{}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(text), -1) {
			known[m[1]] = true
			if chosen, reason := slices.Contains(inLab(), m[1]), notInLab()[m[1]]; chosen == (reason != "") {
				t.Errorf("%s must be in one of choice.go's lists: inLab, or notInLab with a reason", m[1])
			}
		}
	}
	for _, name := range inLab() {
		if !known[name] {
			t.Errorf("test/machine has no %s", name)
		}
	}
	for name := range notInLab() {
		if !known[name] {
			t.Errorf("test/machine has no %s", name)
		}
	}
}
