# Everything runs from VENV (.venv), which has exactly the versions of requirements-dev.lock.
.DEFAULT_GOAL := help
PYTHON ?= python3.11
PYTHON := $(or $(shell command -v $(PYTHON)),$(shell command -v python3))
VENV ?= .venv
HOME_ASSISTANT_PYTHON ?= 3.13
FUZZ ?= 200000
KILLS ?= 3000
SOAK ?= 3600
BIN := $(VENV)/bin

.PHONY: help demo test check home-assistant fuzz soak bench bench-full format lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# What callcast itself needs, without the packages for development.
$(VENV)/.runtime: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "callcast needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

$(VENV)/.installed: requirements-dev.lock $(VENV)/.runtime
	$(BIN)/pip install --quiet --require-hashes --requirement requirements-dev.lock
	@touch $@

# What the peers of the bench need; `make test` does not need it.
$(VENV)/.bench: bench/requirements.lock $(VENV)/.installed
	$(BIN)/pip install --quiet --require-hashes --requirement bench/requirements.lock
	@touch $@

demo: $(VENV)/.runtime  ## run the service against the built-in fake RingCentral
	$(BIN)/callcast demo $(DEMO)

test: $(VENV)/.installed  ## run all tests; those that need a missing program are skipped, unless CI=true
	$(BIN)/pytest -n auto $(TESTS)

check: $(VENV)/.installed  ## check format, lint, types, import rules and vocabulary
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/check_words.py

fuzz: $(VENV)/.installed  ## try FUZZ random histories of calls and KILLS kill -9, many more than `make test`
	$(BIN)/python -m tests.unit.calls.fuzz $(FUZZ)
	$(BIN)/python -m tests.unit.polling.hinted 10000
	$(BIN)/python -m tests.system.kills $(KILLS)
	$(BIN)/python -m tests.unit.ringcentral.fuzz_bytes $(FUZZ)
	THOROUGH=1 $(BIN)/pytest -n auto --timeout 3600 tests/unit tests/integration/simulator

home-assistant:  ## give the discovery messages to Home Assistant's own code (needs uv and Python 3.13)
	uv run --no-project --isolated --python $(HOME_ASSISTANT_PYTHON) --with homeassistant==2025.4.4 --with paho-mqtt==2.1.0 tests/home_assistant/check.py

soak: $(VENV)/.installed  ## apply load and faults of every kind for SOAK seconds (3600); memory must not grow (needs mosquitto, faketime)
	$(BIN)/python -m bench.soak --seconds $(SOAK)

bench: $(VENV)/.bench  ## compare the speed with that of similar programs, three minutes (needs mosquitto); writes bench/RESULTS.md
	$(BIN)/python -m bench

bench-full: $(VENV)/.bench  ## the same with Node-RED, all scales and ten minutes of load, half an hour (needs node)
	$(BIN)/python -m bench --full --sizing

format: $(VENV)/.installed  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(VENV)/.installed  ## renew the pinned versions (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock" pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock" --group dev pyproject.toml -o requirements-dev.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock" --constraint requirements-dev.lock --group bench -o bench/requirements.lock

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
