# The two commands of the README, and the long campaigns.
#
#   make demo        set up, build, run the main job on real data; stays up until Ctrl-C
#   make test        set up, then everything that must hold: format, clippy, docs, all tests
#
# The first build compiles about 500 crates and takes a while on a small machine; later ones are
# short. CARGO_TARGET_DIR is honoured.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
DEMO_DIR ?= lakehouse-demo
DEMO_LISTEN ?= 127.0.0.1:3100
DEMO_ROWS ?= 2469278
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
LAKEHOUSE := $(TARGET_DIR)/debug/lakehouse

# How long the crash tests of `make test` are, and those of `make crash-long`.
CRASH_CYCLES ?= 40
CRASH_ROUNDS ?= 20
LONG_CRASH_CYCLES ?= 1000
LONG_CRASH_ROUNDS ?= 200
# How long `make gc-race` runs, how much `make disk-full` merges, how often `make power-cuts` cuts (of
# that, two fifths more during erasure).
GC_RACE_SECONDS ?= 600
DISK_FULL_MB ?= 200
POWER_CUTS ?= 50

.PHONY: help demo demo-exit build test e2e check fmt-check clippy doc crash-long gc-race disk-full power-cuts bench setup setup-build setup-test clean-demo

help: ## show what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: build ## the main job on real data, narrated; stays up until Ctrl-C
	$(LAKEHOUSE) demo --data-dir "$(DEMO_DIR)" --listen "$(DEMO_LISTEN)" --rows "$(DEMO_ROWS)"

demo-exit: build ## the same in a temporary directory, on a free port, ending with the job
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"; echo "That was a temporary directory; it is removed."' EXIT; \
	$(LAKEHOUSE) demo --data-dir "$$dir/demo" --listen 127.0.0.1:0 --rows "$(DEMO_ROWS)" --exit

build: setup-build ## the program, target/debug/lakehouse (its hot dependencies are optimised)
	$(CARGO) build --locked --bin lakehouse

# One pass compiles, lints and tests: clippy's driver is rustc for our own crates, and the documentation
# is made from what the tests were built from, so that no dependency is compiled or checked twice (ADR-030).
ONE_PASS := RUSTC_WORKSPACE_WRAPPER=clippy-driver RUSTDOC="$(CURDIR)/tools/rustdoc-lint" \
	CLIPPY_ARGS="-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__"

test: setup fmt-check ## format, lints, docs, and every test, also under kill -9
	$(ONE_PASS) LAKEHOUSE_CRASH_CYCLES=$(CRASH_CYCLES) LAKEHOUSE_CRASH_ROUNDS=$(CRASH_ROUNDS) \
	$(CARGO) test --locked --workspace

check: fmt-check clippy doc ## format, lints and docs by themselves

e2e: setup-test ## the real binary over REST, and under kill -9
	LAKEHOUSE_CRASH_CYCLES=$(CRASH_CYCLES) LAKEHOUSE_CRASH_ROUNDS=$(CRASH_ROUNDS) \
	$(CARGO) test --locked --workspace --test tidy --test e2e --test crash

fmt-check:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps

crash-long: setup ## many kill -9 cycles under load; the seed is printed
	LAKEHOUSE_CRASH_CYCLES=$(LONG_CRASH_CYCLES) LAKEHOUSE_CRASH_ROUNDS=$(LONG_CRASH_ROUNDS) \
	$(CARGO) test --locked --workspace --test crash -- --nocapture

gc-race: setup-test ## O-05: everything that removes objects, without a pause, under readers and writers; 10 min
	LAKEHOUSE_GC_RACE_SECONDS=$(GC_RACE_SECONDS) \
	$(CARGO) test --locked --workspace --test e2e races:: -- --nocapture

disk-full: setup-test ## O-01: a disk of 320 MB gets full while 200 MB are merged
	LAKEHOUSE_DISK_FULL_MB=$(DISK_FULL_MB) \
	$(CARGO) test --locked --workspace --test e2e disk_full:: -- --nocapture

# Nothing may be written back behind the test's back while it runs; the setting comes back afterwards.
power-cuts: setup-test ## J-04 and G-04: the power goes under load and during erasure; needs root
	@[ "$$(id -u)" = 0 ] || { echo "power-cuts mounts file systems: run it as root" >&2; exit 1; }
	@for tool in mkfs.ext4 mount umount cc; do command -v $$tool >/dev/null || { \
		echo "power-cuts needs $$tool" >&2; exit 1; }; done
	@pause=/proc/sys/vm/dirty_writeback_centisecs; before=$$(cat $$pause); \
	trap 'echo "$$before" > $$pause' EXIT; echo 0 > $$pause; \
	LAKEHOUSE_POWER_CUTS=$(POWER_CUTS) \
	$(CARGO) test --locked --workspace --test crash power:: -- --nocapture --test-threads 1

bench: build ## the benchmarks of this version, each beside its baseline; JSON into target/bench
	@mkdir -p $(TARGET_DIR)/bench
	@for what in journal sql ingest deletes postgres refresh search; do \
		echo "== $$what"; \
		$(LAKEHOUSE) bench $$what --out $(TARGET_DIR)/bench/$$what.json; \
	done

clean-demo: ## remove the data of `make demo`
	@if [ -f "$(DEMO_DIR)/demo.json" ]; then rm -rf "$(DEMO_DIR)"; echo "removed $(DEMO_DIR)"; \
	else echo "$(DEMO_DIR) holds no demo"; fi

setup: setup-build setup-test

# What compiling needs beside Rust: a C++ compiler for usearch. protoc comes from a crate.
setup-build:
	@command -v $(CARGO) >/dev/null || { \
		echo "Rust 1.95 or newer is needed and cargo is not on the PATH: install it by rustup." >&2; exit 1; }
	@command -v c++ >/dev/null || command -v g++ >/dev/null || deploy/install-packages g++

# What the tests need beside that: rustfmt, clippy, and a PostgreSQL to read from (never one that runs).
setup-test:
	@$(CARGO) fmt --version >/dev/null 2>&1 && $(CARGO) clippy --version >/dev/null 2>&1 || { \
		echo "rustfmt and clippy are needed: rustup component add rustfmt clippy" >&2; exit 1; }
	@command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null \
		|| deploy/install-packages postgresql
