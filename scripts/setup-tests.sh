#!/usr/bin/env bash
# Installs what the tests start and `npm test` installs nothing of: Debian packages (as root) and the releases of Sōzu, which
# are built from the package registry (minutes, once a machine).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/install-test-packages.sh
if [ "$(id -u)" -eq 0 ]; then scripts/install-test-packages.sh faults; fi
for version in 2.1.0 1.1.1; do scripts/install-sozu.sh "$version"; done
