# Sourced by local.sh and test.sh: makes .venv in the checkout and installs the package into it.
# usage: . launch/environment.sh [EXTRAS]   EXTRAS as pip wants them, such as [test]
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-python3}"
if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'; then
  echo "promot_jax needs CPython 3.11 to 3.13; set PYTHON to one of them" >&2
  exit 1
fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check --editable ".${1:-}"
