#!/usr/bin/env bash
# The main job on this machine: virtual environment, install, `promot run mini`, report.
# usage: bash launch/local.sh [--dry-run] [FLAGS of promot run]   such as --seeds 0
# A second call installs nothing anew and continues or shows the run.
# --dry-run prints the commands instead.

# shellcheck source=launch/environment.sh
. "$(dirname "$0")/environment.sh"
install
become .venv/bin/promot run mini "$@"
