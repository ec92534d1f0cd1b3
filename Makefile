# Everything that people and CI run. `make help` lists it.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Where cargo builds.
TARGET := $(or $(CARGO_TARGET_DIR),target)
# CI must not change Cargo.lock silently.
LOCKED := $(if $(CI),--locked)
# Where the definitions are written: for kubectl, and for Helm.
CRDS := crds charts/actions-runner-controller/crds
# Always the whole workspace: one choice of features, so that the demo, clippy and the tests share what is built.
BUILD := cargo build --workspace --bins $(LOCKED)

## Try it

.PHONY: demo
demo: need-rust need-cc need-go ## Real control plane, fake GitHub, real binaries: jobs come, runners come, jobs finish, runners go. DEMO_ARGS="--jobs 50 --json"
	$(BUILD)
	$(TARGET)/debug/demo $(DEMO_ARGS)

.PHONY: test
test: need-rust need-cc need-go purity ## All tests: pure, on the wire, and on a real control plane. TEST_ARGS="-p muster-core"
	$(BUILD)
	tools/run-tests $(LOCKED) $(TEST_ARGS)

.PHONY: build
build: need-rust need-cc ## The binaries, in target/debug. BUILD_ARGS=--release for target/release
	$(BUILD) $(BUILD_ARGS)

## While you work

.PHONY: test-core
test-core: need-rust ## The tests of the pure crates alone: seconds, once built
	cargo test -p muster-core -p muster-crds $(LOCKED)

.PHONY: fmt
fmt: need-rust ## Format the code
	cargo fmt --all

.PHONY: lint
lint: need-rust need-cc ## Formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets $(LOCKED) -- -D warnings

.PHONY: doc
doc: need-rust need-cc ## The API documentation, warnings are errors
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --workspace --no-deps --document-private-items $(LOCKED)

.PHONY: crds
crds: need-rust ## Write crds/*.yaml from the Rust types
	for folder in $(CRDS); do cargo run -p muster-crds --bin crdgen $(LOCKED) -- $$folder; done

.PHONY: controlplane
controlplane: need-rust need-cc need-go ## Build etcd and Kubernetes for tests and demo (otherwise done when first needed)
	$(BUILD)
	$(TARGET)/debug/controlplane

.PHONY: fuzz
fuzz: need-rust ## Fuzz what reads GitHub's bytes, with nightly and cargo-fuzz. FUZZ=signature|payload|routing FUZZ_SECONDS=60 FUZZ_RUNS=1000000
	@cargo +nightly fuzz --version >/dev/null 2>&1 || { \
	  echo 'Fuzzing needs nightly Rust and cargo-fuzz: rustup toolchain install nightly && cargo install --locked cargo-fuzz' >&2; exit 1; }
	mkdir -p $(TARGET)/fuzz/corpus/$(or $(FUZZ),payload) $(TARGET)/fuzz/artifacts
	cargo +nightly fuzz run --sanitizer none --target-dir $(TARGET)/fuzz $(or $(FUZZ),payload) \
	  $(TARGET)/fuzz/corpus/$(or $(FUZZ),payload) fuzz/seeds -- \
	  -artifact_prefix=$(TARGET)/fuzz/artifacts/ -max_total_time=$(or $(FUZZ_SECONDS),60) -runs=$(or $(FUZZ_RUNS),-1)

## Image

.PHONY: image-root
image-root: need-rust need-cc ## The image's files in target/image/root, from an optimized build; needs no network beyond cargo's
	$(BUILD) --release
	rm -rf $(TARGET)/image/root
	tools/image-root $(TARGET)/release $(TARGET)/image/root

.PHONY: image
image: image-root ## The image as an OCI layout, target/image/muster.tar, without Docker. IMAGE_TAG=v1
	tools/image-layout $(TARGET)/image/root $(TARGET)/image/muster.tar $(IMAGE_TAG)

.PHONY: sbom
sbom: need-rust ## Bill of materials of each executable (CycloneDX), in target/image/sbom
	tools/sbom $(TARGET)/image/sbom

## What CI runs

.PHONY: ci
ci: ## All of it: format, clippy, documentation, generated files, purity, licences and bans, tests
	.ci/run

.PHONY: purity
purity: need-rust ## muster-core does no I/O: it compiles alone, without a runtime, an HTTP or a Kubernetes client
	tools/check-purity

.PHONY: crds-check
crds-check: need-rust need-cc ## Fail when crds/*.yaml are not what the Rust types say
	$(BUILD)
	for folder in $(CRDS); do $(TARGET)/debug/crdgen --check $$folder; done

.PHONY: deny
deny: need-rust ## Licences, duplicate and banned crates, sources (deny.toml)
	tools/cargo-deny --locked check bans licenses sources

.PHONY: advisories
advisories: need-rust ## Known vulnerabilities among the dependencies; fetches the RustSec database
	tools/cargo-deny --locked check advisories

## Proof

.PHONY: accept
accept: need-rust need-cc need-go ## The acceptance list of a piece of work, a line per item. SUITE=main-job ACCEPT_ARGS="--only burst"
	$(BUILD)
	$(TARGET)/debug/accept $(or $(SUITE),main-job) $(ACCEPT_ARGS)

.PHONY: golden
golden: need-rust need-cc need-go ## Write tests/fixtures/golden anew: what the chart renders to. Review the difference
	$(BUILD)
	MUSTER_RENEW_GOLDEN=1 $(TARGET)/debug/accept install --only golden

.PHONY: bench
bench: need-rust need-cc need-go ## Measure an optimized build. BENCH=webhook|latency|burst|steady|churn|lossy|growth|simulate BENCH_ARGS="--runs 3"
	cargo build --workspace --release --bin github-webhook-server --bin manager --bin bench $(LOCKED)
	$(TARGET)/release/bench $(or $(BENCH),webhook) $(BENCH_ARGS)

## Rest

.PHONY: clean
clean: ## Remove everything that was built, the control plane included
	cargo clean

.PHONY: help
help: ## This list
	@awk '/^## /{printf "\n%s\n", substr($$0, 4)} \
	  match($$0, /^[a-z-]+:[^#]*## /){name=$$1; sub(/:.*/, "", name); printf "  make %-13s %s\n", name, substr($$0, RLENGTH + 1)}' \
	  $(firstword $(MAKEFILE_LIST))

# What a machine must have. Each says how to get it before minutes of building are lost.

.PHONY: need-rust need-cc need-go
need-rust:
	@command -v cargo >/dev/null || { \
	  echo 'Rust is missing. Install it with rustup (https://rustup.rs); it fetches the toolchain that rust-toolchain.toml names.' >&2; exit 1; }

need-cc:
	@command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null || { \
	  echo 'A C compiler is missing (aws-lc is C). Install gcc or clang, e.g.: apt-get install build-essential cmake' >&2; exit 1; }

# Go builds etcd and Kubernetes. Whoever has them already, or brings a cluster, needs no Go.
need-go:
	@test -n "$${KUBEBUILDER_ASSETS:-}" || test -x $(TARGET)/controlplane/kube-apiserver || \
	  [[ " $(DEMO_ARGS) " == *' --existing-cluster '* ]] || command -v go >/dev/null || { \
	  echo 'Go 1.26 or newer is missing: it builds etcd and kube-apiserver, which tests and demo run on. Get it from https://go.dev/dl,' \
	    'or set KUBEBUILDER_ASSETS to a folder that has etcd, kube-apiserver and kube-controller-manager.' >&2; exit 1; }
