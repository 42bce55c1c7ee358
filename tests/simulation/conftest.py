"""Markets that the room's tests share; building one is deterministic, so sharing hides nothing."""

from __future__ import annotations

import pytest

from pipeline.simulation.market import SimulatedMarket, simulate
from pipeline.simulation.profiles import PROFILES


@pytest.fixture(scope="package")
def tiny() -> SimulatedMarket:
    return simulate(PROFILES["tiny"])


@pytest.fixture(scope="package")
def demo() -> SimulatedMarket:
    return simulate(PROFILES["demo"])


@pytest.fixture(scope="package")
def null() -> SimulatedMarket:
    """The demo's size without any planted signal."""
    return simulate(PROFILES["demo"].model_copy(update={"signal": 0.0}))
