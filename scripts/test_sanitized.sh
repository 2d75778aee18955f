#!/usr/bin/env bash
# test_sanitized.sh address,undefined | thread: builds the CPU side with these sanitizers in a folder of its own and runs the unit tests.
# Under the thread sanitizer only test cases run whose name speaks of threads or parallel work: everything parallel goes through the pool
# they test.
set -euo pipefail
cd "$(dirname "$0")/.."
sanitizers=$1
build=build-${sanitizers%%,*}
unset MAKEFLAGS MAKELEVEL MFLAGS LD_LIBRARY_PATH

mkdir -p "$build"
log=$build/build.log
cmake -S . -B "$build" -G Ninja -DEXPCTR_CUDA=OFF -DEXPCTR_SANITIZE="$sanitizers" >"$log" 2>&1 || { cat "$log"; exit 1; }
cmake --build "$build" -j "$(nproc)" >"$log" 2>&1 || { tail -n 60 "$log"; exit 1; }

export UBSAN_OPTIONS=print_stacktrace=1 ASAN_OPTIONS=detect_stack_use_after_return=1 TSAN_OPTIONS=halt_on_error=1
if [[ $sanitizers != thread ]]; then
  exec python3 scripts/run_tests.py --build "$build" --only '^(?!rooms$|tools$|cuda$)' --without-skips
fi
passed=0 failed=0
cases=('--test-case=*thread*,*parallel*' --test-suite-exclude=slow,perf --no-colors)
for program in "$build"/tests/test_*; do
  [[ -x $program && -f $program ]] || continue
  names=$("$program" --list-test-cases "${cases[@]}" | grep -ciE 'thread|parallel' || true)
  [[ $names -gt 0 ]] || continue
  if "$program" "${cases[@]}"; then
    passed=$((passed + names))
  else
    failed=$((failed + 1))
  fi
done
echo "$passed passed, $failed failed, 0 skipped"
[[ $failed == 0 ]]
