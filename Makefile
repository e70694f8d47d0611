# metald's commands. `make help` explains them.
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
# Where the demo and the tests keep what is dear to build: the ramdisk and the small image.
BUILD := build

.DEFAULT_GOAL := help
.PHONY: help venv packages agent agent-ramdisk test-agent test-agent-qemu fuzz demo uefi test-boot kill crash-matrix lab test conformance check lint format bench beside fleet run generate lock clean

help:  ## explain these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: .venv/.complete  ## make .venv with everything metald needs, as locked in constraints.txt

.venv/.complete: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed." >&2; exit 1; }
	@$(PYTHON) -m venv --help >/dev/null 2>&1 && $(PYTHON) -c 'import ensurepip' 2>/dev/null || scripts/install-packages
	$(PYTHON) -m venv .venv
	@# --no-deps: the lock is whole, and pip of Debian 12 refuses a lock once an extra's newest release is not the locked one
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@# compiled now, or where PYTHONDONTWRITEBYTECODE is set each start would compile it anew, for 0.3 s
	$(BIN)/python -m compileall -q metald
	@touch $@

packages:
	@scripts/install-packages

demo: packages venv  ## two virtual machines behind real BMCs, from powered off to SSH
	$(BIN)/python -m lab.demo

uefi: packages venv  ## the demo on UEFI firmware that fetches iPXE over TFTP by itself
	$(BIN)/python -m lab.demo --uefi --no-rom

test-boot: packages venv  ## boot BIOS and UEFI machines in every way there is, each from power-on to active
	$(BIN)/python -m lab.boots

kill: packages venv  ## kill metald at ten random moments of ten real deployments
	$(BIN)/python -m lab.kill

crash-matrix: packages venv  ## kill metald 20 times with 1,000 nodes in flight, over a disk that fails; fails where a bar is missed
	$(BIN)/python -m lab.matrix --least 1000

test: packages venv  ## every test, with private servers, one real machine and the coverage of branches
	scripts/run-tests

agent: build/ipa/.complete  ## the unmodified Ironic Python Agent from PyPI in build/ipa, for tests

build/ipa/.complete: metald/ramdisk/files/agent/constraints.txt
	$(PYTHON) -m venv $(BUILD)/ipa
	$(BUILD)/ipa/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r metald/ramdisk/files/agent/constraints.txt
	@touch $@

test-agent: packages venv agent  ## deploy, clean and fail with real agents as processes of this host, 20 at once, killing metald in between
	METALD_TEST_AGENT=1 METALD_TEST_AGENTS=20 $(BIN)/python -m pytest -q -p no:cacheprovider tests/agent

agent-ramdisk: packages venv  ## the ramdisk with the Ironic Python Agent, twice, in build/agent; fails where the two differ
	$(BIN)/metald ramdisk build --agent ipa --output $(BUILD)/agent --work $(BUILD)/debian
	$(BIN)/metald ramdisk build --agent ipa --output $(BUILD)/agent-again --work $(BUILD)/debian
	cmp $(BUILD)/agent/initramfs $(BUILD)/agent-again/initramfs && cmp $(BUILD)/agent/manifest.json $(BUILD)/agent-again/manifest.json
	rm -rf $(BUILD)/agent-again

test-agent-qemu: packages venv  ## a machine's life with the agent, by the real client: inspect, clean, RAID, deploy Debian, rescue, undeploy
	$(BIN)/python -m lab.life

fuzz: packages venv  ## schemathesis over a real daemon for five minutes, and 10,000 slow clients at once
	$(BIN)/python -m tests.support.fuzz
	$(BIN)/python benchmarks/slow.py

conformance: venv  ## the test suites of Ironic's clients (tempest, the SDK, the command line, Ansible, gophercloud) against metald
	scripts/install-packages conformance
	$(BIN)/python -m tests.conformance

check: packages venv lint test  ## what every commit must pass: lint, types, layers, generated files, tests

lint: venv  ## style, types, layers, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/generate.py --check

format: venv  ## put the code into its style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: packages venv  ## measure speed and memory; fails at the end, with a list, where bars are missed
	@missed=; for file in benchmarks/*.py; do \
	  echo "== $$file"; $(BIN)/python $$file; status=$$?; \
	  [ $$status -ne 130 ] || exit 130; \
	  [ $$status -eq 0 ] || missed="$$missed $$file"; \
	done; [ -z "$$missed" ] || { echo "missed or failed:$$missed" >&2; exit 1; }

beside: packages venv  ## measure metald and a real Ironic 39 in one run, bars included
	@for name in api deploy machine; do $(BIN)/python -m benchmarks.beside.$$name || exit 1; done

lab: packages venv  ## two virtual machines behind BMCs to play with, until Ctrl-C
	$(BIN)/python -m lab up

fleet: packages venv  ## ten thousand simulated deployments at once; fails where a bar is missed
	$(BIN)/python benchmarks/storm.py --kinds wire --nodes 1000,10000 --alone

run: venv  ## run the daemon here, with its state in ./var
	METALD__STATE_DIR=var $(BIN)/metald serve

generate: venv  ## write the files that are made from the code
	$(BIN)/python scripts/generate.py

lock: venv  ## renew constraints.txt within the bounds of pyproject.toml, and the agent's own lock
	$(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --allow-unsafe --extra dev --no-emit-index-url \
	  --no-emit-trusted-host --no-emit-find-links --no-header --no-annotate -o constraints.txt pyproject.toml
	$(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url \
	  --no-emit-trusted-host --no-emit-find-links --no-header --no-annotate -o metald/ramdisk/files/agent/constraints.txt \
	  metald/ramdisk/files/agent/constraints.in

clean:  ## remove what the other commands made
	rm -rf .venv $(BUILD) var .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
