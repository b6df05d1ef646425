# Everything runs from .venv, which holds exactly what requirements-dev.lock names.
.DEFAULT_GOAL := help
PYTHON ?= python3.11
PYTHON := $(or $(shell command -v $(PYTHON)),$(shell command -v python3))
VENV := .venv
FUZZ ?= 200000
KILLS ?= 3000
SOAK ?= 3600
BIN := $(VENV)/bin

.PHONY: help demo test check fuzz soak bench bench-full format lock clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(VENV)/.installed: requirements-dev.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "callcast needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes --requirement requirements-dev.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

# What the peers want beside it; `make test` needs none of it.
$(VENV)/.bench: bench/requirements.lock $(VENV)/.installed
	$(BIN)/pip install --quiet --require-hashes --requirement bench/requirements.lock
	@touch $@

demo: $(VENV)/.installed  ## the service against a built-in fake RingCentral
	$(BIN)/callcast demo $(DEMO)

test: $(VENV)/.installed  ## all tests; what this machine lacks is skipped, unless CI=true
	$(BIN)/pytest -n auto $(TESTS)

check: $(VENV)/.installed  ## format, lint, types, import rules, vocabulary
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/check_words.py

fuzz: $(VENV)/.installed  ## FUZZ random histories of calls and KILLS kill -9, many more than `make test` has
	$(BIN)/python -m tests.unit.calls.fuzz $(FUZZ)
	$(BIN)/python -m tests.system.kills $(KILLS)
	$(BIN)/python -m tests.unit.ringcentral.fuzz_bytes $(FUZZ)
	THOROUGH=1 $(BIN)/pytest -n auto --timeout 3600 tests/unit tests/integration/simulator

soak: $(VENV)/.installed  ## SOAK seconds (3600) of load and faults of every kind: nothing may grow (wants mosquitto, faketime)
	$(BIN)/python -m bench.soak --seconds $(SOAK)

bench: $(VENV)/.bench  ## speed beside what people would use instead, three minutes (wants mosquitto); writes bench/RESULTS.md
	$(BIN)/python -m bench

bench-full: $(VENV)/.bench  ## the same with Node-RED, all scales and ten minutes of load, half an hour (wants node)
	$(BIN)/python -m bench --full --sizing

format: $(VENV)/.installed  ## make the code look as `make check` wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(VENV)/.installed  ## renew the pinned versions (wants uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock" pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock" --group dev pyproject.toml -o requirements-dev.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock" --constraint requirements-dev.lock --group bench -o bench/requirements.lock

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
