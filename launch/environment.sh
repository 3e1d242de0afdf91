# shellcheck shell=bash
# Sourced by the scripts beside it: strict mode, usage, --dry-run, errors and the installation here.
# A script's header is its usage text. The first argument --dry-run makes `run` and `become` print
# their commands, quoted for pasting, instead of running them; -h or --help prints the usage.
# Written for bash 3.2 too, which macOS has.
set -euo pipefail
case "$0" in
  /*) script="$0" ;;
  *) script="$PWD/$0" ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Prints the header of the script that was called.
usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$script"; }

say() { echo "${script##*/}: $1" >&2; }

# Says in one line what is wrong and how to mend it, and ends the script. $2: exit code.
die() {
  say "$1"
  exit "${2:-2}"
}

# Prints words as one line that a shell reads as the same words.
quoted() {
  local word line=""
  for word in "$@"; do
    case "$word" in
      "" | *[!A-Za-z0-9_@%+=:,./-]*)
        case "$word" in
          *[\"\$\`\\!]*) word="'$(printf %s "$word" | sed "s/'/'\\\\''/g")'" ;;
          *) word="\"$word\"" ;;
        esac
        ;;
    esac
    line="$line $word"
  done
  printf '%s\n' "${line# }"
}

# Runs a command, or prints it.
run() { if "$dry_run"; then quoted "$@"; else "$@"; fi; }

# The same for the last command of a script, which takes its place: signals reach it.
become() { if "$dry_run"; then quoted "$@"; else exec "$@"; fi; }

# Makes .venv in the checkout and installs the package into it. $1: extras, such as [test].
install() {
  local python="${PYTHON:-python3}"
  "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null ||
    die "$python is not CPython 3.11 to 3.13, which promot_jax needs; set PYTHON to one of them"
  [ -x .venv/bin/python ] || run "$python" -m venv .venv
  # Few of the 20,000 modules that come along are ever imported, and those are compiled then.
  run .venv/bin/pip install --quiet --disable-pip-version-check --no-compile --editable ".${1:-}"
}

dry_run=false
case "${1:-}" in
  -h | --help)
    usage
    exit
    ;;
  --dry-run)
    dry_run=true
    shift
    ;;
esac
