# Everything a contributor needs; `make help` lists it. On a machine without a GPU, PIP_ARGS can name the CPU wheel index
# that pytorch.org names for your system: make setup PIP_ARGS="--extra-index-url <that index>".
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup simulate ui lint test test-all test-gpu mutants bench docs clean

help: ## Print this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Variables: PYTHON=python3.11  VENV=.venv  PIP_ARGS=\"options for pip\"  ARGS=\"overrides for fedveil\""

setup: $(VENV)/.setup ## Install fedveil into .venv; a second call is instant.
	@echo "Ready: $(BIN)/fedveil"

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "fedveil needs Python 3.11 or newer, but PYTHON=$(PYTHON) is not; run: make setup PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.setup: $(VENV)/.venv pyproject.toml constraints.txt
	@echo "Installing fedveil into $(VENV); the first time takes minutes, most of it for torch (PIP_ARGS=-v shows progress)."
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.setup
	@echo "Installing the development tools into $(VENV)."
	@$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.setup
	@echo "Installing what builds the site into $(VENV)."
	@$(PIP) -e '.[docs]'
	@touch $@

simulate: $(VENV)/.setup ## Run a federation in this machine: make simulate ARGS="study=quick".
	@$(BIN)/fedveil simulate $(ARGS)

ui: $(VENV)/.setup ## Open the MLflow pages of all runs on this machine.
	@$(BIN)/fedveil ui $(ARGS)

lint: $(VENV)/.dev ## Check style, types and the import layers.
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint ## Run lint and every test that takes seconds, docstring examples included.
	$(BIN)/pytest -q -n auto --maxprocesses 4 --dist loadfile -m "not slow and not gpu" $(ARGS)

test-gpu: $(VENV)/.dev ## Run the tests that need a GPU; each skips with its reason where there is none.
	$(BIN)/pytest -q -rs -m gpu tests/device $(ARGS)

test-all: lint ## Run lint and all tests, the slow ones too.
	$(BIN)/pytest -q $(ARGS)

mutants: $(VENV)/.dev ## Put deliberate faults into copies of the code; each must make a test fail (minutes).
	$(BIN)/pytest -q -m slow tests/mutants $(ARGS)

bench: $(VENV)/.dev ## Measure engines, short runs, registries and transforms into docs/benchmarks.md (15 minutes).
	$(BIN)/python experiments/benchmarks/run.py $(ARGS)

docs: $(VENV)/.docs ## Build the site into build/site: documents, reference, a notebook that runs; every link checked.
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --jobs auto --conf-dir docs/site . build/site $(ARGS)
	@echo "Ready: build/site/index.html"

clean: ## Remove .venv, caches and builds; runs/ and .fedveil/ (results and vaults) stay.
	rm -rf $(VENV) build dist docs/reference .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find platform clients strategies tests -name __pycache__ -type d -prune -exec rm -rf {} +
