# make dist: what people download. For each platform static binaries, an archive and a bill of materials; for some of
# Linux a deb and an rpm; checksums of all. The same commit gives the same bytes.

PLATFORMS ?= linux/amd64 linux/arm64 linux/armv7 linux/armv6 darwin/amd64 darwin/arm64 windows/amd64

# All files get the time of the commit.
SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),0)

.PHONY: dist
dist: .build/go.mod .build/dist/dist ## Build what people download into dist/. PLATFORMS="linux/arm64 …" chooses.
	rm -rf dist
	@set -e; for platform in $(PLATFORMS); do $(MAKE) --no-print-directory dist-platform PLATFORM=$$platform; done
	.build/dist/dist -version $(VERSION) -out dist -sums
	@ls -l dist

.PHONY: .build/dist/dist
.build/dist/dist:
	$(GO) build -C tools -o $(CURDIR)/$@ ./dist

# One platform, named as os/arch.
DIST_OS = $(firstword $(subst /, ,$(PLATFORM)))
DIST_ARCH = $(lastword $(subst /, ,$(PLATFORM)))
DIST_GOARM = $(patsubst armv%,%,$(filter armv%,$(DIST_ARCH)))
# What a machine may have set for its own builds is not for releases.
DIST_ENV = GOFLAGS= GOEXPERIMENT= GOAMD64=v1 GOARM64=v8.0 CGO_ENABLED=0 GOOS=$(DIST_OS) GOARCH=$(if $(DIST_GOARM),arm,$(DIST_ARCH)) GOARM=$(DIST_GOARM)
DIST_NAME = telegraf-victorialogs_$(VERSION)_$(DIST_OS)_$(DIST_ARCH)
DIST_BIN = .build/dist/$(DIST_NAME)/bin
DIST_TREE = .build/dist/$(DIST_NAME)/usr
DIST_EXE = $(if $(filter windows,$(DIST_OS)),.exe)
# Windows has no time zones that Go can read.
DIST_TAGS = $(if $(filter windows,$(DIST_OS)),timetzdata)
DIST_FLAGS = -trimpath -buildvcs=false

# Debian's armhf is ARMv7, but Raspberry Pi OS's is ARMv6, so the deb is for that and runs on both. Fedora knows ARMv7.
DIST_PACKAGES = $(if $(filter linux,$(DIST_OS)),$(if $(filter armv6,$(DIST_ARCH)),deb,$(if $(filter armv7,$(DIST_ARCH)),rpm,deb rpm)))
NFPM = $(GO) tool -modfile=tools/go.mod nfpm

.PHONY: dist-binaries
dist-binaries: .build/go.mod # of PLATFORM, into DIST_BIN
	@echo "building $(DIST_NAME)"
	@mkdir -p $(DIST_BIN)
	@$(DIST_ENV) $(GO) build $(DIST_FLAGS) -modfile=.build/go.mod -mod=mod -o $(DIST_BIN)/telegraf$(DIST_EXE) \
		-tags "custom $(EDGE_TAGS) $(TELEGRAF_TAGS) $(DIST_TAGS)" -ldflags "$(TELEGRAF_LDFLAGS)" \
		github.com/influxdata/telegraf/cmd/telegraf
	@set -e; for command in $(COMMANDS); do \
		$(DIST_ENV) $(GO) build $(DIST_FLAGS) -tags "$(DIST_TAGS)" -ldflags "$(COMMAND_LDFLAGS)" \
			-o $(DIST_BIN)/$$command$(DIST_EXE) ./cmd/$$command; done

.PHONY: dist-platform
dist-platform:
	@rm -rf .build/dist/$(DIST_NAME)
	@$(MAKE) --no-print-directory dist-binaries PLATFORM=$(PLATFORM)
	@.build/dist/dist -version $(VERSION) -time $(SOURCE_DATE_EPOCH) -platform $(PLATFORM) \
		-bin $(DIST_BIN) -out dist $(if $(DIST_PACKAGES),-tree $(DIST_TREE)) LICENSE README.md sample.conf
	@set -e; for packager in $(DIST_PACKAGES); do \
		ARCH=$(subst armv,arm,$(DIST_ARCH)) VERSION=$(VERSION) TREE=$(DIST_TREE) SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) \
			$(NFPM) package --config packaging/nfpm.yaml --packager $$packager --target dist; done

# The deb of this machine, once more with a higher version, and a small Debian to put them into. All of it needs root and
# debootstrap; without them the test is skipped and says so.
DEB_ARCH := $(shell dpkg --print-architecture 2>/dev/null)

.PHONY: dist-test
dist-test: ## Install, run, upgrade, remove and purge the deb of dist/ in a scratch root, as root and with debootstrap.
	rm -rf .build/dist/debs && mkdir -p .build/dist/debs
	cp dist/telegraf-victorialogs_$(VERSION)-1_$(DEB_ARCH).deb .build/dist/debs/first.deb
	ARCH=$(DEB_ARCH) VERSION=9.9.9 TREE=.build/dist/telegraf-victorialogs_$(VERSION)_linux_$(DEB_ARCH)/usr \
		$(NFPM) package --config packaging/nfpm.yaml --packager deb --target .build/dist/debs/second.deb
	@if [ ! -d .build/dist/debian ] && [ "$$(id -u)" = 0 ] && command -v debootstrap >/dev/null; then \
		rm -rf .build/dist/debian.part && debootstrap --variant=minbase --include=systemd,systemd-sysv stable \
			.build/dist/debian.part && mv .build/dist/debian.part .build/dist/debian; fi
	DIST_TEST=1 $(GO) test -count=1 -v -run '^TestDeb' ./packaging
