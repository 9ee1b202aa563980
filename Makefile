# Everything starts here: `make run` trains the baseline preset, `make test` runs the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: venv run lint test test-all soak gpu clean

venv: $(VENV)/installed

# Pinned versions first, then this project without touching them.
$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

run: venv
	$(BIN)/lattice-tui train --preset baseline

test: venv
	$(BIN)/python -m pytest -n 2 -m "not slow"

# Style, layout and types; .ci/run runs it before the tests.
lint: venv
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

test-all: lint
	$(BIN)/python -m pytest

# Ten minutes under load; a day is the same with --hours 24.
soak: venv
	$(BIN)/lattice-tui soak --hours 0.1667 --preset baseline --chaos

# Says why and does nothing where there is no GPU; needs no network.
gpu: venv
	$(BIN)/lattice-tui bench gpu --out benchmarks/gpu.json --summary docs/performance.md

clean:
	rm -rf $(VENV)
