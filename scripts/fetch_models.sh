#!/usr/bin/env bash
# fetch_models.sh NAME...: downloads what the tests read into the user's cache, within five minutes; never fails. With EXPCTR_MODELS
# set nothing is downloaded: the models are there, or their tests are skipped.
cd "$(dirname "$0")/.." || exit 0
if [[ -n ${EXPCTR_MODELS:-} ]]; then exit 0; fi
log=$(mktemp)
if timeout 300 ./expctr_engine data fetch "$@" >"$log" 2>&1 </dev/null; then
  echo "models: in the cache: $*"
else
  echo "models: could not be fetched ($(grep -v '^$' "$log" | tail -n 1)); tests that need them are skipped"
fi
rm -f "$log"
