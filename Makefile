# make help lists the targets.
# Variables: PYTHON (3.11 or newer), VENV, PROFILE (of make demo: quick, or table with more
# classes and 3 seeds), PIP_TORCH (flags for installing torch, such as an --index-url of a
# CPU or CUDA build), PYTEST (its flags), JOBS (test files run at a time; for 2 cores 3,
# since many tests wait).

PYTHON ?= python3
VENV ?= .venv
PROFILE ?= quick
PIP_TORCH ?=
PYTEST ?=
JOBS ?= 3
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
CODE := psl shards tools tests

.PHONY: help demo test ci programs trackers format lint types tests without_programs slow docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z_]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.ready ## environment, then the whole chain on a miniature AudioSet
	$(BIN)/python -m tools.paper.demo --profile $(PROFILE)

test: $(VENV)/.ready ## environment, then lint, types and tests, on any machine
	$(MAKE) -j 2 --output-sync=target lint types
	$(MAKE) tests

# PSL_CI: what is missing is then an error, and no test is skipped
ci: ## install what tests can use (as root), demand all of it, then test without it
	$(MAKE) -j 2 programs $(VENV)/.ready
	$(MAKE) trackers
	PSL_CI=1 $(MAKE) test PYTEST='--durations=25 $(PYTEST)'
	$(MAKE) without_programs

programs: ## install what tests/needs.py lists (programs on Debian, as root)
	@if [ "$$(id -u)" = 0 ]; then \
		export DEBIAN_FRONTEND=noninteractive && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends \
			$$($(PYTHON) tests/needs.py) >/dev/null; \
	else echo 'make programs: not root, so nothing is installed'; fi
	$(PYTHON) tests/onnxruntime_web.py

trackers: $(VENV)/.ready ## install what tests/trackers_venv.py lists, apart from the rest
	$(BIN)/python -m tests.trackers_venv

# torch first and alone, so that nothing else chooses its build; tinysoundfont without
# its dependency PyAudio, which only plays sound and needs system headers
$(VENV)/.ready: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt $(PIP_TORCH) torch
	$(PIP) install -q -c constraints.txt -e '.[mini,deepspeed,test,docs]'
	$(PIP) install -q -c constraints.txt --no-deps tinysoundfont
	touch $@

format: $(VENV)/.ready ## format the code
	$(BIN)/ruff check -q --fix $(CODE)
	$(BIN)/ruff format -q $(CODE)

lint: $(VENV)/.ready ## check style, format and the layers of the code
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --diff -q $(CODE)
	$(BIN)/lint-imports

types: $(VENV)/.ready ## check types
	$(BIN)/mypy

tests: $(VENV)/.ready ## only the tests of make test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) \
		--dist loadfile --no-loadscope-reorder $(PYTEST)

without_programs: $(VENV)/.ready ## tests that can start programs, with all programs hidden
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.without_programs -n $(JOBS) --dist loadfile

slow: $(VENV)/.ready ## the few tests that make test leaves out: trials of tools, minutes each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow $(PYTEST)

docs: $(VENV)/.ready ## check README and docs/, and build the site in site/
	$(BIN)/python -m pytest tests/docs $(PYTEST)
	$(BIN)/zensical build --strict --clean

clean: ## remove the environment and built files
	rm -rf $(VENV) build dist site .cache *.egg-info
