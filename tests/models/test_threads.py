"""The number of threads that a training was promised."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FRESH_PROCESS = """
import numpy as np, torch
from pipeline.models.kernels import centred_ranks
from pipeline.models.training import replayable

with replayable(seed=1, threads=1):
    column = np.asfortranarray(np.ones((4, 1), np.float32))
    centred_ranks(column.view(np.uint32), np.array([0, 2, 4]), np.empty_like(column))
    print(torch.get_num_threads())
"""


def test_the_first_parallel_kernel_leaves_torch_on_its_threads() -> None:
    """Pins weights that depend on what ran before: numba's pool, started in mid-training, set torch to all cores."""
    command = [sys.executable, "-c", FRESH_PROCESS]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["1"]
