# Everything begins here: `make demo` on a machine with only Python (3.11 or newer) and make. `make help` lists the rest.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test chaos fuzz bench check format lock clean

help: ## List what can be made
	@awk 'BEGIN { FS = ":.*## " } /^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## Set up .venv with everything that is needed (the others do it by themselves)

demo: $(VENV)/.ready ## Run the main job on real data, on a Redis of its own
	@$(BIN)/red10 demo

test: $(VENV)/.ready ## Run the tests
	@$(BIN)/python -m pytest $(ARGS)

# DURATION, SEED, SERVER (6.2 or 7.0), WORKERS, RATE; JSON=1 prints one JSON object. Ends with 1 if anything was found.
chaos: $(VENV)/.ready ## Break things for two minutes, then check that every tick was counted once (DURATION, SEED, JSON)
	@$(BIN)/python -m tests.chaos $(if $(DURATION),--duration $(DURATION)) $(if $(SEED),--seed $(SEED)) \
		$(if $(SERVER),--server $(SERVER)) $(if $(WORKERS),--workers $(WORKERS)) $(if $(RATE),--rate $(RATE)) \
		$(if $(JSON),--json)

fuzz: $(VENV)/.ready ## Run the long form of the fuzz tests (some minutes)
	@RED10TEST_FUZZ=10000 $(BIN)/python -m pytest tests/modelstore/test_forest_fuzz.py $(ARGS)

bench: $(VENV)/.ready ## Measure beside peers (trains ten thousand models first, once: some minutes)
	@$(BIN)/python -m benchmarks models $(ARGS)
	@$(BIN)/python -m benchmarks snapshots $(filter --json,$(ARGS))

check: $(VENV)/.ready ## Check format, lint, types and the direction of imports
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.ready ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix-only --quiet .

# Pins stay as they are unless pyproject.toml asks for others; `make lock ARGS=--upgrade` takes the newest. The build
# tools are locked as well. `fewest`: one version for all Pythons where one exists, for equal numbers on all of them.
lock: ## Work out requirements.lock anew from pyproject.toml
	@$(PYTHON) -m venv build/lock
	@build/lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	@printf 'hatchling\neditables\n' | build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 \
		--fork-strategy fewest --all-extras --generate-hashes --no-header --no-emit-index-url --no-emit-find-links \
		--output-file requirements.lock $(ARGS) pyproject.toml -

clean: ## Remove what was set up or built; data in red10-data stays
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.ready: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Red10 needs Python 3.11 or newer, and '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)." >&2; \
		echo "Name another one, such as: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' lacks the module venv or ensurepip (Debian: apt-get install python3-venv)." >&2; exit 1; }
	@$(PYTHON) -m ops.bootstrap $(VENV)
