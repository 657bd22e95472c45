# Everything runs in .venv, made on first use with any Python from 3.11 on: make PYTHON=python3.13 test
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$name"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
# Every file is named by its hash, and the build backends are among them: nothing is resolved or fetched apart.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps
LOCKED := --require-hashes --no-build-isolation --use-pep517
SOURCES := gateway metering policies demo benchmarks tests hatch_build.py
TESTS ?= tests
# Of the long run in test-deep: calls, faults of each kind, and of each kind that takes seconds. TALLYGATE_SEED repeats one.
CALLS ?= 1000000
FAULTS ?= 500
KILLS ?= 500
UV ?= uv
CAN_COMPILE := command -v cc >/dev/null || command -v gcc >/dev/null

.DEFAULT_GOAL := help
.PHONY: help install run test test-compiled test-deep fuzz mutation check compiled bench \
	bench-billing bench-outage rehearse lock clean

help: ## Say what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F '|' '{ printf "%-20s %s\n", $$1, $$2 }'

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make virtual environments (on Debian: apt-get install python3-venv)." >&2; exit 1; }

$(VENV)/.runtime: requirements/runtime.txt pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) ..."
	@$(PIP) $(LOCKED) -r requirements/runtime.txt
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@echo "Installing the development tools into $(VENV) ..."
	@$(PIP) $(LOCKED) -r requirements/dev.txt
	@touch $@

install: $(VENV)/.dev ## Install what running, testing and checking need

run: $(VENV)/.runtime ## Serve the example configuration with a demo marketplace behind it
	@$(BIN)/tallygate serve

test: $(VENV)/.dev ## Run the tests against real servers
	@$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 $(TESTS)

COMPILED_TESTS ?= tests/gateway/proxy tests/gateway/dialects tests/policies tests/framing tests/wire tests/fuzz \
	$(addprefix tests/metering/test_,batches.py breaker.py cluster.py counters.py counters_failures.py names.py wire.py) \
	tests/properties/test_counting.py tests/properties/test_journaling.py tests/system/test_serve.py tests/system/test_exact.py

# The checkout comes last in the path: what Python puts there for `-m`, and pytest by itself, would come first.
test-compiled: compiled ## Run the tests of the data path on the compiled modules (needs a C compiler)
	@PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/$(COMPILED):$(CURDIR) $(BIN)/python -m pytest --import-mode=append -p tests.compiled \
		--numprocesses=auto --maxprocesses=4 $(COMPILED_TESTS)

# A marker given here replaces the one of pyproject.toml. Scenarios kill and stop processes of their own only.
test-deep: $(VENV)/.dev ## Run the long scenarios, generated tests with many more examples, and test-compiled
	@if $(CAN_COMPILE); then $(MAKE) --no-print-directory test-compiled; \
		else echo "There is no C compiler, so test-compiled is left out."; fi
	@HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 \
		-m "deep or deeper or hypothesis" $(TESTS)
	@$(BIN)/python -m tests.faults.long_run --calls $(CALLS) --each $(FAULTS) --slow $(KILLS)

check: $(VENV)/.dev ## Lint, check formatting, types and import contracts
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports

MINUTES ?= 30

fuzz: $(VENV)/.dev ## Fuzz what reads bytes from outside, for MINUTES=30 in all
	@$(BIN)/python -m tests.fuzz --minutes $(MINUTES)

mutation: $(VENV)/.dev ## Change the rules in small ways and see that the tests notice (takes hours for all of it)
	@$(BIN)/python -m tests.mutation $(PARTS)

COMPILED := build/compiled

$(COMPILED): $(VENV)/.dev $(shell find gateway metering policies -name '*.py' -o -name '*.lua') hatch_build.py
	@rm -rf $(COMPILED) build/wheel
	@echo "Compiling the data path ..."
	@TALLYGATE_COMPILE=1 $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--wheel-dir build/wheel .
	@$(PIP) --target $(COMPILED) build/wheel/*.whl

compiled: $(COMPILED) ## Compile the data path into build/compiled (needs a C compiler)

bench: $(VENV)/.dev ## Measure the proxy against its peers, plain and, where there is a C compiler, compiled
	@if $(CAN_COMPILE); then $(MAKE) --no-print-directory compiled; fi
	@$(BIN)/python -m benchmarks

bench-billing: $(VENV)/.dev ## Close a month of 100,000 accounts and 10 million rows of usage
	@$(BIN)/python -m benchmarks.billing

bench-outage: $(VENV)/.dev ## Take Redis away for a minute under 500 calls a second
	@$(BIN)/python -m benchmarks.outage

rehearse: $(VENV)/.runtime ## Run made-up customers through a year of billing and check that it adds up
	@$(BIN)/tallygate rehearse --from 2026-01 --to 2027-01

LOCK = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	--extra embedded pyproject.toml requirements/build.in

lock: ## Resolve the dependencies anew (needs uv; UV=/path/to/uv)
	$(LOCK) --output-file requirements/runtime.txt
	$(LOCK) --extra dev --constraints requirements/runtime.txt --output-file requirements/dev.txt

clean: ## Remove the environment and caches; data are kept
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
