#!/usr/bin/env bash
# fuzz.sh TIME: runs each fuzz test of the project for TIME, such as 30s, or for a number of inputs, such as 5000x, one after the
# other; go test takes only one. With a time, go test now and then calls it a failure that the time is up.
set -euo pipefail
cd "$(dirname "$0")/.."

find . -name '*_test.go' -not -path './.data/*' -exec grep -HE '^func Fuzz[A-Za-z0-9_]*\(' {} + | sort |
  while IFS=: read -r file line; do
    name=${line#func }
    name=${name%%(*}
    echo "==> fuzzing $name in $(dirname "$file") for $1"
    go test -run '^$' -fuzz "^$name\$" -fuzztime "$1" -fuzzminimizetime 5x "$(dirname "$file")" </dev/null || exit 1
  done || {
  echo 'no fuzz test was found, or one failed (see above).' >&2
  exit 1
}
