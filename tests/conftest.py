"""Fixtures that every room may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REALDATA = Path(os.environ.get("FOLDGATE_REALDATA", Path(__file__).resolve().parents[1] / ".." / "shared" / "data"))


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real market data; skips where it is missing."""
    if not REALDATA.is_dir():
        pytest.skip(f"no real data at {REALDATA}: set FOLDGATE_REALDATA")
    return REALDATA
