# The commands of this project. Each does all set-up itself on Debian 12: `make quickstart` and `make test` need nothing before them.
SHELL   := /bin/bash
# Build folders: the tests' (with CUDA where nvcc is) and the one of build, quickstart and install (CPU, no tests).
BUILD     ?= build
CPU_BUILD ?= build-cpu
JOBS      ?= $(shell nproc)
PREFIX    ?= /usr/local
PYTHON    ?= python3

# Debian packages by name: tools, libraries, and what only the tests need (OpenBLAS: the virtual GPU).
PACKAGES := g++ cmake ninja-build make pkg-config git ca-certificates python3 python3-pip \
            nlohmann-json3-dev libyaml-cpp-dev libfmt-dev libcli11-dev libpcre2-dev libutf8proc-dev zlib1g-dev libssl-dev \
            doctest-dev libopenblas-dev
# What the quickstart runs on, by the names of `expctr_engine data fetch`.
MODELS   := smollm2 minilm ml-100k

.PHONY: help deps build build-tests quickstart models test test-slow test-all oracles bench install clean

help:
	@echo 'make quickstart  install, build, download, and train recommenders that explain themselves; ends with a report'
	@echo 'make build       install and build for the CPU; leaves ./expctr_engine'
	@echo 'make test        install, build (CPU, and CUDA where nvcc is) and run every test suite'
	@echo 'make test-slow   sanitizers, schedules, spill report, clang-tidy, long tests        make test-all   both'
	@echo 'make oracles     compare with the reference values only, one line a case'
	@echo 'make bench       measure                make install   PREFIX=$(PREFIX) DESTDIR='
	@echo 'make deps        install the Debian packages it needs                             make clean     remove build folders'

deps:
	@scripts/install_packages.sh $(PACKAGES)

build: deps
	@mkdir -p $(CPU_BUILD)
	@cmake -S . -B $(CPU_BUILD) -G Ninja -DEXPCTR_CUDA=OFF -DEXPCTR_TESTS=OFF >$(CPU_BUILD)/configure.log 2>&1 || { cat $(CPU_BUILD)/configure.log; exit 1; }
	@cmake --build $(CPU_BUILD) -j $(JOBS)
	@echo 'built: ./expctr_engine'

build-tests: deps
	@mkdir -p $(BUILD)
	@cmake -S . -B $(BUILD) -G Ninja >$(BUILD)/configure.log 2>&1 || { cat $(BUILD)/configure.log; exit 1; }
	@grep 'No nvcc' $(BUILD)/configure.log || true
	@cmake --build $(BUILD) -j $(JOBS)

quickstart: build
	@./expctr_engine data fetch $(MODELS)
	@./expctr_engine run expctr --config configs/quickstart.yaml
	@$(PYTHON) scripts/check_quickstart.py runs/quickstart
	@echo 'report: runs/quickstart/report.html'

# Models for the tests, once, into the user's cache; the tests run without them where there is no network, and say so.
models: build-tests
	@scripts/fetch_models.sh $(MODELS)

test: build-tests models
	@$(PYTHON) scripts/run_tests.py --build $(BUILD)

test-slow: build-tests models
	@$(PYTHON) scripts/run_tests.py --build $(BUILD) --label slow

test-all: build-tests models
	@$(PYTHON) scripts/run_tests.py --build $(BUILD) --all

oracles: build-tests
	@$(PYTHON) scripts/run_oracles.py --build $(BUILD)

bench: build
	@./expctr_engine bench all

install: build
	@cmake --install $(CPU_BUILD) --prefix $(PREFIX)

clean:
	rm -rf $(BUILD) $(CPU_BUILD) build-address build-thread build-tidy expctr_engine
