# What the sections of `.ci/run` share. Sourced, not run.

current="start"

# What follows is about this; it is what is named if it fails.
section() {
  current=$1
  printf '\n== %s (after %s s)\n' "$current" "$SECONDS"
}

# The interpreter of a version, wherever it is; a shim on PATH may be there and yet not run.
find_python() {
  local candidate
  for candidate in "$(type -P "python$1" || true)" "$HOME/.pyenv/versions/$1".*/bin/"python$1"; do
    if [[ -x $candidate ]] && "$candidate" -c 'import ensurepip, ssl, venv' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
}

# The first code block after the marker in the README.
readme_test_command() {
  awk '/<!-- test -->/ { marked = 1; next } marked && /^```/ { if (inside) exit; inside = 1; next } inside' README.md
}

# Runs all tests: suite ENVIRONMENT PYTHON [PIP ARGUMENTS ...]
suite() {
  local environment=$1 python=$2
  shift 2
  "$python" -m venv "$environment"
  "$environment/bin/python" -m pip install -e '.[test]' "$@"
  PIP_QUIET=0 "$environment/bin/python" -m pip freeze --exclude-editable
  PYTEST_ADDOPTS="$PYTEST_ADDOPTS -q" twice "$environment/bin/python" -m pytest
}

# Runs a command that is a run of pytest. What fails is run once more, alone: a deadline that a busy machine has missed is
# no fault, and a fault fails again.
twice() {
  "$@" && return
  echo "-- once more, one by one: what has failed"
  PYTEST_ADDOPTS="-n 0 -q --last-failed --last-failed-no-failures none" "$@"
}
