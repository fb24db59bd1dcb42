#!/usr/bin/env bash
# Makes (or reuses) the Python environment. Source it: it leaves the right `python` first on PATH.
#   MEDRAG_VENV   folder of the environment (default .venv); an active VIRTUAL_ENV or conda environment is used as it is
#   MEDRAG_EXTRAS extras to install (default dev)
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3 python; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      command -v "$candidate"
      return 0
    fi
  done
  echo "setup: no Python 3.11-3.13 found. Install one, or name it: PYTHON=/path/to/python bash scripts/quickstart.sh" >&2
  return 1
}

if [ -z "${VIRTUAL_ENV:-}" ] && { [ -z "${CONDA_PREFIX:-}" ] || [ "${CONDA_DEFAULT_ENV:-base}" = base ]; }; then
  venv="${MEDRAG_VENV:-$root/.venv}"
  if [ ! -x "$venv/bin/python" ]; then
    python_bin="$(find_python)"
    echo "setup: new environment in $venv"
    "$python_bin" -m venv "$venv" || {
      rm -rf "$venv"
      echo "setup: $python_bin cannot make environments; on Debian or Ubuntu: apt-get install python3-venv" >&2
      return 1 2>/dev/null || exit 1
    }
  fi
  # shellcheck disable=SC1091
  . "$venv/bin/activate"
fi

# One stamp per (environment, pyproject): a second run installs nothing.
stamp="$(python -c 'import sys; print(sys.prefix)')/.medrag-lightning-stamp"
want="$(python - "$root" "${MEDRAG_EXTRAS:-dev}" <<'PY'
import hashlib, pathlib, sys
root = pathlib.Path(sys.argv[1])
print(hashlib.sha256((root / "pyproject.toml").read_bytes() + (root / "constraints.txt").read_bytes() + f"{root}{sys.argv[2]}{sys.version}".encode()).hexdigest())
PY
)"
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$want" ]; then
  echo "setup: installing dependencies (a few minutes the first time; ~2 GB of disk)"
  python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable ".[${MEDRAG_EXTRAS:-dev}]"
  printf '%s' "$want" > "$stamp"
else
  echo "setup: environment is up to date"
fi

# The report is looked at in a real browser by a test, which is skipped where there is none; on a CI machine one is fetched.
if [ "${CI:-}" = true ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 \
  && ! command -v chromium >/dev/null 2>&1 && ! command -v chromium-browser >/dev/null 2>&1 && ! command -v google-chrome >/dev/null 2>&1; then
  apt-get install -y -qq chromium >/dev/null 2>&1 || echo "setup: no browser could be installed; the test that needs one is skipped" >&2
fi

# GNU OpenMP threads that spin while they wait starve a busy machine; see README, "Threads".
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-0}"
export TOKENIZERS_PARALLELISM=false
