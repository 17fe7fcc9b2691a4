#!/usr/bin/env bash
# Installs what the interop tests need beside Python: the packages of package.json, at their exact versions, into
# node_modules (ignored by git), and Chromium where there is none.
set -euo pipefail
cd "$(dirname "$0")"

if ! type -P npm >/dev/null; then
  echo "node and npm are needed: install Node 18 or later" >&2
  exit 1
fi
npm ls --depth=0 >/dev/null 2>&1 || npm install --no-package-lock --loglevel=error

if ! type -P chromium chromium-browser google-chrome >/dev/null; then
  if ((EUID != 0)) || ! type -P apt-get >/dev/null; then
    echo "chromium is needed: install it (on Debian: apt-get install chromium)" >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  install=(apt-get install -y -qq --no-install-recommends chromium)
  "${install[@]}" >/dev/null || { apt-get update -qq && "${install[@]}" >/dev/null; }
fi
