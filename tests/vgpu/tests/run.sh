#!/bin/bash
# run.sh DIRECTORY TEST...: runs the test programs, plain and with random schedules, then the planted faults.
directory=$1
shift
passed=0 failed=0 skipped=0
export VGPU_DEVICES=3 VGPU_NCCL_TIMEOUT=10

attempt() {  # attempt NAME COMMAND...
  local name=$1 output
  shift
  if output=$("$@" 2>&1); then
    passed=$((passed + 1))
    echo "ok   $name"
  else
    failed=$((failed + 1))
    echo "FAIL $name"
    tail -20 <<<"$output"
  fi
}

for test in "$@"; do
  attempt "$test" "$directory/$test"
done
for seed in 1 2 3; do
  for test in warp memory matrix async wgmma tma cluster; do
    attempt "$test with seed $seed and every check" env VGPU_SEED=$seed VGPU_CHECK=all "$directory/$test"
  done
done
attempt "eager streams" env VGPU_STREAMS=eager "$directory/async"
attempt "profile" "$(dirname "$0")/profile.sh" "$directory/matrix" "$directory/wgmma"
if [[ -n $CUDNN_INCLUDE ]]; then
  attempt "cudnn_rnn with eager streams" env VGPU_STREAMS=eager "$directory/cudnn_rnn"
  attempt "cudnn exports" "$(dirname "$0")/cudnn_exports.sh" "$directory/../../lib/libcudnn.so.9" "$CUDNN_INCLUDE"
  attempt "library calls in the profile" "$(dirname "$0")/cudnn_profile.sh" "$directory/cudnn_ops"
fi
attempt "planted faults" "$(dirname "$0")/faults.sh" "$directory/faults"
attempt "planted faults of asynchronous and cluster code" "$(dirname "$0")/faults.sh" "$directory/hopper_faults"
while read -r -d ';' reason; do
  skipped=$((skipped + 1))
  echo "SKIP vgpu $reason"
done <<<"$SKIPPED"
echo "$passed passed, $failed failed, $skipped skipped"
[[ $failed == 0 ]]
