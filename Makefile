# `make demo` or `make test` is all the set-up there is: either makes the virtual environment first.
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow chaos check format bench reproduce clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_OUT ?= out/demo

help: ## show what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

# Debian keeps ensurepip in a package of its own; without it the new environment gets its pip from the system's.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV) 2>/dev/null || { $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(READY) ## synthetic archive -> train -> score -> evaluate -> report, under five minutes
	$(BIN)/skinvae demo --out $(DEMO_OUT)

test: check ## checks, then all tests but the slow ones
	$(BIN)/python -m pytest

test-slow: $(READY) ## the tests that take minutes
	$(BIN)/python -m pytest -m slow --timeout 3600

chaos: $(READY) ## whole jobs under seeded faults, long; writes docs/reliability.md
	$(BIN)/python -m tests.chaos --save

check: $(READY) ## format, lint, types, import directions, clusters
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m deploy.check --blanks-allowed cluster.yaml deploy/rayjob-*.yaml

format: $(READY) ## format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## everything that is timed, in one run, beside what people would use instead; writes benchmarks/results
	$(BIN)/python -m pip install --quiet --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks

reproduce: $(READY) ## the paper's experiment on the ISIC 2018 archive, five seeds: for a GPU; writes docs/results.md
	$(BIN)/python -m benchmarks.reproduction

clean: ## remove the environment and everything made
	rm -rf $(VENV) out build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
