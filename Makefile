# Everything a developer or an operator does with this checkout. `make help` lists the targets.

CARGO ?= cargo
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

.PHONY: help setup demo test lint check fuzz-quick bench soak test-aerospike

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

setup: ## installs what the tests need (or says exactly what to install)
	@tests/setup.sh

demo: ## a whole fabric on this machine: the real block arrives once, despite loss
	$(CARGO) build --release -p oncecast
	target/release/oncecast demo

# The end-to-end tests run the binary that cargo builds for the tests of the package oncecast.
test: setup lint ## lint, unit, property, simulation and end-to-end tests
	$(CARGO) test --workspace

lint: ## formatting and clippy, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

fuzz-quick: ## 10 million random and 10 million mutated datagrams through every decoder
	$(CARGO) run -p frame --example fuzz_quick

bench: ## benchmarks as ratios inside one run; QUICK=1 for a short one, JSON=file for the figures as JSON
	$(CARGO) build --release -p oncecast
	$(CARGO) run --release -p bench -- $(if $(QUICK),--quick) $(if $(JSON),--json $(JSON))

soak: ## the long forms of the simulation and the crash tests
	ONCECAST_SOAK=1 $(CARGO) test --release --workspace -- --include-ignored

test-aerospike: ## the Aerospike suites against real servers: AEROSPIKE=host:port, or AEROSPIKE_SERVER=/path/to/asd, or both
	@test -n "$(AEROSPIKE)$(AEROSPIKE_SERVER)" || \
		{ echo "say where the server is: AEROSPIKE=host:port, or its program: AEROSPIKE_SERVER=/path/to/asd" >&2; exit 2; }
	$(if $(AEROSPIKE),ONCECAST_AEROSPIKE=$(AEROSPIKE) $(CARGO) test -p cache-backend --test aerospike)
	$(if $(AEROSPIKE_SERVER),$(CARGO) build -p oncecast && ONCECAST_AEROSPIKE_SERVER=$(AEROSPIKE_SERVER) \
		$(CARGO) test -p tests --test aerospike -- --test-threads 2)
