#!/usr/bin/env bash
# mT5-small's true shape on this machine's CPU: virtual environment, install, a few steps of both
# stages, a beam-4 decode. Minutes on 2 cores.
# usage: bash launch/cpu_smoke.sh [--dry-run] [FLAGS of promot run]
#   such as --gin.INITIAL_CHECKPOINT_PATH="'/data/mt5-small'"; without one the weights are random
# --dry-run prints the commands instead.

# shellcheck source=launch/environment.sh
. "$(dirname "$0")/environment.sh"
install
become .venv/bin/promot run cpu_smoke "$@"
