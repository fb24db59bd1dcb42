#!/usr/bin/env bash
# From nothing to a trained and evaluated model: makes the environment, then trains the shipped default
# (the synthetic mini-hospital and a tiny reader; minutes on 2 cores). Arguments go to `fit`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
. scripts/setup.sh
exec python -m medrag_lightning fit "$@"
