"""Fixtures that every room may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.minutes_tiny import TinyMinutes
    from tests.tiny import Tiny

REALDATA = Path(os.environ.get("FOLDGATE_REALDATA", Path(__file__).resolve().parents[1] / ".." / "shared" / "data"))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put a test's `xdist_group` behind its id, which is how workers are chosen under `--dist loadgroup`.

    xdist 3.8 does so through an attribute that pytest 9.2 no longer reads: every worker built the tiny environment.
    """
    if not config.getoption("loadgroup", default=False):
        return
    for item in items:
        mark = item.get_closest_marker("xdist_group")
        if mark and not item.nodeid.endswith(suffix := f"@{mark.args[0]}"):
            item._id = type(item._id).parse(item.nodeid + suffix)


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real market data; skips where it is missing."""
    if not REALDATA.is_dir():
        pytest.skip(f"no real data at {REALDATA}: set FOLDGATE_REALDATA")
    return REALDATA


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Built once a session (with xdist: once a worker, so mark users `xdist_group("tiny")`). Read only, please."""
    from tests.tiny import build_tiny  # Dagster takes two seconds to import; most rooms do without

    return build_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_minutes(tmp_path_factory: pytest.TempPathFactory) -> TinyMinutes:
    """The tiny environment of minutes; mark its users `xdist_group("tiny_minutes")`. Read only, please."""
    from tests.minutes_tiny import build_tiny_minutes

    return build_tiny_minutes(tmp_path_factory.mktemp("tiny_minutes"))
