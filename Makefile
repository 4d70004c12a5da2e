# make demo   environment, install, the whole chain on the mini AudioSet (PROFILE=table: 3 seeds)
# make test   the same environment, then format, lint, types and tests
# make slow   the few tests that take minutes each, and try tools
# make docs   check README and docs/, and build the site in site/
# Variables: PYTHON (3.11 or newer), VENV, PROFILE (quick or table), PIP_TORCH (flags for
# installing torch, such as an --index-url of a CPU or CUDA build), PYTEST (its flags),
# JOBS (test files run at a time; for 2 cores 3, since many tests wait).

PYTHON ?= python3
VENV ?= .venv
PROFILE ?= quick
PIP_TORCH ?=
PYTEST ?=
JOBS ?= 3
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
CODE := psl shards tools tests

.PHONY: demo test format lint types tests slow docs clean

demo: $(VENV)/.ready
	$(BIN)/python -m tools.paper.demo --profile $(PROFILE)

test: $(VENV)/.ready
	$(MAKE) -j 2 --output-sync=target lint types
	$(MAKE) tests

# torch first and alone, so that nothing else chooses its build; tinysoundfont without
# its dependency PyAudio, which only plays sound and needs system headers
$(VENV)/.ready: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt $(PIP_TORCH) torch
	$(PIP) install -q -c constraints.txt -e '.[mini,deepspeed,test,docs]'
	$(PIP) install -q -c constraints.txt --no-deps tinysoundfont
	touch $@

format: $(VENV)/.ready
	$(BIN)/ruff check -q --fix $(CODE)
	$(BIN)/ruff format -q $(CODE)

lint: $(VENV)/.ready
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --diff -q $(CODE)
	$(BIN)/lint-imports

types: $(VENV)/.ready
	$(BIN)/mypy

tests: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) \
		--dist loadfile --no-loadscope-reorder $(PYTEST)

# the tests that the others leave out: trials of tools, minutes each
slow: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow $(PYTEST)

# pages that say what is true, and a site without a broken link
docs: $(VENV)/.ready
	$(BIN)/python -m pytest tests/docs $(PYTEST)
	$(BIN)/zensical build --strict --clean

clean:
	rm -rf $(VENV) build dist site .cache *.egg-info
