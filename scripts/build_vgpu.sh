#!/usr/bin/env bash
# build_vgpu.sh OUT CUDA [TARGET...]: builds the virtual GPU of tests/vgpu into OUT with the toolkit at CUDA. The libraries are built
# when the content of the sources differs from what OUT/stamp says, whatever the dates of the files; TARGETs (test programs) always go
# through make.
set -euo pipefail
out=$1 cuda=$2
shift 2
source=$(cd "$(dirname "$0")/../tests/vgpu" && pwd)
content=$(cd "$source" && find Makefile src -type f | LC_ALL=C sort | xargs sha256sum | sha256sum)
mkdir -p "$out"
if [[ $# == 0 && -e $out/lib/libcudart.so.13 && $(cat "$out/stamp" 2>/dev/null) == "$content" ]]; then exit 0; fi

unset MAKEFLAGS MAKELEVEL MFLAGS  # a make above this one must not hand down its job slots or variables
if ! make -C "$source" -j "$(nproc)" OUT="$out" CUDA="$cuda" NVCC="$cuda/bin/nvcc" "${@:-all}" >"$out/build.log" 2>&1; then
  tail -n 40 "$out/build.log" >&2
  echo "error: the virtual GPU did not build; the whole log: $out/build.log" >&2
  echo "HINT: it needs g++ 12, the headers of CUDA 13.0 and libopenblas-dev" >&2
  exit 1
fi
[[ $# != 0 ]] || echo "$content" >"$out/stamp"
