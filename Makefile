# The commands of this project. `make quickstart` and `make test` do all set-up themselves on Debian 12.
SHELL := /bin/bash
BUILD ?= build
JOBS  ?= $(shell nproc)

.PHONY: build test clean

build:
	@cmake -S . -B $(BUILD) -G Ninja >/dev/null && cmake --build $(BUILD) -j $(JOBS)

test: build
	@ctest --test-dir $(BUILD) --output-on-failure

clean:
	rm -rf $(BUILD) expctr_engine
