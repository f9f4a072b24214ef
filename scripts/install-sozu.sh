#!/usr/bin/env bash
# Builds a release of Sōzu, which tests and bench run, from the package registry, and keeps it in
# ${XDG_CACHE_HOME:-~/.cache}/sozu-auditd, by version and the crate's checksum (scripts/sozu-releases). A build takes a few
# minutes. Does nothing when the release is there and is the binary that was built.
# Usage: scripts/install-sozu.sh [--check] [VERSION]     2.1.0 unless told; --check builds nothing, status 1 when it is not there
set -euo pipefail
cd "$(dirname "$0")/.."
check=false
if [ "${1-}" = --check ]; then check=true; shift; fi
version=${1:-2.1.0}

crate=$(awk -v version="$version" '$1 == version { print $2 }' scripts/sozu-releases)
if [ -z "$crate" ]; then
  echo "usage: scripts/install-sozu.sh [--check] [VERSION]; scripts/sozu-releases has no release $version" >&2
  exit 2
fi
root=${XDG_CACHE_HOME:-$HOME/.cache}/sozu-auditd/sozu-$version-${crate:0:16}
if [ -x "$root/sozu" ]; then
  (cd "$root" && sha256sum --quiet --check sozu.sha256 >&2) && exit 0
  echo "$root/sozu is not the binary that was built: remove $root and run scripts/install-sozu.sh $version" >&2
  exit 1
fi
if $check; then
  echo "Sōzu $version is not installed (npm run setup:tests)" >&2
  exit 1
fi

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

mkdir -p "$(dirname "$root")"
# Beside its place, and moved there when it is whole.
build=$(mktemp -d "$root.XXXXXX")
trap 'rm -rf "$build"' EXIT
echo "building Sōzu $version, which takes a few minutes"
if ! CARGO_TARGET_DIR=$build/target cargo install sozu --version "$version" --locked --quiet --root "$build/root"; then
  echo "Sōzu $version is not installed: cargo could not build it (see above)" >&2
  exit 1
fi
# cargo checks a crate against the registry's index; this checks it against what the tests were written for.
cached=$(find "${CARGO_HOME:-$HOME/.cargo}/registry/cache" -name "sozu-$version.crate" -print -quit)
if ! echo "$crate  $cached" | sha256sum --quiet --check; then
  echo "Sōzu $version is not installed: the registry's crate is not the one in scripts/sozu-releases" >&2
  exit 1
fi
mkdir "$build/kept"
mv "$build/root/bin/sozu" "$build/kept/sozu"
(cd "$build/kept" && sha256sum sozu > sozu.sha256)
mv -T "$build/kept" "$root"
