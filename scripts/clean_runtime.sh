#!/usr/bin/env bash
# Proof that a deployer needs the extra `runtime` alone: a new environment without lightning and trl verifies a bundle and answers.
#   bash scripts/clean_runtime.sh BUNDLE QUESTION [CHOICES [IMAGE]]
#   MEDRAG_CLEAN_VENV   folder of the environment (default: a temporary one, removed at the end); one that is there is reused
# Without BUNDLE it only makes the environment and imports what answering needs. Some minutes: it installs torch.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
unset PYTHONPATH VIRTUAL_ENV
bundle="${1:-}"; question="${2:-is there a finding?}"; choices="${3:-}"; image="${4:-}"
[ -z "$bundle" ] || bundle="$(cd "$bundle" && pwd)"
[ -z "$image" ] || image="$(cd "$(dirname "$image")" && pwd)/$(basename "$image")"
venv="${MEDRAG_CLEAN_VENV:-}"
if [ -z "$venv" ]; then
  temporary="$(mktemp -d)"
  trap 'rm -rf "$temporary"' EXIT
  venv="$temporary/venv"
fi
python="$venv/bin/python"
if [ ! -x "$python" ]; then
  echo "clean_runtime: new environment"
  "${PYTHON:-python3}" -m venv "$venv"
fi
"$python" -m pip install --disable-pip-version-check --quiet --constraint "$root/constraints.txt" "$root[runtime]"
cd "$venv"  # not the source tree: what is proved is what was installed
export GOMP_SPINCOUNT=0 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
"$python" - <<'PY'
import importlib.util
import sys

import medrag_lightning.answering
import medrag_lightning.models.hf_reader
import medrag_lightning.retrieval.source

absent = ("lightning", "pytorch_lightning", "trl", "peft", "accelerate", "torchmetrics", "jsonargparse", "sklearn", "matplotlib")
there = [name for name in absent if importlib.util.find_spec(name)]
sys.exit(f"clean_runtime: {', '.join(there)} should not be here" if there else 0)
PY
if "$python" -m medrag_lightning fit >/dev/null 2>fit.err; then echo "clean_runtime: fit should need the extra train" >&2; exit 1; fi
grep -q "medrag-lightning\[train\]" fit.err
if [ -n "$bundle" ]; then
  "$python" -m medrag_lightning verify "$bundle"
  arguments=(--question "$question" --format json)
  [ -z "$choices" ] || arguments+=(--choices "$choices")
  [ -z "$image" ] || arguments+=(--image "$image")
  "$python" -m medrag_lightning answer "$bundle" "${arguments[@]}"
fi
echo "clean_runtime: passed"
