#!/usr/bin/env bash
# Installs a release of Sōzu, the judge of test/sozu/, into .sozu/VERSION (which git ignores) from the package registry.
# Does nothing when it is there. It takes a few minutes; what is built on the way is removed again.
# Usage: scripts/install-sozu.sh [VERSION]     (2.1.0 unless told)
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:-2.1.0}

if ! [[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]]; then
  echo "usage: scripts/install-sozu.sh [VERSION], for example 2.1.0" >&2
  exit 2
fi
root=.sozu/$version
[ -x "$root/bin/sozu" ] && exit 0

if ! command -v cargo >/dev/null; then
  echo "Sōzu $version is not installed: cargo is missing (install Rust, then run scripts/install-sozu.sh $version)" >&2
  exit 1
fi
if ! command -v protoc >/dev/null; then
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "Sōzu $version is not installed: protoc is missing (sudo apt-get install protobuf-compiler)" >&2
    exit 1
  fi
  echo "installing protobuf-compiler"
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends protobuf-compiler; } >/dev/null
fi

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
echo "building Sōzu $version, which takes a few minutes"
# Installed next to its place and moved there, so that an interrupted run leaves nothing that looks whole.
if ! CARGO_TARGET_DIR=$build/target cargo install sozu --version "$version" --locked --quiet --root "$build/root"; then
  echo "Sōzu $version is not installed: cargo could not build it (see above)" >&2
  exit 1
fi
mkdir -p "$root/bin"
mv "$build/root/bin/sozu" "$root/bin/sozu.new"
mv "$root/bin/sozu.new" "$root/bin/sozu"
