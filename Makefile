# make demo   the whole network on this machine, with a private conversation
# make test   the proof that it works; needs no special hardware
PY := .venv/bin/python
PYTHON ?= python3
MINUTES ?= 2
TEST := $(PY) -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

.PHONY: help dev demo up test test-fast test-long lint fix type docs contracts vectors mutate fuzz bench check clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

dev: .venv/.ready ## the virtual environment with everything in it

.venv/.ready: setup.cfg constraints.txt contracts/localnet/package-lock.json
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Umay needs Python 3.11 or newer with venv (Debian: apt install python3-venv)'; exit 2; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt \
	  torch==2.13.0 -e '.[guest,log,host,proxy,openai,dev]'
	$(PY) -m contracts.node install
	@touch .venv/.ready

demo: dev ## run the whole network, talk to it privately, audit it, attack it
	$(PY) -m client_sdk demo

up: dev ## keep the network running (Ctrl-C ends it)
	$(PY) -m client_sdk up

test: dev ## everything that needs no hardware
	$(TEST)

test-fast: dev ## for daily work: what needs no services and takes no minutes
	$(TEST) --fast

test-long: dev ## what make test leaves out for its time
	$(TEST) -m "long or soak or hostile or cookbook"

lint: dev ## style
	$(PY) -m ruff check . && $(PY) -m ruff format --check .

fix: dev ## style, mended where that is mechanical
	$(PY) -m ruff check --fix . && $(PY) -m ruff format .

type: dev ## strict types of the verifier
	$(PY) -m mypy

docs: dev ## API reference and man pages, into build/docs
	$(PY) -m scripts.api_docs
	$(PY) -m scripts.man_pages

contracts: dev ## compile the contracts from source
	$(PY) -m contracts.artefact build

vectors: dev ## make the test vectors anew
	$(PY) -m tests.vectors.generate

mutate: dev ## change each line of a check, and see a test fail (about an hour)
	$(PY) -m scripts.mutate

fuzz: dev ## coverage-guided fuzzing of every parser, MINUTES=2 each
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt atheris
	$(PY) -m tests.fuzz --minutes $(MINUTES)

bench: dev ## figures as JSON lines; ONLY=name for one
	@$(PY) -m benchmarks $(ONLY)

check: lint type docs ## lint, types, reference, docs/cli.md, contract artefacts, tests
	$(PY) -m scripts.check_cli
	$(PY) -m contracts.artefact check
	$(PY) -m scripts.rooms
	$(PY) -m scripts.trusted_base
	$(TEST)

clean: ## remove what was built
	rm -rf .venv contracts/localnet/node_modules build
