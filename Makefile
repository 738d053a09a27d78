# Orlop's errands. `make` alone lists them.

CARGO ?= cargo

.PHONY: help prepare build test test-v2 engines lint fuzz demo bench docs clean

help:  ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

prepare:  ## install the Debian packages and the Rust target that building and testing need (root)
	e2e/prepare.sh

build:  ## a release build: target/release/orlop
	$(CARGO) build --release

test:  ## all tests; the ones that make pods want root
	$(CARGO) test --lib --bins --tests

test-v2:  ## the tests for which the cgroup version matters, in a virtual machine that has version 2 alone (root)
	e2e/vm/test.sh

engines:  ## Debian's containerd, Podman and Buildah with our runtime in the place of runc (root)
	$(CARGO) test --test engines

lint:  ## what a change must pass: formatting, clippy, licences and sources of the dependencies
	$(CARGO) fmt --check
	$(CARGO) clippy --tests -- -D warnings
	e2e/deny.sh

fuzz:  ## each fuzzer for a minute, or for SECONDS (nightly Rust, cargo-fuzz, Debian's libseccomp-dev)
	fuzz/run.sh $(SECONDS)

demo:  ## a pod on this machine in one screen: build, registry, pod, kill -9 of the agent, clean-up (root)
	e2e/demo.sh

bench:  ## the figures of docs/performance.md (root)
	e2e/bench.sh

docs:  ## renew the generated pages
	UPDATE_DOCS=1 $(CARGO) test --lib config::

clean:  ## remove what was built
	$(CARGO) clean
