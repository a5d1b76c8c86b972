# `make help` lists the targets. Everything is built into bin/; caches are in .cache/.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export GOTOOLCHAIN ?= local
# A program built with -race sleeps a second at its end (go.dev/doc/articles/race_detector); tests start thousands.
export GORACE ?= atexit_sleep_ms=0

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# Without C every program is static: the agent runs in guests that have no libc at all.
GOBUILD := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X banger/api.Version=$(VERSION)'
PROGRAMS := banger bangerd bangerd-root banger-agent git-remote-banger
# Slower than its worth in every run; `make test-long` runs exactly these.
LONG := ^TestLong

# Words for the shell as they are.
quoted = '$(subst ','\'',$(1))'

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## install what is missing, build, and run one command in a real virtual machine
	@scripts/packages demo
	@$(MAKE) build 1>&2
	@scripts/prepare bin/banger 1>&2
	@bin/banger vm run --rm --name demo -- cat /etc/hostname

.PHONY: build
build: ## build all programs into bin/
	@mkdir -p bin
	@for p in $(PROGRAMS); do $(GOBUILD) -o bin/$$p ./cmd/$$p; done

# -p 1: guests are emulated, and two packages at once would only take each other's time.
.PHONY: test
test: test-needs build ## run unit, scenario and machine tests (root; at most 20 minutes)
	@scripts/machine-state
	@go test -race -exec true $$(scripts/go-packages unit) >/dev/null # builds them all, and runs none
	BANGER_TEST_NO_SKIP=1 go test -p 1 -race -timeout 15m -skip '$(LONG)' $$(scripts/go-packages unit)
	BANGER_TEST_NO_SKIP=1 go test -count=1 -timeout 30m -skip '$(LONG)' ./test/machine

.PHONY: test-unit
test-unit: ## run what needs neither root nor a virtual machine
	go test -skip '$(LONG)' $$(scripts/go-packages unit)

.PHONY: test-long
test-long: test-needs build ## run the slower machine tests (root)
	@scripts/machine-state
	BANGER_TEST_NO_SKIP=1 go test -p 1 -count=1 -timeout 60m -run '$(LONG)' $$(go list ./...) | grep -v 'no test files\|no tests to run'

.PHONY: test-needs
test-needs:
	@scripts/packages test
	@[ "$$(id -u)" = 0 ] || { echo "make test makes users, bridges and network namespaces: run it as root (make test-unit needs no root)" >&2; exit 1; }

.PHONY: lint
lint: ## run go vet's checks and the other linters, see .ci/lint/main.go
	@mkdir -p bin
	@cd .ci/lint && CGO_ENABLED=0 go build -o ../../bin/banger-lint .
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -d $$(git ls-files '*.go'); exit 1; }
	go vet -vettool=$(CURDIR)/bin/banger-lint ./...

.PHONY: generate
generate: ## write the generated documents again
	go test -count=1 -run Descriptions ./internal/server -update
	go test -count=1 -run 'Document|Reference' ./internal/server ./internal/archtest ./internal/cli ./internal/host/verb -update

.PHONY: bench
bench: build ## measure banger beside podman and bare QEMU (root; ROWS=run,exec for some; BUSY=1 goes before all else that runs; WRITE=1 writes docs/benchmarks.md)
	@scripts/packages bench
	@[ "$$(id -u)" = 0 ] || { echo "make bench makes network and mount namespaces: run it as root" >&2; exit 1; }
	@scripts/machine-state
	@CGO_ENABLED=0 go build -o bin/bench ./test/bench
	@$(if $(BUSY),chrt -r 1) unshare --net --mount scripts/bench-namespace bin/bench $(if $(ROWS),-rows $(ROWS)) $(if $(WRITE),-write docs/benchmarks.md)

.PHONY: lab
lab: ## run the suites that need KVM or device-mapper, in an emulated host that has both (root; SUITES=names for some; FIRECRACKER_DIR=DIR carries firecracker and jailer; RUN='command' runs that instead)
	@scripts/packages test
	@$(MAKE) build
	@scripts/machine-state
ifdef RUN
	@scripts/lab $(if $(FIRECRACKER_DIR),-firecracker-dir $(FIRECRACKER_DIR)) -- sh -c $(call quoted,$(RUN))
else
	@scripts/lab suites $(if $(FIRECRACKER_DIR),-firecracker-dir $(FIRECRACKER_DIR)) $(SUITES)
endif

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (10s)
	@scripts/fuzz $(or $(FUZZTIME),10s)

.PHONY: clean
clean: ## remove bin/ and .cache/
	@scripts/machine-state --remove
	rm -rf bin .cache
