#!/usr/bin/env bash
# generate.sh writes the generated files anew; generate.sh --check changes nothing and fails if that would change one.
# The files are api/*/zz_generated.*.go, config/crd/tierkeeper.io_*.yaml, config/rbac/*/role.yaml and xds/feed/feedv1/*.pb.go.
set -euo pipefail
cd "$(dirname "$0")/.."

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

for dir in api/*/; do
  bin/controller-gen object:headerFile=hack/boilerplate.go.txt paths="./$dir" output:object:dir="$tmp/new/$dir"
done
bin/controller-gen crd paths=./api/... output:crd:dir="$tmp/new/config/crd"
for role in operator=controllers ratelimit=usage/kube; do
  bin/controller-gen rbac:roleName="tierkeeper-${role%%=*}" paths="./${role#*=}" output:rbac:dir="$tmp/new/config/rbac/${role%%=*}"
done
bin/buf lint
bin/buf generate --output "$tmp/new"

committed() { find api config xds/feed \( -name 'zz_generated.*.go' -o -name 'tierkeeper.io_*.yaml' -o -name '*.pb.go' -o -path '*/rbac/*/role.yaml' \) -print; }

if [ "${1:-}" = --check ]; then
  mkdir "$tmp/old"
  committed | while read -r file; do
    mkdir -p "$tmp/old/$(dirname "$file")"
    cp "$file" "$tmp/old/$file"
  done
  if ! (cd "$tmp" && diff -ruN old new); then
    echo 'generated files do not match their sources (see above): run "make generate" and commit the result.' >&2
    exit 1
  fi
  exit 0
fi

# What has no source any more must not stay.
committed | while read -r file; do
  [ -f "$tmp/new/$file" ] || rm "$file"
done
cp -R "$tmp/new/." .
