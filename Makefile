# make demo and make test do all the set-up themselves, from a Python >= 3.10 with pip and nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.installed

.PHONY: demo test lint clean

demo: $(STAMP)
	$(BIN)/pnp-mlpatch demo --out demo

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q --durations=10 --cov --cov-report=term:skip-covered --cov-fail-under=90

# needs Node.js as well, which pyright brings or finds
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,examples]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) demo .pytest_cache .ruff_cache .coverage
