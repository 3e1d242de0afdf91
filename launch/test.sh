#!/usr/bin/env bash
# The tests on this machine: virtual environment, install with the test extra, ruff, pytest.
# usage: bash launch/test.sh [--dry-run] [FLAGS of pytest]   such as -m slow
#   bash launch/test.sh -m "not long"   the fast tests, under two minutes on two cores
# --dry-run prints the commands instead.

# shellcheck source=launch/environment.sh
. "$(dirname "$0")/environment.sh"
install "[test]"
run .venv/bin/ruff check .
run .venv/bin/ruff format --check .
become .venv/bin/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder "$@"
