#!/usr/bin/env bash
# Installs the built daemon, its configuration, units and log rotation, as root. An existing configuration is kept.
# Usage: scripts/install.sh            (into /)
#        DESTDIR=/tmp/x scripts/install.sh   (into a tree, for packaging and tests; nothing is activated)
set -euo pipefail
# The daemon's account must be able to read everything, whatever the caller's umask.
umask 022
cd "$(dirname "$0")/.."
dest=${DESTDIR:-}

if [ ! -f dist/main.js ]; then
  echo "dist/ is missing: run 'npm ci && npm run build' first" >&2
  exit 1
fi
if [ -z "$dest" ] && [ "$(id -u)" -ne 0 ]; then
  echo "installing into / needs root (or set DESTDIR)" >&2
  exit 1
fi

lib=$dest/usr/lib/sozu-auditd
install -d -m 0755 "$lib" "$dest/usr/bin" "$dest/etc/sozu-auditd" "$dest/usr/share/doc/sozu-auditd"
rm -rf "$lib/dist" "$lib/schema" "$lib/node_modules"
cp -r dist schema package.json package-lock.json .npmrc "$lib/"
chmod -R a+rX,go-w "$lib"
# Runtime dependencies only.
(cd "$lib" && npm ci --omit=dev --silent)
ln -sfn ../lib/sozu-auditd/dist/main.js "$dest/usr/bin/sozu-auditd"

config=$dest/etc/sozu-auditd/sozu-auditd.toml
[ -e "$config" ] || install -m 0644 config/sozu-auditd.toml "$config"
install -D -m 0644 -t "$dest/usr/lib/systemd/system" systemd/sozu-auditd.service systemd/sozu-auditd.socket
install -D -m 0644 -t "$dest/usr/lib/systemd/system/sozu.service.d" systemd/sozu.service.d/sozu-auditd-acl.conf
install -D -m 0644 -t "$dest/usr/lib/sysusers.d" systemd/sysusers.d/sozu-auditd.conf
install -D -m 0644 -t "$dest/usr/lib/tmpfiles.d" systemd/tmpfiles.d/sozu-auditd.conf
install -D -m 0644 systemd/logrotate/sozu-auditd "$dest/etc/logrotate.d/sozu-auditd"
cp -r LICENSE README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md docs config "$dest/usr/share/doc/sozu-auditd/"
chmod -R a+rX,go-w "$dest/usr/share/doc/sozu-auditd"

if [ -z "$dest" ]; then
  systemd-sysusers sozu-auditd.conf
  systemd-tmpfiles --create sozu-auditd.conf
  if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
fi
echo "installed; next: edit ${config#"$dest"}, then 'sozu-auditd check --config ${config#"$dest"}'"
