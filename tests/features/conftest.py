"""Many tiny computations: starting threads would cost more than they do."""

from __future__ import annotations

import numba
import pytest


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)
