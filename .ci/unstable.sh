#!/usr/bin/env bash
# Runs all tests but those of tests/interop on a Python that this machine does not have, out of Debian's unstable suite:
#
#   unstable.sh VERSION DIRECTORY
#
# DIRECTORY is made and holds a small Debian; the checkout is seen in it at its own path. Exit code 75 (EX_TEMPFAIL)
# means that there is no such Debian to be had here, and the last line on stdout says why.
set -euo pipefail
readonly VERSION=$1 ROOT=$2 UNAVAILABLE=75

unavailable() {
  echo "no Python $VERSION here: $1"
  exit "$UNAVAILABLE"
}

# The machine's own mirror: no host is named here.
mirror() {
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | awk '/\/debian\/?$/ && !found++'
}

get_debian() {
  ((EUID == 0)) || unavailable "a chroot takes root"
  type -P apt-get unshare >/dev/null || unavailable "a chroot of Debian takes apt-get and unshare"
  if ! type -P debootstrap >/dev/null; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq debootstrap; } >/dev/null 2>&1 ||
      unavailable "debootstrap cannot be installed"
  fi
  local from
  from=$(mirror)
  [[ -n $from ]] || unavailable "apt has no mirror of Debian"
  debootstrap --variant=minbase --include="ca-certificates,python$VERSION,python$VERSION-venv" unstable "$ROOT" "$from" \
    >"$ROOT.log" 2>&1 || unavailable "debootstrap could not get it: $(tail -n 1 "$ROOT.log")"
}

# How this machine reaches its package index: names, certificates and pip's configuration.
copy_settings() {
  local file
  for file in /etc/hosts /etc/resolv.conf /etc/ssl/certs/ca-certificates.crt /etc/pip.conf /etc/xdg/pip \
    "$HOME/.config/pip" "$HOME/.pip"; do
    if [[ -e $file ]]; then
      mkdir -p "$ROOT${file%/*}"
      cp -rL "$file" "$ROOT${file%/*}/"
    fi
  done
}

# In namespaces of its own: mounts and processes end with it. The browser that tests/interop needs is not in there, and
# what it tests, the bytes of the server, is tested with it on every other Python.
run_tests() {
  mkdir -p "$ROOT$PWD"
  export PIP_QUIET=2  # of a package index on this machine's disk it would say that it is not in there
  export PYTEST_ADDOPTS="${PYTEST_ADDOPTS:-} --ignore=tests/interop"
  unshare --mount --pid --fork --kill-child bash -euo pipefail -c '
    mount --bind "$PWD" "$1$PWD"
    mount --rbind /dev "$1/dev"  # with dev/pts, for the tests that open a terminal
    mount -t proc proc "$1/proc"
    exec chroot "$1" bash -euo pipefail -c "cd \"\$1\"; . .ci/lib.sh; suite /environment \"\$2\"" - "$PWD" "$2"
  ' - "$ROOT" "python$VERSION"
}

get_debian
copy_settings
run_tests
