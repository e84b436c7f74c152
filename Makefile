# Two commands for a stranger: make demo, make test. Everything they need goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEPENDENCIES := pyproject.toml constraints.txt

.PHONY: help demo test test-extras lint format bench wheel clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.ready ## Train a model on embedded data, show likelihood failing and the likelihood ratio mending it
	$(BIN)/python -m oodgen.run +experiment=quickstart

test: $(VENV)/.ready-test ## Lint, types and the whole test suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-extras: $(VENV)/.ready-test ## The tests that need MLflow and Ray, which it installs
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[mlflow,cluster]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'extras or not extras' tests/test_launchers.py tests/report/test_loggers.py

lint: $(VENV)/.ready-test ## Lint and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready-test ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.ready ## Measure this machine
	$(BIN)/python -m oodgen.bench

wheel: $(VENV)/.ready ## Build the wheel into dist/
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## Remove the virtualenv and caches; runs and data stay
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .mypy_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "oodgen needs Python 3.11 or newer; set PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: $(BIN)/python $(DEPENDENCIES)
	@echo "installing oodgen into $(VENV) (minutes the first time: torch is large)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@
