#!/usr/bin/env bash
# Installs the Debian packages that tests start programs from: `install-test-packages.sh [faults|bench]`. Does nothing when
# all are there; says what is missing and how to get it when they cannot be installed.
set -euo pipefail
suite=${1-tests}

# program:package (gencat stands for the C headers, which gcc only recommends)
needed=(
  systemd-analyze:systemd
  systemd-socket-activate:systemd
  setfacl:acl
  logrotate:logrotate
  prlimit:util-linux
  openssl:openssl
  zstd:zstd
)
# Only tests that need root start these.
if [ "$(id -u)" -eq 0 ]; then needed+=(fsfreeze:util-linux mkfs.ext4:e2fsprogs strace:strace); fi
case $suite in
  tests) ;;
  faults) needed+=(nbdkit:nbdkit nbdfuse:libnbd-bin fusermount3:fuse3 gcc:gcc gencat:libc6-dev unshare:util-linux) ;;
  bench) needed=(socat:socat haproxy:haproxy gcc:gcc gencat:libc6-dev) ;;
  *) echo "usage: $0 [faults|bench]" >&2; exit 2 ;;
esac
export PATH="$PATH:/usr/sbin:/sbin"

missing=()
for entry in "${needed[@]}"; do
  command -v "${entry%%:*}" >/dev/null || missing+=("${entry##*:}")
done
[ ${#missing[@]} -eq 0 ] && exit 0

mapfile -t packages < <(printf '%s\n' "${missing[@]}" | sort -u)
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "the $suite need these Debian packages: ${packages[*]}" >&2
  echo "install them with: sudo apt-get install ${packages[*]}" >&2
  exit 1
fi
echo "installing ${packages[*]} for the $suite"
{ apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${packages[@]}"; } >/dev/null
