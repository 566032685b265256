# make demo and make test do all the set-up themselves, from a Python >= 3.10 with pip and nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.installed

PYTEST  = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=10 -n $(WORKERS) --dist worksteal
WORKERS ?= 2

.PHONY: demo test test-all test-web coverage docs lint style clean

demo: $(STAMP)
	$(BIN)/pnp-mlpatch demo --out demo

# all but the tests that are marked slow
test: style
	$(PYTEST) -m "not slow"

test-all: style
	$(PYTEST)

# every test, and how much of the package they run
coverage: style
	$(PYTEST) --cov --cov-report=term:skip-covered --cov-fail-under=95

# reports, the app, and the site if it is built, in a browser; skipped without Chromium (on Debian: apt-get install chromium)
test-web: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[web]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs tests/web

style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# the site, in docs/_build/html; ONLINE=1 links to the pages of other packages
docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

# needs Node.js as well, which pyright brings or finds
lint: style
	$(BIN)/pyright --pythonpath $(BIN)/python

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,examples]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) docs/_build docs/api docs/gallery demo .pytest_cache .ruff_cache .coverage
