"""What every test needs: no network, no spinning threads, and the place of the public medical data."""

from __future__ import annotations

import os

os.environ["GOMP_SPINCOUNT"] = "0"  # before torch: two busy cores make spinning OpenMP threads 30 times slower
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def medrag_data() -> Path:
    """The public medical data (its README lists what it holds); a test that needs it is skipped where it is absent."""
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("MEDRAG_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no medical data at {folder}; set MEDRAG_DATA to its folder")
    return folder.resolve()
