#!/usr/bin/env bash
# Coverage of what keeps and hands on results: artifacts, disk, checkpoints, score table, pairs, retrieval, handoff.
# Needs `coverage` (extra dev). Fails below 90 %. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" COVERAGE_FILE="${COVERAGE_FILE:-${TMPDIR:-/tmp}/medrag.coverage}"
tests=(tests/test_artifacts.py tests/test_checkpoint_files.py tests/test_disk.py tests/test_hostile_files.py tests/test_preference_files.py tests/data/test_scores.py tests/retrieval
  tests/callbacks/test_checkpoint_io.py tests/stages/test_embed.py tests/faults)
[[ -d tests/handoff ]] && tests+=(tests/handoff)
python -m coverage run --branch --source=medrag_lightning -m pytest -q "${tests[@]}" "$@"
for part in artifacts disk checkpoint_files score_files preference_files retrieval handoff; do
  files="*/medrag_lightning/$part.py,*/medrag_lightning/$part/*"
  [[ -e medrag_lightning/$part || -e medrag_lightning/$part.py ]] || continue
  echo "== $part"
  python -m coverage report --skip-empty --fail-under=90 --include="$files"
done
