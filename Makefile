# `make demo` on a fresh machine needs only Python and make. GNU make 3.81 (macOS) is enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STATE = $${ORCHESTRATOR_STATE_DIR:-.state}
# An environment variable, so that pip also pins the packages that it needs to build others.
PIP = PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --quiet

.DEFAULT_GOAL := help
.PHONY: help demo up simulate storm reference test test-all release-check conformance mutants mutants-under-chaos chaos sources bench check docs format constraints clean clean-all ready not-running

help:
	@echo "make demo         run the demo: accounts, transfers, a refusal, and a worker that is killed during a saga"
	@echo "make up           run Temporal's development server and a worker on the demo's state, until Ctrl-C"
	@echo "make simulate     simulate a year of realistic use, then check every table; USERS= MONTHS= SEED=, ARGS='--kill-every 30'"
	@echo "make storm        run 200 transfers at once while workers are killed, then check every account"
	@echo "make test         run the tests, with a small part of the large test grids"
	@echo "make test-all     run the tests with every cell of every grid"
	@echo "make conformance  try every fault at every step of every example, on both databases; SLICE=i/n"
	@echo "make reference    send random events to the application and to a model of it, and compare every table; EVENTS= SEED="
	@echo "make mutants      break the engine in many ways, one at a time, and check that a test fails each time; SLICE=i/n"
	@echo "make bench        compare the engine with a plain Temporal saga, in an hour or more; QUICK=1 takes under 10 minutes"
	@echo "make chaos        run 2000 sagas while servers and workers are killed and stopped; SAGAS= MINUTES= SEED= DATABASE="
	@echo "make sources      send 5000 events, repeats and garbage through every source at once, then check; EVENTS= SEED= DATABASE="
	@echo "make check        check style, types, import rules, and that events match their published contracts"
	@echo "make release-check  build the package and use it outside of the checkout, with each Python that is here; PYTHONS="
	@echo "make docs         build the documentation site in site/; fails on a broken link or an orphan page"
	@echo "make format       fix the style"
	@echo "make constraints  pin the newest version of each dependency in constraints.txt"
	@echo "make clean        remove the state (.state) and caches; make clean-all also removes .venv"

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
	@$(BIN)/pytest -q -n 3 --dist worksteal

test-all: $(VENV)/.dev
	@$(BIN)/pytest -q -n 4 --dist worksteal -m ""

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
	$(BIN)/orchestrator check
	$(BIN)/orchestrator catalog --check

release-check: $(VENV)/.dev
	@exec $(BIN)/python -m tests.release.run $(PYTHONS) $(ARGS)

docs: $(VENV)/.docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "The site is in site/: open site/index.html, or run .venv/bin/mkdocs serve"

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Print a line before Python starts, because its imports alone may take a second.
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

# Each file records an installation. The one for development includes everything that the demo needs.
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

# Only versions, without addresses and hashes, so that any package index and any platform can be used.
constraints:
	@set -e; fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(PYTHON) -m venv "$$fresh"; \
	"$$fresh/bin/python" -m pip install --quiet --quiet --disable-pip-version-check '.[dev,docs]' $(BUILD); \
	{ echo "# The tested version of every dependency, for Python 3.11 to 3.13. Generated by: make constraints"; \
	  "$$fresh/bin/python" -m pip freeze --exclude temporal-saga-orchestrator; } > constraints.txt

BUILD := hatchling editables

# The server holds a lock until it ends, which is more reliable than a process id.
not-running:
	@[ ! -e "$(STATE)/temporal.lock" ] || $(PYTHON) -c 'import fcntl, sys; \
	fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)' "$(STATE)/temporal.lock" 2>/dev/null || \
	{ echo "A server is running on $(STATE). Stop its \`make demo\` or \`make up\` with Ctrl-C first." >&2; exit 1; }

clean: not-running
	@rm -rf "$(STATE)" .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

clean-all: clean
	@rm -rf $(VENV)
