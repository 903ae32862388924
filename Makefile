# Everything lives in .venv and build/, both made on first use.
#
#   make demo    a year of flights              make test    what must pass
#   make check   all that CI runs               make bench   the figures of docs/numbers.md
#   make demo-workers    four months of them by two workers, one killed
#   make format  what `make lint` asks for      make torch-matrix   other releases of torch
#   make crash   faults at every call of snapshots
#   make fuzz    inputs that do harm, FUZZ_SECONDS for each target
#   make kernels      what each kernel for GPUs takes; needs nvcc
#   make gpu-report   tests, checks and figures of this machine's GPU
#
# PYTHON chooses the interpreter. A recipe that fails leaves no stamp, so run it again.

PYTHON ?= python3
# For every build, those that pip starts included.
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell getconf _NPROCESSORS_ONLN)

BIN := .venv/bin
PIP := $(BIN)/python -m pip
INSTALL := $(PIP) install --quiet --constraint constraints.txt
export PATH := $(CURDIR)/$(BIN):$(PATH)

SOURCES := $(shell find engine recis tools/recis_ckpt -type f -not -name '*.pyc' -not -name '*.so') pyproject.toml
CXX_SOURCES := $(filter %.h %.cc %.cu %.cuh,$(SOURCES)) tests/crash/shim.c
TYPED := recis $(wildcard examples tools) $(wildcard engine/*.py) .ci/torch_matrix.py

.PHONY: demo demo-workers test check build lint format unit asan tsan crash bench fuzz kernels gpu-report torch-matrix clean
.NOTPARALLEL:

demo: build
	$(BIN)/python examples/flights.py

demo-workers: build
	$(BIN)/python examples/flights_workers.py --rows 100000

test: build unit
	$(BIN)/pytest

check: lint asan tsan test

# The tools that build the package are installed for good, not anew for each build as pip would,
# so that a build after an edit compiles one file. Older setuptools, which some systems put into every
# environment, cannot build the wheel of the demo's data.
.venv/tools: constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) pip
	$(INSTALL) cmake ninja pybind11 scikit-build-core 'setuptools>=70.1'
	touch $@

.venv/installed: .venv/tools constraints.txt $(SOURCES)
	$(INSTALL) --no-build-isolation --config-settings=cmake.define.RECIS_WERROR=ON '.[test,demo,ckpt]'
	touch $@

build: .venv/installed

lint: build
	ruff check .
	ruff format --check .
	clang-format --dry-run -Werror $(CXX_SOURCES)
	mypy $(TYPED)
	stubtest --allowlist tests/stubtest_allowlist.txt --ignore-unused-allowlist recis._engine

format: build
	ruff check --fix .
	ruff format .
	clang-format -i $(CXX_SOURCES)

# $(call engine_tests,folder,sanitizers) builds the C++ tests into build/folder.
engine_tests = cmake -S engine -B build/$(1) -G Ninja -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
	-DRECIS_BUILD_PYTHON=OFF -DRECIS_BUILD_TESTS=ON -DRECIS_WERROR=ON -DRECIS_SANITIZE=$(2) \
	&& cmake --build build/$(1) --target engine_tests

# GCC's ThreadSanitizer cannot lay out its memory under the wide address randomization of newer
# kernels; setarch -R switches that off, where a container lets it.
NO_ASLR := $(shell setarch $$(uname -m) -R true 2>/dev/null && echo setarch $$(uname -m) -R)

# Of an inline function that several files compile, the linker keeps any one copy: were it the one
# compiled for AVX, processors without AVX would meet it elsewhere. So those files may have none.
unit: .venv/tools
	$(call engine_tests,unit,)
	! nm -C build/unit/CMakeFiles/recis_engine.dir/*/*_avx*.o | grep ' [VWu] '
	build/unit/engine_tests
	cmake --build build/unit --target device_table_bench
	build/unit/device_table_bench build/unit/bench.json emulated 2000 500 8

ASAN := address,undefined

asan: .venv/tools
	$(call engine_tests,asan,$(ASAN))
	build/asan/engine_tests

# Data loaders fork, and a test does: its child makes threads, which ThreadSanitizer refuses unasked.
# A probe of a damaged index may never end, so the run has a limit, in seconds.
tsan: .venv/tools
	$(call engine_tests,tsan,thread)
	TSAN_OPTIONS=die_after_fork=0 $(NO_ASLR) timeout 1800 build/tsan/engine_tests

# `make test` tries a few hundred of these faults.
crash: build
	RECIS_CRASH=all $(BIN)/pytest tests/crash

bench: build
	$(BIN)/python benchmarks/lookup.py
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/tiers.py

FUZZ_SECONDS ?= 60

# `make test` replays the corpus without atheris; what is found here belongs into it.
fuzz: build
	$(INSTALL) atheris
	for target in header manifest sparse_file sparse_rows state; do \
		mkdir -p build/fuzz/$$target; \
		$(BIN)/python tests/fuzz/fuzz.py $$target -max_total_time=$(FUZZ_SECONDS) -max_len=4096 \
			build/fuzz/$$target tests/fuzz/corpus/$$target || exit 1; \
	done

kernels: .venv/tools
	$(call engine_tests,unit,)
	$(BIN)/python tools/kernels.py build/unit/compile_commands.json

# With PYTHON, which has torch for the GPU, not with .venv: see its first lines.
gpu-report:
	$(PYTHON) tools/gpu_report.py

# One wheel, three torch releases: the oldest we promise, one between, the pinned one.
torch-matrix: build
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(BIN)/python .ci/torch_matrix.py dist/recis-*.whl 2.4.1 2.9.1 2.13.0

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
