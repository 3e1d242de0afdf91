#!/usr/bin/env bash
# The main job on this machine: virtual environment, install, `promot run mini`, report.
# usage: bash launch/local.sh [FLAGS of promot run]   such as --seeds 0
# A second call installs nothing anew and continues or shows the run.
. "$(dirname "$0")/environment.sh"
exec .venv/bin/promot run mini "$@"
