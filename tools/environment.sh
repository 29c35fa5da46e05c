#!/usr/bin/env bash
# Makes .venv ready for one of the purposes below. Does nothing, quickly, when it is.
#
#   tools/environment.sh proto|demo|test|check
#
# PYTHON             the interpreter to use (default: the first of 3.11 or later on PATH)
# TORCH_REQUIREMENT  what stands for "torch" on the installer's command line
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

purpose=${1:?one of: proto, demo, test, check}
torch=${TORCH_REQUIREMENT:-torch}
venv=.venv

case $purpose in
  proto) implied=(proto) arguments=() ;;
  demo) implied=(proto demo) arguments=(-e '.[engine,worker]') ;;
  test) implied=(proto demo test) arguments=(-e '.[engine,worker]' --group test) ;;
  check) implied=(proto demo test check) arguments=(-e '.[engine,worker]' --group dev) ;;
  *) echo "$0: unknown purpose '$purpose'" >&2; exit 2 ;;
esac

fail() {
  printf 'error: %s\n' "$@" >&2
  exit 1
}

# A stamp holds what the environment was made from: it is out of date when that changes,
# and when the folder is moved (programs in .venv/bin name their interpreter by full path).
wanted="$(cksum <pyproject.toml) ${PWD} ${torch}"

is_ready() {
  [ -x "$venv/bin/python" ] &&
    [ "$(cat "$venv/.ready-$purpose" 2>/dev/null)" = "$wanted" ] &&
    is_the_wanted_python
}

is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

is_the_wanted_python() {
  [ -z "${PYTHON:-}" ] || [ "$(identity "$PYTHON")" = "$(identity "$venv/bin/python")" ]
}

identity() {
  "$1" -c 'import sys; print(sys.base_prefix, sys.version)' 2>/dev/null
}

find_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    is_new_enough "$PYTHON" || fail "PYTHON=$PYTHON is no Python 3.11 or later."
    echo "$PYTHON"
    return 0
  fi
  for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
    if is_new_enough "$candidate"; then
      echo "$candidate"
      return 0
    fi
  done
  fail "Python 3.11 or later is needed and none was found on PATH" \
    "(python3 is: $(python3 --version 2>&1 || true))." \
    "Install one (Debian, Ubuntu: apt install python3 python3-venv) or name it: PYTHON=…"
}

is_usable() {
  is_new_enough "$venv/bin/python" &&
    is_the_wanted_python &&
    [ ! -e "$venv/.unfinished" ] &&
    [ "$(cat "$venv/.made-in" 2>/dev/null || pwd)" = "$PWD" ] &&
    { [ -x "$venv/bin/uv" ] || "$venv/bin/python" -m pip --version >/dev/null 2>&1; }
}

create() {
  local python
  python=$(find_python)
  echo "Making $venv with $("$python" --version) …"
  rm -rf "$venv"
  mkdir "$venv"
  touch "$venv/.unfinished"
  "$python" -m venv "$venv" ||
    fail "$python cannot make a virtual environment (Debian, Ubuntu: apt install python3-venv)."
  pwd >"$venv/.made-in"
  rm "$venv/.unfinished"
}

# uv is several times faster than pip; where it cannot be had, pip does.
choose_installer() {
  if [ -x "$venv/bin/uv" ] || "$venv/bin/python" -m pip install --quiet uv; then
    installer=("$venv/bin/uv" pip install --python "$venv/bin/python")
  else
    echo "uv cannot be installed here, so pip does the work: slower, same result."
    "$venv/bin/python" -m pip install --quiet --upgrade 'pip>=25.1' # the first with --group
    installer=("$venv/bin/python" -m pip install)
  fi
}

is_ready && exit 0

# One at a time; the lock ends with this process, however it ends.
exec 9<pyproject.toml
if command -v flock >/dev/null; then flock 9; fi
is_ready && exit 0

is_usable || create
choose_installer
if [ ${#arguments[@]} -gt 0 ]; then
  echo "Installing what 'make $purpose' needs into $venv (the first time brings torch: this is long) …"
  if [ "$torch" != torch ]; then
    # Not quoted: options of the installer, such as another index, are welcome too.
    # shellcheck disable=SC2086
    "${installer[@]}" $torch
  fi
  "${installer[@]}" "${arguments[@]}"
fi
for purpose in "${implied[@]}"; do
  printf '%s\n' "$wanted" >"$venv/.ready-$purpose"
done
