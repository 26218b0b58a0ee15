# `make help` lists what there is. Everything that is installed goes into .venv, everything that is
# built into build/ and evio/; a second run does only what a change asks for, without the network.

PYTHON := python3

VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PY := $(BIN)/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
PURE := $(wildcard evio_ext/core/*.c evio_ext/frame/*.c)
HEADERS := $(wildcard evio_ext/*/*.h)
EXTENSION := $(wildcard evio_ext/*/*.c) $(HEADERS)
LINUX := $(filter Linux,$(shell uname))
# The kernel that test_faults simulates is Linux'.
C_TESTS := $(filter-out $(if $(LINUX),,build/c/test_faults),$(patsubst tests/c/%.c,build/c/%,$(wildcard tests/c/*.c)))
C_TEST_SOURCES := $(wildcard tests/c/*.[ch] tests/fuzz/*.c)
# What is fuzzed: tests/fuzz/fuzz_NAME, with what it has found in tests/fuzz/corpus/NAME.
FUZZED := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_SECONDS := 60

CLANG := $(firstword $(wildcard /usr/bin/clang /usr/bin/clang-[1-9]*) $(shell command -v clang))
WARNINGS := -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
    -Wpointer-arith -Wformat=2 -Wundef -Werror
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=all
VALGRIND := valgrind --quiet --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite --error-exitcode=9

ROUNDS := 10

.PHONY: help serve echo test test-all check-py check-c check-bench sanitize sanitize-address sanitize-thread sanitize-valgrind \
    soak fuzz lint bench clean system system-cc system-test system-fuzz system-valgrind
.NOTPARALLEL:
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20
	@echo 'PYTHON=python3.12 chooses another interpreter; do a make clean first.'

serve: build/native ## start the Redis clone; ARGS are its arguments
	@$(PY) examples/redis_server.py $(ARGS)

echo: build/native ## start the echo server; ARGS are its arguments
	@$(PY) examples/echo_server.py $(ARGS)

test: system-test check-c check-py ## run all tests; ARGS are pytest's arguments

test-all: ## run all tests with every Python that evio is for, each in a Debian of its own; as root
	tests/elsewhere

# Without the extension no compiler is asked for: the tests that need what it makes are skipped, if it has not made it yet.
check-py: system-test build/native $(if $(filter-out 0,$(EVIO_NO_EXTENSION)),,$(filter %/test_faults,$(C_TESTS))) $(VENV)/test ## run the Python tests
	$(PY) -m pytest --numprocesses auto $(ARGS)

check-c: $(C_TESTS) $(FUZZED:%=build/replay/%) ## run the tests of the core and the framings, under sanitizers
	@for test in $(C_TESTS); do echo "$$test"; "$$test" || exit; done
	@for name in $(FUZZED); do echo "build/replay/$$name tests/fuzz/corpus/$$name/*"; \
	    "build/replay/$$name" tests/fuzz/corpus/$$name/* || exit; done

check-bench: build/native $(VENV)/bench ## run the tests of the benchmarks
	$(PY) -m pytest benchmarks $(ARGS)

sanitize: sanitize-address sanitize-thread sanitize-valgrind ## run the three that follow, some 8 minutes

sanitize-address: check-c system-test $(VENV)/test ## run all tests under ASan, UBSan and LSan; ARGS are pytest's arguments
	$(PY) tests/sanitized.py address $(ARGS)

sanitize-thread: build/thread/test_core system-test $(VENV)/test ## run the tests in which threads meet under TSan; ARGS are pytest's
	$<
	$(PY) tests/sanitized.py thread $(ARGS)

sanitize-valgrind: $(C_TESTS:build/c/%=build/plain/%) $(FUZZED:%=build/plain/replay_%) ## run the C tests under valgrind
	@for test in $(filter-out build/plain/replay_%,$^); do echo "$(VALGRIND) $$test"; $(VALGRIND) "$$test" || exit; done
	@for name in $(FUZZED); do echo "$(VALGRIND) build/plain/replay_$$name tests/fuzz/corpus/$$name/*"; \
	    $(VALGRIND) "build/plain/replay_$$name" tests/fuzz/corpus/$$name/* || exit; done

soak: system-test build/native $(VENV)/test ## run every situation under its heavy load, some 50 minutes; ARGS="8 12" runs these
	@PYTHONPATH=tests $(PY) -m soak $(ARGS)

fuzz: $(FUZZED:%=fuzz-%) fuzz-addresses ## fuzz framings and addresses, each for FUZZ_SECONDS; what is found goes into build/corpus

FUZZ = -max_total_time=$(FUZZ_SECONDS) -timeout=10 -print_final_stats=1 -artifact_prefix=build/fuzz/ \
    build/corpus/$(@:fuzz-%=%) tests/fuzz/corpus/$(@:fuzz-%=%)

fuzz-addresses: build/native $(VENV)/fuzz
	@mkdir -p build/fuzz build/corpus/addresses
	$(PY) tests/fuzz/fuzz_addresses.py -max_len=256 $(FUZZ)

.PRECIOUS: build/fuzz/%
fuzz-%: build/fuzz/%
	@mkdir -p build/corpus/$*
	$< -max_len=4096 $(FUZZ)

# basedpyright prefers a configuration in a folder above to ours here, and verifies what the python in PATH imports.
lint: build/native $(VENV)/lint ## check style, types and the C compilers' warnings
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PY) -m mypy --platform win32 evio
	$(PY) -m mypy --platform darwin evio
	$(PY) -m mypy --no-explicit-package-bases tests/typing/*.py
	$(BIN)/basedpyright --project pyproject.toml
	PATH="$(CURDIR)/$(BIN):$$PATH" basedpyright --verifytypes evio
	$(BIN)/stubtest evio --concise
	$(BIN)/shellcheck .ci/run tests/elsewhere
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/clang-format --dry-run -Werror $(EXTENSION) $(C_TEST_SOURCES) $(wildcard benchmarks/*/*.[ch])
	@include="$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("include"))')"; \
	for compiler in $(CC) $(CLANG); do for file in $(filter %.c,$(EXTENSION)) $(wildcard benchmarks/*/*.c); do \
	    echo "$$compiler $$file"; \
	    $$compiler -std=c11 -O2 $(WARNINGS) -Ievio_ext -isystem "$$include" -c -o /dev/null $$file || exit; \
	done; done

bench: bench-all ## run the benchmarks, some 17 minutes; bench-echo runs one, ROUNDS=4 takes a quick look

bench-%: build/native $(VENV)/bench
	@$(PY) -m benchmarks $(filter-out all,$*) --rounds $(ROUNDS) $(ARGS)

clean: ## remove everything that make has made
	rm -rf $(VENV) build dist evio.egg-info evio/_native.*.so .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find evio benchmarks examples tests -name __pycache__ -exec rm -rf {} +

# The files from here on are stamps: their dates say when the thing was last done.

$(VENV)/made: | system
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) 'pip>=25.1' 'setuptools>=77.0.3'
	@echo '$(CURDIR)' > "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/evio.pth"
	@touch $@

$(VENV)/test $(VENV)/lint $(VENV)/bench $(VENV)/fuzz: pyproject.toml $(VENV)/made
	$(PIP) --group $(@F)
	@touch $@

build/native: $(EXTENSION) setup.py pyproject.toml $(VENV)/made
	$(PY) setup.py --quiet build_ext --inplace
	@mkdir -p $(@D) && touch $@

SANITIZED := -std=c11 -O1 -g -Wall -Wextra $(SANITIZERS) -pthread

build/c/test_faults build/plain/test_faults: REPLACED := -DEVIO_SYS_REPLACED # its kernel takes the system's place

build/c/%: tests/c/%.c $(C_TEST_SOURCES) $(PURE) $(HEADERS) | system-cc
	@mkdir -p $(@D)
	$(CC) $(SANITIZED) $(REPLACED) $< $(PURE) -o $@

build/replay/%: tests/fuzz/fuzz_%.c $(C_TEST_SOURCES) $(PURE) $(HEADERS) | system-cc
	@mkdir -p $(@D)
	$(CC) $(SANITIZED) $< tests/fuzz/replay.c $(PURE) -o $@

build/fuzz/%: tests/fuzz/fuzz_%.c $(C_TEST_SOURCES) $(PURE) $(HEADERS) | system-fuzz
	@mkdir -p $(@D)
	$(CLANG) $(SANITIZED) -fsanitize=fuzzer $< $(PURE) -o $@

# Python's lock keeps most of a server's threads apart: without Python, all races there are can be seen.
build/thread/%: tests/c/%.c $(C_TEST_SOURCES) $(PURE) $(HEADERS) | system-cc
	@mkdir -p $(@D)
	$(CC) $(PLAIN) -fsanitize=thread $< $(PURE) -o $@

# Without sanitizers, which valgrind does not go together with.
PLAIN := $(filter-out $(SANITIZERS),$(SANITIZED))

build/plain/replay_%: tests/fuzz/fuzz_%.c $(C_TEST_SOURCES) $(PURE) $(HEADERS) | system-valgrind
	@mkdir -p $(@D)
	$(CC) $(PLAIN) $< tests/fuzz/replay.c $(PURE) -o $@

build/plain/%: tests/c/%.c $(C_TEST_SOURCES) $(PURE) $(HEADERS) | system-valgrind
	@mkdir -p $(@D)
	$(CC) $(PLAIN) $(REPLACED) $< $(PURE) -o $@

# What has to be there before anything else. Asked each time: it takes a moment.

define SYSTEM
import importlib.util, os, shutil, subprocess, sys, sysconfig
FUZZER = "int LLVMFuzzerTestOneInput(const char *data, unsigned long nbytes) { return data && !nbytes; }"
missing = {}
if sys.version_info < (3, 11):
    missing["python3"] = "Python 3.11 or later"
if importlib.util.find_spec("ensurepip") is None:
    missing["python3-venv"] = "Python's venv module"
extension = os.environ.get("EVIO_NO_EXTENSION", "0") in ("", "0") and sys.implementation.name == "cpython"
if (extension or "cc" in sys.argv) and shutil.which("$(firstword $(CC))") is None:
    missing["gcc"] = "a C compiler ($(firstword $(CC)))"
if extension and not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    missing["python3-dev"] = "Python's headers (Python.h)"
if "clang" in sys.argv:
    if not "$(CLANG)":
        missing["clang"] = "clang"
    elif subprocess.run(["$(CLANG)", *"-fsanitize=fuzzer -xc - -o /dev/null".split()], input=FUZZER, text=True, capture_output=True).returncode:
        missing["libclang-rt-dev"] = "libFuzzer, a part of clang"
for tool, package in ("redis-server", "redis-server"), ("redis-cli", "redis-tools"), ("strace", "strace"), ("valgrind", "valgrind"):
    if tool in sys.argv and shutil.which(tool) is None:
        missing[package] = tool
if missing:
    sys.exit(f"Missing: {', '.join(missing.values())}. On Debian and Ubuntu:\n    apt-get install {' '.join(missing)}")
endef
export SYSTEM

# strace is there on Linux alone, and Redis everywhere but on Windows.
system-test: TOOLS = $(if $(filter Windows_NT,$(OS)),,redis-server redis-cli $(if $(LINUX),strace))
system-cc: TOOLS = cc
system-fuzz: TOOLS = clang
system-valgrind: TOOLS = valgrind
system system-cc system-test system-fuzz system-valgrind:
	@command -v $(PYTHON) >/dev/null || { echo "Missing: $(PYTHON). On Debian and Ubuntu:"; \
	    echo "    apt-get install python3 python3-dev python3-venv"; exit 1; } >&2
	@$(PYTHON) -c "$$SYSTEM" $(TOOLS)
