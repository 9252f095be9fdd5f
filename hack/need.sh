#!/usr/bin/env bash
# need.sh go|cc|curl|python|node: fails with one sentence where something is missing that the project cannot install by itself.
set -euo pipefail
cd "$(dirname "$0")/.."

missing() {
  echo "$*" >&2
  exit 1
}

case "$1" in
go)
  command -v go >/dev/null || missing "Go 1.26 or newer is needed and no go is on the PATH: install it first."
  # go reads the version it must have from go.mod, and fetches it by itself where it may.
  said=$(go list -m 2>&1) || missing "Go 1.26 or newer is needed; this machine's says: $said"
  ;;
cc)
  [ "$(go env CGO_ENABLED)" = 1 ] && command -v "$(go env CC | cut -d' ' -f1)" >/dev/null ||
    missing "The tests run with Go's race detector, which needs a C compiler: install gcc or clang, with CGO_ENABLED not set to 0."
  ;;
curl)
  command -v curl >/dev/null || missing "The tests run the examples for callers as they are written, with curl, and no curl is on the PATH: install it first."
  ;;
python)
  said=$(python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and sys.version)' 2>&1) ||
    missing "The tests with the client libraries need Python 3.11 or newer as python3; this machine's says: $said"
  python3 -m pip --version >/dev/null 2>&1 ||
    missing "The client libraries for Python come by pip, which this python3 lacks: install it (on Debian: python3-pip)."
  ;;
node)
  command -v npm >/dev/null || missing "The tests with the client libraries need Node 20 or newer with npm, and no npm is on the PATH: install it first."
  said=$(node -p 'process.exitCode = parseInt(process.versions.node) < 20 ? 1 : 0; process.version' 2>&1) ||
    missing "The tests with the client libraries need Node 20 or newer; this machine's says: $said"
  ;;
*) missing "usage: need.sh go|cc|curl|python|node" ;;
esac
