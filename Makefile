# Everything that people and CI run. `make help` lists it.

SHELL := /bin/sh
.DEFAULT_GOAL := help

VERSION ?= $(shell cat VERSION)
TELEGRAF_VERSION := 1.37.2

# Tests wait more than they compute, so many run at a time. The end-to-end ones run bin/telegraf, which the race detector
# does not see; `make race-agent` runs them with one that it does.
PARALLEL = -parallel 8
E2E = github.com/edgetide/telegraf-victorialogs/internal/e2e
UNIT = $$($(GO) list ./... | grep -v '^$(E2E)$$')

# Which of Telegraf's own plugins are in bin/telegraf. Add to them with, for example,
# make build TELEGRAF_TAGS="inputs.modbus outputs.kafka"
TELEGRAF_TAGS ?=
EDGE_TAGS := $(shell cat telegraf.tags)

# All commands of ours that are released; the quickstart is for a clone.
COMMANDS := $(filter-out quickstart,$(notdir $(wildcard cmd/*)))
COMMAND_LDFLAGS = -s -w -X main.version=$(VERSION)

GO ?= go
LINT_CACHE = GOLANGCI_LINT_CACHE=$(CURDIR)/.build/lint
LINT = $(LINT_CACHE) $(GO) tool -modfile=tools/go.mod golangci-lint
DURATION ?=
BUILD_FLAGS ?=

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: bin/telegraf $(COMMANDS:%=bin/%) bin/quickstart ## Build bin/telegraf, with our plugins, and the other commands.

# Telegraf's command line can only be built inside Telegraf's module, and its internal packages cannot be imported from
# outside. So its sources are copied out of the module cache, one file that imports our plugins is added, and the copy
# takes the module's place in a go.mod of its own. Our go.sum knows the sums of our dependencies, Telegraf's those of
# every plugin that a tag may ask for.
TELEGRAF_SOURCE := .build/telegraf-$(TELEGRAF_VERSION)

$(TELEGRAF_SOURCE)/go.mod:
	$(GO) mod download github.com/influxdata/telegraf
	rm -rf $(TELEGRAF_SOURCE) $(TELEGRAF_SOURCE).part
	mkdir -p .build
	cp -R "$$($(GO) list -m -f '{{.Dir}}' github.com/influxdata/telegraf)" $(TELEGRAF_SOURCE).part
	chmod -R u+w $(TELEGRAF_SOURCE).part
	printf 'package all\n\nimport _ "github.com/edgetide/telegraf-victorialogs/plugins" // register our plugins\n' \
		> $(TELEGRAF_SOURCE).part/plugins/inputs/all/victorialogs.go
	mv $(TELEGRAF_SOURCE).part $(TELEGRAF_SOURCE)
	touch $@

.build/go.mod: go.mod go.sum $(TELEGRAF_SOURCE)/go.mod
	cp go.mod $@
	$(GO) mod edit -replace github.com/influxdata/telegraf=./$(TELEGRAF_SOURCE) $@
	sort -u go.sum $(TELEGRAF_SOURCE)/go.sum > .build/go.sum

# The linker's Branch and Commit are all that Telegraf prints beside its version.
TELEGRAF_LDFLAGS = -s -w \
	-X github.com/influxdata/telegraf/internal.Version=$(TELEGRAF_VERSION) \
	-X github.com/influxdata/telegraf/internal.Branch=telegraf-victorialogs \
	-X github.com/influxdata/telegraf/internal.Commit=$(VERSION)

.PHONY: bin/telegraf
bin/telegraf: .build/go.mod
	@echo "building $@ with Telegraf $(TELEGRAF_VERSION), our plugins and those of telegraf.tags $(TELEGRAF_TAGS)"
	@$(GO) build $(BUILD_FLAGS) -modfile=.build/go.mod -mod=mod -trimpath -o $@ \
		-tags "custom $(EDGE_TAGS) $(TELEGRAF_TAGS)" -ldflags "$(TELEGRAF_LDFLAGS)" \
		github.com/influxdata/telegraf/cmd/telegraf

.PHONY: $(COMMANDS:%=bin/%) bin/quickstart
$(COMMANDS:%=bin/%) bin/quickstart:
	$(GO) build $(BUILD_FLAGS) -trimpath -ldflags "$(COMMAND_LDFLAGS)" -o $@ ./cmd/$(@F)

# A Telegraf that is not ours, for the tests of bin/telegraf-execd and to compare with: the module as it is published, with the
# same of its own plugins as bin/telegraf.
.build/stock.mod: go.mod go.sum
	mkdir -p .build
	cp go.mod $@
	sort -u go.sum "$$($(GO) list -m -f '{{.Dir}}' github.com/influxdata/telegraf)/go.sum" > .build/stock.sum

.build/telegraf-stock: .build/stock.mod telegraf.tags
	$(GO) build -modfile=.build/stock.mod -mod=mod -trimpath -o $@ \
		-tags "custom $(EDGE_TAGS) $(TELEGRAF_TAGS)" -ldflags "$(TELEGRAF_LDFLAGS)" \
		github.com/influxdata/telegraf/cmd/telegraf

.PHONY: run
run: build ## The main job, to look at: MQTT and hardware into VictoriaLogs. DURATION=20s ends by itself.
	bin/quickstart $(if $(DURATION),-duration $(DURATION))

.PHONY: test
test: bin/telegraf bin/telegraf-check bin/telegraf-execd bin/telegraf-tap bin/dlq .build/telegraf-stock ## Run all tests; those of MQTT sessions with both versions of the protocol.
	$(GO) test $(PARALLEL) ./...
	$(GO) test -C tools ./...
	MQTT_PROTOCOL=5 $(GO) test $(PARALLEL) -run Session ./inputs/mqtt_hardware

.PHONY: race
race: bin/telegraf bin/telegraf-check bin/telegraf-execd bin/telegraf-tap bin/dlq .build/telegraf-stock ## Run all tests but the end-to-end ones under the race detector.
	$(GO) test -race $(PARALLEL) $(UNIT)

.PHONY: race-agent
race-agent: bin/telegraf-check bin/telegraf-tap bin/dlq ## Run the end-to-end tests with a bin/telegraf that has the race detector in it.
	$(MAKE) bin/telegraf BUILD_FLAGS=-race
	$(GO) test -count=1 $(PARALLEL) $(E2E)
	$(MAKE) bin/telegraf

SEED ?=

.PHONY: soak
soak: bin/telegraf bin/dlq ## Random faults under load for DURATION (10m), and the long forms of other tests. SEED=… repeats a run.
	SOAK=$(or $(DURATION),10m) SEED=$(SEED) $(GO) test -count=1 -timeout 0 -v \
		-run '^(TestSoak|TestLongOutage|TestManyTopics|TestKill|TestServerEnds)$$' $(E2E)

.PHONY: generate
generate: ## Make generated code anew; needs protoc.
	$(GO) generate ./...

.PHONY: fmt
fmt: ## Format the code.
	$(LINT) fmt

.PHONY: lint
lint: ## Lint the code.
	$(LINT) run
	cd tools && $(LINT_CACHE) $(GO) tool golangci-lint run --config ../.golangci.yml ./...

FUZZTIME ?= 30s

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME.
	@set -e; for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

BENCH ?=

.PHONY: bench
bench: bin/telegraf .build/telegraf-stock ## Measure beside stock Telegraf and write docs/benchmarks.md (25 minutes). BENCH=-short tries it.
	$(GO) run ./bench/sidebyside $(BENCH)

.PHONY: bench-micro
bench-micro: bin/telegraf bin/telegraf-execd .build/telegraf-stock ## Run the micro-benchmarks beside the code.
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: docs
docs: ## Write docs/configuration.md, from the plugins' samples.
	mkdir -p .build
	$(GO) run ./internal/configdoc > .build/configuration.md
	mv .build/configuration.md docs/configuration.md

.PHONY: dashboard-picture
dashboard-picture: bin/telegraf ## Draw docs/pictures/dashboard.png anew, from a run with an outage (4 minutes); needs chromium.
	$(GO) run ./deploy/grafana/draw

.PHONY: licences
licences: .build/go.mod ## Check the licences of all that is built in.
	$(GO) run ./internal/licences ./cmd/... ./plugins/...
	@$(GO) run ./internal/licences -modfile=.build/go.mod -mod=mod -tags "custom $(EDGE_TAGS) $(TELEGRAF_TAGS)" \
		github.com/influxdata/telegraf/cmd/telegraf

# The database of vulnerabilities is on the network. Without it nothing is known, which must be said and is no fault of
# the code; what govulncheck finds, and each other failure of it, is one.
.PHONY: vuln
vuln: ## Look for known vulnerabilities that our code reaches.
	@found=$$($(GO) tool -modfile=tools/go.mod govulncheck $(VULN_FLAGS) ./... 2>&1); code=$$?; echo "$$found"; \
	case "$$code:$$found" in \
		0:*) ;; \
		1:*"fetching vulnerabilities"*) echo "vuln: NOT CHECKED: the database of vulnerabilities cannot be reached" >&2 ;; \
		*) exit 1 ;; \
	esac

.PHONY: tidy-check
tidy-check:
	$(GO) mod tidy -diff
	cd tools && $(GO) mod tidy -diff
	$(GO) vet ./...

.PHONY: cross-check
cross-check: ## Check the types of our packages on platforms that nobody tests on; make dist builds for them.
	$(GO) run -C tools ./cross linux/arm windows/amd64 darwin/arm64

.PHONY: check
check: tidy-check cross-check lint build licences vuln race ## All that CI runs: this and `make test`.
	$(MAKE) test

include packaging/dist.mk
