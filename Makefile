# From a fresh clone with Python >= 3.11 and make: `make demo`, then `make test`.
#
#   PYTHON       the Python that makes the environment          make demo PYTHON=python3.12
#   VENV         where the environment lies                     make demo VENV=/tmp/venv
#   JOBS         test files at a time, each in its process      make test JOBS=1
#   PYTEST_ARGS  passed to pytest                               make test PYTEST_ARGS="-k grid -x"

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
JOBS ?= 2
PYTEST_ARGS ?=
BENCH_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Everything is a wheel with a known hash: nothing is built, and nothing else can slip in.
INSTALL := $(PIP) install --quiet --no-input --require-hashes --only-binary :all:

# Stamps: what stands in them is done, and done again when the file it came from changes.
MADE := $(VENV)/.made
RUNTIME := $(VENV)/.runtime
TOOLS := $(VENV)/.tools

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint bench lock clean

help:
	@echo 'make demo    make $(VENV), then segment a scene that is made on the spot; results in $(DEMO)/'
	@echo 'make test    lint, then all tests (PYTEST_ARGS="-k word" for some)'
	@echo 'make lint    ruff and mypy'
	@echo 'make bench   measure against other programs (see benchmarks/)'
	@echo 'make lock    resolve requirements.lock and requirements-test.lock anew'
	@echo 'make clean   remove what was generated; $(VENV) stays'

demo: $(RUNTIME)
	$(BIN)/geounet demo $(DEMO)/

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(TOOLS)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.11 or newer is needed: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "make: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

$(RUNTIME): requirements.lock pyproject.toml | $(MADE)
	@echo 'installing the pinned dependencies into $(VENV) (torch is large: minutes, some GB)'
	$(INSTALL) -r requirements.lock
	$(PIP) install --quiet --no-input --no-build-isolation --no-deps --editable .
	@$(BIN)/geounet doctor --quick > $(VENV)/doctor.txt || { cat $(VENV)/doctor.txt >&2; exit 1; }
	@touch $@

$(TOOLS): requirements-test.lock $(RUNTIME)
	@echo 'installing the test tools into $(VENV)'
	$(INSTALL) -r requirements-test.lock
	@touch $@

# uv resolves for all platforms at once. It lives in an environment of its own, used only here.
LOCK := $(VENV)-lock
UV := $(LOCK)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate

lock:
	$(PYTHON) -m venv $(LOCK)
	$(LOCK)/bin/python -m pip --disable-pip-version-check install --quiet uv
	$(UV) --upgrade --group build pyproject.toml --output-file requirements.lock
	$(UV) --upgrade --group test --constraints requirements.lock pyproject.toml --output-file requirements-test.lock
	rm -rf $(LOCK)

clean:
	rm -rf $(DEMO) out dist build .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find geounet tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
