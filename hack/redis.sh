#!/usr/bin/env bash
# Installs Debian's redis-server where no redis-server and redis-cli are on the PATH.
set -euo pipefail

missing() {
  echo "$*" >&2
  exit 1
}

if command -v redis-server >/dev/null && command -v redis-cli >/dev/null; then exit; fi
command -v apt-get >/dev/null || missing "The tests need a redis-server and a redis-cli on the PATH: install Redis 7 or Valkey first."
[ "$(id -u)" = 0 ] || missing "The tests need redis-server, and installing Debian's package of it needs root: run sudo make redis, or install Redis 7 or Valkey."
echo "==> installing Debian's redis-server (about 5 MB)"
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends redis-server || {
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends redis-server
}
