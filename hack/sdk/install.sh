#!/usr/bin/env bash
# install.sh DIR: installs the providers' client libraries into DIR, as the files beside this one pin them by version and
# checksum. DIR/python is for PYTHONPATH, DIR/node_modules for NODE_PATH.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=$1

cannot() {
  echo "The client libraries cannot be installed here: $* says above why; mend that." >&2
  exit 1
}

mkdir -p "$(dirname "$dir")"
tmp=$(mktemp -d "$dir.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

# The file names all that they need, so nothing is looked for beyond it: what else this machine has does not matter.
python3 -m pip install -qq --disable-pip-version-check --no-input --no-deps --only-binary=:all: \
  --require-hashes -r "$here/requirements.txt" --target "$tmp/python" || cannot pip
PYTHONPATH="$tmp/python" python3 -S -c 'import anthropic, openai' || cannot python3

cp "$here"/{package.json,package-lock.json,.npmrc} "$tmp"
npm ci --prefix "$tmp" --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null || cannot npm
NODE_PATH="$tmp/node_modules" node -e 'require("@anthropic-ai/sdk"); require("openai")' || cannot node

rm -rf "$dir"
mv "$tmp" "$dir"
