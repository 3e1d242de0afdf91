#!/usr/bin/env bash
# The tests on this machine: virtual environment, install with the test extra, ruff, pytest.
# usage: bash launch/test.sh [FLAGS of pytest]   such as -m slow
. "$(dirname "$0")/environment.sh" "[test]"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
exec .venv/bin/python -m pytest --numprocesses=2 "$@"
