# `make demo` and `make test` are the two commands; `make help` lists the others.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# Debian's Python where there is one: it is the one whose headers bootstrap.sh installs.
# Another one gets a virtual environment of its own: `make test-python PYTHON=python3.13`.
ifeq ($(origin PYTHON), undefined)
PYTHON := $(firstword $(wildcard /usr/bin/python3) python3)
VENV ?= build/venv
else
VENV ?= build/venv-$(notdir $(PYTHON))
endif
JOBS ?= $(shell nproc)
# A run of everything refreshes the figures of the documentation.
BENCH_ARGS ?= --json docs/evidence/bench/results.json --chart docs/bench/chart.png
BENCH_WINDOWS_ARGS ?= --workers 1,2 --json docs/evidence/bench/windows.json

SOURCES := CMakeLists.txt pyproject.toml \
  $(shell find cpp python -type f -not -name '*.pyc' 2>/dev/null)

# What `make test-sanitizers` runs: asan, with the undefined-behaviour sanitizer, and tsan.
SANITIZERS ?= asan tsan
# Of `make soak`, on each back-end.
MINUTES ?= 1

.PHONY: help bootstrap venv-build venv demo test test-all test-cpp test-python test-windows \
  test-windows-all test-install test-32bit test-sanitizers thread-safety mutants soak fuzz \
  fuzz-corpus fuzz-canaries coverage lint format bench bench-windows clean

help: ## show this
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

bootstrap:
	@tools/bootstrap.sh

# A virtual environment that can build the package; with all that tests, linters and bench need.
venv-build: bootstrap
	@tools/venv.sh $(VENV) $(PYTHON) requirements-build.txt

venv: venv-build
	@tools/venv.sh $(VENV) $(PYTHON) requirements-dev.txt

# The package in the virtual environment, built anew when a source changed.
$(VENV)/package.stamp: $(SOURCES) | venv-build
	$(VENV)/bin/pip install -v --disable-pip-version-check --no-build-isolation --no-deps \
	  --force-reinstall --config-settings=build-dir='build/{wheel_tag}' .
	@touch $@

demo: $(VENV)/package.stamp ## build, serve real clients on every back-end, show what happened
	$(VENV)/bin/python -m iocp_bind info
	$(VENV)/bin/python -m iocp_bind demo

test: test-cpp test-python ## the tests, without the slow ones

test-cpp: bootstrap
	cmake --preset dev
	cmake --build --preset dev -j $(JOBS)
	ctest --preset dev -j $(JOBS) $(if $(FULL),,-LE '^slow$$')

test-all: export FULL := 1
test-all: test ## the same with the slow tests

test-python: venv $(VENV)/package.stamp
	$(VENV)/bin/python -m pytest $(if $(FULL),-m '') $(PYTEST_ARGS)

test-windows: venv ## the Windows port, its tests and its wheel, cross-built and run under Wine
	PYTEST_ARGS="$(PYTEST_ARGS)" tools/windows/test.sh $(VENV) $(PYTHON)

test-windows-all: export FULL := 1
test-windows-all: test-windows ## the same with the long loads

test-sanitizers: venv ## C++ and Python tests under the address, undefined-behaviour and thread sanitizers
	TESTS="$(TESTS)" PYTEST_ARGS="$(PYTEST_ARGS)" tools/sanitizers.sh $(VENV) $(SANITIZERS)

test-install: bootstrap ## pip install by build isolation alone, without liburing
	tools/test_install.sh $(PYTHON)

mutants: bootstrap ## prove that the tests of the original's defects can fail; ROWS="D01 D17" picks
	$(PYTHON) tools/mutants.py --jobs $(JOBS) $(ROWS)

soak: venv $(VENV)/package.stamp ## chaos and soak, MINUTES=n on each back-end; SOAK_ARGS="--help" for the options
	cmake --preset release
	cmake --build --preset release -j $(JOBS) --target soak_server
	$(VENV)/bin/python tests/soak/soak.py --minutes $(MINUTES) $(SOAK_ARGS)

# SECONDS is how long; what Debian 12 calls clang is clang 14.
SECONDS := 60
fuzz fuzz-corpus fuzz-canaries thread-safety: CLANG := clang libclang-rt-14-dev
fuzz: ## libFuzzer on the simulation, the framings and TLS, each for SECONDS=60
	@tools/bootstrap.sh $(CLANG)
	tools/fuzz.sh run $(SECONDS)

fuzz-corpus: ## the same, and renew the corpus that is committed
	@tools/bootstrap.sh $(CLANG)
	tools/fuzz.sh corpus $(SECONDS)

fuzz-canaries: ## fuzz ports with a mistake: each must be found within SECONDS=60
	@tools/bootstrap.sh $(CLANG)
	tools/fuzz.sh canaries $(SECONDS)

test-32bit: ## the library compiles for 32 bits
	@tools/bootstrap.sh g++-multilib
	cmake --preset dev -B build/32bit -DCMAKE_CXX_FLAGS=-m32 -DCMAKE_C_FLAGS=-m32 -DIOCP_URING=OFF -DIOCP_TLS=OFF \
	  -DIOCP_BUILD_TESTS=OFF >/dev/null
	cmake --build build/32bit -j $(JOBS)

thread-safety: ## clang checks that each lock is held where the engine says so
	@tools/bootstrap.sh $(CLANG)
	tools/thread_safety.sh $(JOBS)

coverage: venv ## lines and branches of cpp/ that all tests take; build/coverage/html
	tools/coverage.sh $(VENV)

lint: venv ## every linter
	cmake --preset tidy -DPython_EXECUTABLE=$(abspath $(VENV))/bin/python \
	  -Dpybind11_DIR="$$($(VENV)/bin/python -m pybind11 --cmakedir)" >/dev/null
	tools/lint.sh $(VENV) build/tidy

format: venv ## format everything
	git ls-files '*.cpp' '*.h' '*.c' | xargs $(VENV)/bin/clang-format -i
	$(VENV)/bin/ruff check --fix --quiet . || true
	$(VENV)/bin/ruff format .

bench: venv $(VENV)/package.stamp ## measure, side by side; BENCH_ARGS="--help" for the options
	@tools/bootstrap.sh nginx-light openssl
	cmake --preset release
	cmake --build --preset release -j $(JOBS)
	$(VENV)/bin/python bench/run.py $(BENCH_ARGS)

bench-windows: venv ## the same for Windows, under Wine
	tools/windows/bench.sh $(VENV) $(PYTHON) $(BENCH_WINDOWS_ARGS)

clean: ## remove what was built
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
