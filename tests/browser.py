"""A headless browser with a profile of its own; tests that need one are skipped where there is none."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=1600,1000",
)  # fmt: skip


def dom(address: str, profile: Path, milliseconds: int = 0) -> str:
    """The page's DOM, after that much of its own time has passed."""
    browser = next((found for name in NAMES if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(NAMES)} is on this machine, so no page was opened")
    budget = [f"--virtual-time-budget={milliseconds}"] if milliseconds else []
    command = [browser, *FLAGS, f"--user-data-dir={profile}", *budget, "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout
