#!/usr/bin/env bash
# Fuzzes the simulation, the framings and TLS: the bytes that libFuzzer makes up are a run's choices.
#
#   fuzz.sh run SECONDS      each for that time, from its committed corpus and what earlier runs have
#                            found; reports how a run that broke a rule is seen again
#   fuzz.sh corpus SECONDS   the same, and then renews the committed corpora: the fewest and smallest
#                            files that reach every branch which is known to be reachable
#   fuzz.sh canaries SECONDS the simulation on ports with a mistake, each in turn: each must be found
#                            in that time
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/repeat.sh
mode=$1
seconds=$2

# A corpus is read at each start and run by each `make test`: it stays small.
most_files=60
most_bytes=102400

build=build/fuzz
crashes=$build/crashes
mkdir -p "$crashes"

# Each chooses the fuzzer for everything that follows.
simulation() {
  committed=tests/cpp/sim/corpus
  fuzz=$build/tests/cpp/sim/fuzz
  found=$build/corpus   # by earlier runs, here
  # A run that broke a rule is left as it stands.
  again="ASAN_OPTIONS=detect_leaks=0 $build/tests/cpp/sim/simulate --log --bytes"
  mkdir -p "$found"
}
framings() {
  committed=tests/cpp/stage/framing_corpus
  fuzz=$build/tests/cpp/stage/framing_fuzz
  found=$build/framing_corpus
  again=$fuzz
  mkdir -p "$found"
}
tls() {
  committed=tests/cpp/stage/tls_corpus
  fuzz=$build/tests/cpp/stage/tls_fuzz
  found=$build/tls_corpus
  again=$fuzz
  mkdir -p "$found"
}

cmake --preset fuzz >/dev/null
cmake --build --preset fuzz -j "${JOBS:-$(nproc)}"

# 4 KiB of choices are a run of some 10 ms: one of 20 s does not end.
run_fuzzer() {
  "$fuzz" -max_total_time="$seconds" -max_len=4096 -len_control=0 -timeout=20 -print_final_stats=1 \
    -artifact_prefix="$crashes/" "$@"
}

explore() {
  local log=$found.log
  if ! run_fuzzer "$found" "$committed" >"$log" 2>&1; then
    grep -am 1 'a rule was broken' "$log" ||
      grep -aE 'ERROR: |runtime error|Assertion|^ *#[0-9]+ 0x' "$log" | head -n 30
    local input
    input=$(grep -aoE "Test unit written to .*" "$log" | tail -n 1 | cut -d' ' -f5)
    echo "the whole report: $log; the run again:"
    echo "    $again $input"
    echo "It belongs into $committed once it is mended."
    exit 1
  fi
  grep -aE '^(Done|stat::(average|new))' "$log"
  grep -aoE 'cov: [0-9]+ ft: [0-9]+ corp: [^ ]+' "$log" | tail -n 1
}

renew() {
  local merged=$build/merged count size
  rm -rf "$merged"
  mkdir "$merged"
  # By edges alone: how often one was taken would keep ten times as many files.
  "$fuzz" -set_cover_merge=1 -use_counters=0 -max_len=4096 "$merged" "$committed" "$found" \
    >"$build/merge.log" 2>&1
  count=$(find "$merged" -type f | wc -l)
  size=$(find "$merged" -type f -printf '%s\n' | awk '{ all += $1 } END { print all + 0 }')
  echo "$count files, $size bytes"
  if [ "$count" -gt $most_files ] || [ "$size" -gt $most_bytes ]; then
    echo "more than $most_files files or $most_bytes bytes: $committed stays as it is" >&2
    exit 1
  fi
  rm -rf "$committed"
  cp -r "$merged" "$committed"
}

case $mode in
  run | corpus)
    for what in simulation framings tls; do
      echo "$what:"
      $what
      explore
      if [ "$mode" = corpus ]; then renew; fi
    done
    ;;
  canaries)
    simulation
    for ((bug = 1; bug <= 13; ++bug)); do
      scratch=$(mktemp -d)
      begin=$EPOCHREALTIME
      if IOCP_FUZZ_BUG=$bug run_fuzzer -artifact_prefix="$scratch/" "$scratch" "$committed" \
        >"$build/canary.log" 2>&1; then
        echo "bug $bug was not found in $seconds s" >&2
        how_to_repeat env "IOCP_FUZZ_BUG=$bug" "$fuzz" "-max_total_time=$seconds" -max_len=4096 \
          -len_control=0 "$committed"
        exit 1
      fi
      what=$(grep -aoE -m 1 'a rule was broken: .*|deadly signal|ERROR: AddressSanitizer: [^ ]*' \
        "$build/canary.log")
      awk -v bug=$bug -v from="$begin" -v to="$EPOCHREALTIME" -v what="$what" \
        'BEGIN { printf "bug %2d found after %.1f s: %s\n", bug, to - from, what }'
      rm -rf "$scratch"
    done
    ;;
  *)
    echo "usage: $0 run|corpus|canaries SECONDS" >&2
    exit 2
    ;;
esac
