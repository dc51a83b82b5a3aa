# install: environment and dependencies · serve: the daemon · test: everything CI checks, which is
# check: format, lint, types, imports · and suite: the tests
# bench: speed, beside the machine's bandwidth (ARGS="--shape bench-0.1b --only decode") · soak: the long runs · docs: what is generated from the program itself

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
OPENAI2 := $(VENV)/.installed-openai2
NATIVE := $(VENV)/.native

.PHONY: install serve test check suite bench docs soak

install: $(STAMP) $(NATIVE)

$(VENV)/pyvenv.cfg:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cortexd needs Python 3.11 or later.")'
	$(PYTHON) -m venv $(VENV)

$(STAMP): $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(DEV_STAMP): $(STAMP)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# The tests drive the daemon with both majors of the openai package that are in use; the older lives in a folder of its own.
$(OPENAI2): $(STAMP)
	$(PIP) install --quiet --upgrade --target $(VENV)/openai2 'openai>=2,<3'
	touch $@

# Once for everybody who uses this installation; without a C++ compiler PyTorch computes instead.
$(NATIVE): $(STAMP) $(wildcard kernels/cortexd_kernels/native/*.cpp kernels/cortexd_kernels/native/*.h)
	$(BIN)/python -m cortexd_kernels.native
	touch $@

serve: install
	$(BIN)/cortexd serve

check: $(DEV_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# Two at a time: what the tests need beside packages is made while those are installed, and types are checked while the tests run.
test: $(STAMP)
	$(MAKE) --no-print-directory --jobs 2 check suite

# One more than two processors can run: there is always one that waits for a process or for the clock.
suite: $(DEV_STAMP) $(NATIVE) $(OPENAI2)
	$(BIN)/python -m pytest -n 3 --dist worksteal

bench: $(DEV_STAMP) $(NATIVE)
	$(BIN)/python -m tests.bench $(ARGS)

docs: $(DEV_STAMP)
	$(BIN)/python -m tests.docs

# Of the hundred times ten thousand random events, `make test` has thirty; of what Triton compiles, a third. CI has all of both.
soak: $(DEV_STAMP) $(NATIVE)
	$(BIN)/python -m tests.end_to_end.traffic --minutes 30
	CORTEXD_EVERY_SEED=1 $(BIN)/python -m pytest tests/lifecycle/test_invariants.py
	CORTEXD_COMPILE_EVERYTHING=1 $(BIN)/python -m pytest tests/kernels/fused
	$(BIN)/python -m tests.end_to_end.soak --kills 1000
	$(BIN)/python -m tests.end_to_end.configuration_soak --kills 1000
	$(BIN)/python -m tests.store.soak --kills 1000
