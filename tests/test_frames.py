"""Sums that a table's hash depends on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SUMS = """
import numpy as np, polars as pl
from pipeline.frames import ordered_mean, ordered_sum
draw = np.random.default_rng(0)
book, session = np.sort(draw.integers(0, 7, 4117)), draw.integers(0, 55, 4117)
drawn = draw.standard_normal(4117) * 10 ** draw.uniform(-3, 3, 4117)
rows = pl.DataFrame({"book": book, "session": session, "value": drawn})
rows = rows.with_columns(value=pl.when(pl.col("value").abs() > 1e-3).then("value"))
value = pl.col("value")
grouped = rows.group_by("book", "session", maintain_order=True)
made = grouped.agg(ordered_sum(value), ordered_mean(value).alias("mean"))
plain = [sum(v for v in group["value"].to_list() if v is not None) for _, group in grouped]
assert made["value"].to_list() == plain
print(made["value"].to_numpy().tobytes().hex(), made["mean"].to_numpy().tobytes().hex())
"""


GROSS = """
import numpy as np, polars as pl
from pipeline.asof.measures import ORDERS, _flow
draw = np.random.default_rng(0)
names = [f"{side}_{size}_amount" for size in ORDERS.values() for side in ("buy", "sell")]
rows = pl.DataFrame({name: draw.lognormal(5, 2, 600).round(2) for name in names})
print(_flow(rows)["flow_gross"].to_numpy().tobytes().hex())
"""


@pytest.mark.parametrize("script", [SUMS, GROSS])
def test_a_sum_does_not_depend_on_the_number_of_threads(script: str) -> None:
    """Pins a panel, a backtest and a ledger whose hashes differ between machines of one core and of three."""
    made = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "POLARS_MAX_THREADS": str(threads)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in (1, 3)
    ]
    assert made[0]
    assert made[0] == made[1]
