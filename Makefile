# `make demo` on a fresh machine needs Python and make. GNU make 3.81 (macOS) is enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STATE = $${ORCHESTRATOR_STATE_DIR:-.state}
# As an environment variable, so that what a package is built with is pinned, too.
PIP = PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --quiet

.DEFAULT_GOAL := help
.PHONY: help demo up simulate storm reference test test-all conformance mutants mutants-under-chaos chaos sources bench check docs format constraints clean clean-all ready not-running

help:
	@echo "make demo         see it work: accounts, transfers, a refusal, a worker killed in the middle of a saga"
	@echo "make up           Temporal's development server and a worker on the same state, until Ctrl-C"
	@echo "make simulate     a year of believable life, and a check of all; USERS= MONTHS= SEED=, ARGS='--kill-every 30'"
	@echo "make storm        200 transfers at once while workers are killed, and a count of everything afterwards"
	@echo "make test         the tests, with a thin cut of the large grids"
	@echo "make test-all     the tests with every cell of every grid"
	@echo "make conformance  every fault at every step of every example, on both databases, and a count of the cells; SLICE=i/n"
	@echo "make reference    random events to the application and to a model of it, every table compared; EVENTS= SEED="
	@echo "make mutants      break the engine in many ways, one at a time, and see that a test notices each; SLICE=i/n"
	@echo "make bench        the engine beside a plain Temporal saga: QUICK=1 in under 10 minutes, without in an hour or more"
	@echo "make chaos        2000 sagas while everything under them is killed and stopped; SAGAS= MINUTES= SEED= DATABASE="
	@echo "make sources      5000 events, repeats and garbage through every source at once, and a check; EVENTS= SEED= DATABASE="
	@echo "make check        style, types, who may import whom, and whether events keep to their published contracts"
	@echo "make docs         build the documentation site in site/; fails on a broken link or an orphan page"
	@echo "make format       put the style right"
	@echo "make constraints  pin the newest versions of all dependencies in constraints.txt"
	@echo "make clean        remove the state (.state) and caches; make clean-all removes .venv too"

demo: ready
	@exec $(BIN)/python -m starter.demo

up: ready
	@exec $(BIN)/python -m starter.up

USERS := 50
MONTHS := 12

simulate: ready
	@exec $(BIN)/python -m starter.simulate --users $(USERS) --months $(MONTHS) --seed $(or $(SEED),7) $(ARGS)

storm: ready
	@exec $(BIN)/python -m starter.storm

test: $(VENV)/.dev
	@$(BIN)/pytest -q -n auto --maxprocesses=4

test-all: $(VENV)/.dev
	@$(BIN)/pytest -q -n auto --maxprocesses=4 -m ""

conformance: $(VENV)/.dev
	@$(BIN)/python -m orchestrator.testing $(if $(SLICE),--slice $(SLICE)) tests.app.test_conformance tests.app.test_conformance_of_categories tests.testing.test_conformance_of_the_cast

mutants: $(VENV)/.dev
	@$(BIN)/python -m tests.mutants.run $(if $(SLICE),--slice $(SLICE))

mutants-under-chaos: $(VENV)/.dev
	@exec $(BIN)/python -m tests.mutants.under_chaos $(ARGS)

reference: $(VENV)/.dev
	@exec $(BIN)/python -m tests.comparison.run --events $(or $(EVENTS),100000) --seed $(or $(SEED),1) $(ARGS)

bench: $(VENV)/.dev
	@$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

SAGAS := 2000
MINUTES := 3
DATABASE := postgresql

chaos: $(VENV)/.dev
	@exec $(BIN)/python -m tests.chaos.run --sagas $(SAGAS) --minutes $(MINUTES) --seed $(or $(SEED),1) --database $(DATABASE) $(ARGS)

sources: $(VENV)/.dev
	@exec $(BIN)/python -m tests.sources.run --events $(or $(EVENTS),5000) --seed $(or $(SEED),1) --database $(DATABASE) $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/orchestrator contracts
	$(BIN)/orchestrator catalog --check

docs: $(VENV)/.docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "The site is in site/: open site/index.html, or run .venv/bin/mkdocs serve"

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The first line comes before Python does: its imports alone may take a second.
ready:
	@if [ -e $(VENV)/.embedded ]; then echo "Starting ..."; \
	else echo "Creating $(VENV) with all that is needed (about half a minute, once) ..."; fi
	@$(MAKE) --no-print-directory --silent $(VENV)/.embedded

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "Python 3.11 or newer is needed, as in: make demo PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	{ echo "This Python lacks venv. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# What is installed, by what it was installed from; who has everything has what the demo needs.
$(VENV)/.embedded: $(BIN)/python pyproject.toml constraints.txt
	@$(PIP) -e '.[app,embedded]'
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing what development needs into $(VENV) ..."
	@$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.embedded

$(VENV)/.docs: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing what the documentation needs into $(VENV) ..."
	@$(PIP) -e '.[docs]'
	@touch $@

# Versions alone: no addresses and no hashes, so that every package index and every platform will do.
constraints:
	@set -e; fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(PYTHON) -m venv "$$fresh"; \
	"$$fresh/bin/python" -m pip install --quiet --quiet --disable-pip-version-check '.[dev,docs]' $(BUILD); \
	{ echo "# Every dependency as it was tried, for Python 3.11 to 3.13. Made by: make constraints"; \
	  "$$fresh/bin/python" -m pip freeze --exclude temporal-saga-orchestrator; } > constraints.txt

BUILD := hatchling editables

# The server holds a lock as long as it lives; a process id would say less.
not-running:
	@[ ! -e "$(STATE)/temporal.lock" ] || $(PYTHON) -c 'import fcntl, sys; \
	fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)' "$(STATE)/temporal.lock" 2>/dev/null || \
	{ echo "A server is running on $(STATE): end its \`make demo\` or \`make up\` with Ctrl-C first." >&2; exit 1; }

clean: not-running
	@rm -rf "$(STATE)" .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

clean-all: clean
	@rm -rf $(VENV)
