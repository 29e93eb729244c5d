# Everything a developer or an operator does with this checkout. `make help` lists the targets.
#
# Where each kind of check lives:
#   make test          what a change must pass: lint, unit, property, simulation and end-to-end tests, one case of each kind
#   make test-fabric   whole matrices of real processes in network namespaces, with the release binary
#   make worlds        simulated worlds, ten minutes a kind; go on with FROM=number
#   make soak          the long forms: millions of worlds, hours of crashes
#   make bench         times, as ratios inside one run; with AGAINST=binary as ratios to another binary

CARGO ?= cargo
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

TARGET := $(or $(CARGO_TARGET_DIR),target)
BINARY := $(TARGET)/release/oncecast
# Simulated worlds: seconds a kind, and the first number.
SECONDS_OF_WORLDS ?= 600
FROM ?= 0
# The simulator plants faults into the crates (feature `mutants`). It is built on lines of its own, so that everything else,
# and with it the binary of the end-to-end tests, is built without them. Both select the whole workspace, so that they share
# the features of third-party crates, which are then built once.
PRODUCT := --workspace --exclude simulator
WITH_FAULTS := --workspace --lib --test claims_worlds --test fabric_worlds --test pipeline --test round

.PHONY: help setup demo test lint deny check-features check-aarch64 test-fabric worlds fuzz-quick bench soak test-aerospike

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

setup: ## installs what the tests need (or says exactly what to install); tests/setup.sh --all: what every target needs
	@tests/setup.sh

demo: ## a whole fabric on this machine: the real block arrives once, despite loss
	$(CARGO) build --release -p oncecast
	$(BINARY) demo

# The end-to-end tests run the binary that cargo builds for the tests of the package oncecast.
test: setup lint check-features check-aarch64 ## lint, unit, property, simulation and end-to-end tests
	$(CARGO) test $(PRODUCT)
	$(CARGO) test $(WITH_FAULTS)

lint: ## formatting, clippy, documentation (warnings are errors), and the rules of tools/xtask
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(PRODUCT) --all-targets -- -D warnings
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) build -q $(PRODUCT) --bin xtask
	$(TARGET)/debug/xtask lint
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc -q --workspace --no-deps

deny: ## licences, sources and advisories of the dependencies (needs cargo-deny)
	@cargo-deny --version >/dev/null 2>&1 || { echo "cargo-deny is missing: cargo install --locked cargo-deny" >&2; exit 2; }
	@if $(CARGO) deny fetch db >/dev/null 2>&1; then \
		$(CARGO) deny check; \
	else \
		echo "the advisory database cannot be had: advisories are not checked"; \
		$(CARGO) deny check licenses bans sources; \
	fi

# Each feature of the crate alone, and none.
check-features: ## every combination of features in which cache-backend is used
	$(CARGO) check -q -p cache-backend --no-default-features
	$(CARGO) check -q -p cache-backend --no-default-features --features tls
	$(CARGO) check -q -p cache-backend --no-default-features --features aerospike
	$(CARGO) check -q -p cache-backend --no-default-features --features clap

ARM := aarch64-unknown-linux-gnu
# Of the crates that no C code is built for.
check-aarch64: ## type check for 64-bit ARM, where its standard library is installed
	@if [ -d "$$(rustc --print sysroot)/lib/rustlib/$(ARM)" ]; then \
		$(CARGO) check -q --target $(ARM) -p frame -p gap-track -p multicast-io -p huge-pages; \
	else \
		echo "not checked for $(ARM): its standard library is not installed (rustup target add $(ARM))"; \
	fi

test-fabric: ## whole matrices in network namespaces, with the release binary; needs root
	$(CARGO) build --release -p oncecast
	ONCECAST_BIN=$(abspath $(BINARY)) $(CARGO) test -p tests -- --include-ignored

worlds: ## simulated worlds, 10 minutes a kind (SECONDS_OF_WORLDS=600), numbered from FROM=0
	$(CARGO) build --release -p simulator --examples
	$(TARGET)/release/examples/claims --seeds 1000000000 --seconds $(SECONDS_OF_WORLDS) --from $(FROM)
	$(TARGET)/release/examples/fabric --seeds 1000000000 --seconds $(SECONDS_OF_WORLDS) --from $(FROM)

fuzz-quick: ## 10 million random and 10 million mutated datagrams through every decoder
	$(CARGO) run -p frame --example fuzz_quick

bench: ## benchmarks as ratios inside one run; QUICK=1: short; JSON=file; AGAINST=binary: in turns with another binary
	$(CARGO) build --release -p oncecast
	$(CARGO) run --release -p bench -- $(if $(QUICK),--quick) $(if $(JSON),--json $(JSON)) \
		$(if $(AGAINST),--against $(AGAINST)) $(if $(PAIRS),--pairs $(PAIRS)) $(if $(ONLY),--only $(ONLY))

soak: ## the long forms of the simulation and the crash tests
	ONCECAST_SOAK=1 $(CARGO) test --release $(PRODUCT) -- --include-ignored
	ONCECAST_SOAK=1 $(CARGO) test --release -p simulator -- --include-ignored

test-aerospike: ## the Aerospike suites against real servers: AEROSPIKE=host:port, or AEROSPIKE_SERVER=/path/to/asd, or both
	@test -n "$(AEROSPIKE)$(AEROSPIKE_SERVER)" || \
		{ echo "say where the server is: AEROSPIKE=host:port, or its program: AEROSPIKE_SERVER=/path/to/asd" >&2; exit 2; }
	$(if $(AEROSPIKE),ONCECAST_AEROSPIKE=$(AEROSPIKE) $(CARGO) test -p cache-backend --test aerospike)
	$(if $(AEROSPIKE_SERVER),$(CARGO) build -p oncecast && ONCECAST_AEROSPIKE_SERVER=$(AEROSPIKE_SERVER) \
		$(CARGO) test -p tests --test aerospike -- --test-threads 2)
