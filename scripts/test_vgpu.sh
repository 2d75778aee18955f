#!/usr/bin/env bash
# test_vgpu.sh OUT CUDA: builds the virtual GPU's own test programs in OUT and runs them with planted faults and random schedules.
set -euo pipefail
unset MAKEFLAGS MAKELEVEL MFLAGS
exec make -s -C "$(dirname "$0")/../tests/vgpu" -j "$(nproc)" OUT="$1" CUDA="$2" NVCC="$2/bin/nvcc" test
