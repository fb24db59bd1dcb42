#!/usr/bin/env bash
# Every check and test, on a fresh machine or an old one: environment, lint, types, layers, tests.
# Extra arguments go to pytest, for example: bash scripts/test.sh -m slow
#   TEST_PROCESSES  how many processes share the tests, file by file (default 2, which suits two cores)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
. scripts/setup.sh
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

echo "== ruff";        ruff check .
echo "== mypy";        mypy
echo "== layers";      lint-imports
echo "== torchvision"; python -c 'import importlib.util, sys; sys.exit("a torchvision that does not match the CPU torch breaks imports: uninstall it" if importlib.util.find_spec("torchvision") and not __import__("torch").cuda.is_available() else 0)'
echo "== pytest";      python -m pytest -n "${TEST_PROCESSES:-2}" --dist loadfile "$@"
