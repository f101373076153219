# Two commands on a fresh machine: `make demo` and `make test`. Each sets up what it needs, once.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo-out
JOBS ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INPUTS := pyproject.toml constraints.txt

export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test test-full lint bench clean help

help:
	@echo "make demo       build the samples, index and search them, measure: results in $(OUT)/"
	@echo "make test       lint, types and the tests (minutes)"
	@echo "make test-full  the long suites too"
	@echo "make bench      speed, beside a peer and a limit measured in the same run"
	@echo "make clean      remove what make made"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(BIN)/python $(INPUTS)
	$(PIP) install -c constraints.txt -e '.[evaluate]'
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime $(INPUTS)
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.runtime
	$(BIN)/clinical-clip demo --out $(OUT)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -q -n $(JOBS) -m "not full"

test-full: lint
	$(BIN)/python -m pytest -q -n $(JOBS)

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) $(OUT) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
