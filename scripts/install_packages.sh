#!/usr/bin/env bash
# install_packages.sh PACKAGE...: installs the Debian packages that are missing. Needs no root when none is. As root it installs
# directly, else through sudo; without either it prints the line to run and exits with 1.
set -euo pipefail

if ! command -v dpkg-query >/dev/null; then
  echo "deps: this is no Debian system; taken to be installed: $*"
  exit 0
fi
missing=()
for package in "$@"; do
  dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
done
if [[ ${#missing[@]} == 0 ]]; then
  echo "deps: all $# packages are installed"
  exit 0
fi

install="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
echo "deps: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
if [[ $(id -u) == 0 ]]; then
  bash -c "$install" && exit 0
elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
  sudo bash -c "export DEBIAN_FRONTEND=noninteractive; $install" && exit 0
fi
cat >&2 <<EOF
error: these packages are missing and could not be installed: ${missing[*]}
HINT: as root, run
  $install
EOF
exit 1
