# Everything a newcomer or a developer types. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo serve test lint bench chaos lock clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## make .venv from the hashed lock

demo: install  ## run the researcher's workflow once; results in ./demo-output
	@$(BIN)/dissmodel-platform demo --output demo-output

serve: install  ## start api, worker and registry sync on this machine
	@$(BIN)/dissmodel-platform up

test: $(VENV)/.developing  ## run the whole test suite
	@$(BIN)/python -m pytest -n 3 --dist worksteal

lint: $(VENV)/.developing  ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: install  ## measure: figure, budget, yardstick in the same run
	@$(BIN)/python -m benchmarks

chaos: install  ## kill workers and runs at random under 300 experiments, and count
	@$(BIN)/python -m benchmarks.chaos

lock: $(VENV)/.developing  ## resolve the dependencies again into requirements*.lock
	@cd $(CURDIR) && sh scripts/lock.sh $(BIN)/uv

clean:  ## remove what the other targets made
	rm -rf $(VENV) demo-output build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/uv: requirements-bootstrap.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; say which with: make PYTHON=/path/to/python3.11 install"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bootstrap.lock
	@touch $@

$(VENV)/.installed: $(BIN)/uv requirements.lock pyproject.toml
	@rm -f $(VENV)/.developing
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.developing: $(VENV)/.installed requirements-dev.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.lock
	@touch $@
