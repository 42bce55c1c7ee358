"""The trial ledger: every configuration that was scored on rows a gate reads, and every opening of a locked stretch.

So the N of a deflated Sharpe ratio and the matrix of PBO are facts, not arguments. Choices on `tune` are no trials.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.fingerprints import hash_json
from pipeline.gates.chain import Chain, Row
from pipeline.gates.statistics import moments


@dataclass(frozen=True)
class Trial:
    """One configuration scored on one set of rows.

    Parameters
    ----------
    configuration : str
        Hash of everything that was chosen.
    label : str
        For people: "ensemble", or a member's name.
    evaluation : str
        Hash of the evaluation it belongs to.
    rows : str
        Name of the rows it was scored on: `paths` or `locked`, with the pin's hash.
    sessions, returns : sequences
        Net daily excess returns on those rows.
    """

    configuration: str
    label: str
    evaluation: str
    rows: str
    sessions: Sequence[date]
    returns: Sequence[float]

    @property
    def identity(self) -> str:
        return hash_json([self.configuration, self.rows, self.evaluation])


class Ledger:
    """Append-only and hash-chained; the same trial twice is one row."""

    def __init__(self, root: Path) -> None:
        self.chain = Chain(root)

    def append(self, trials: Iterable[Trial]) -> str:
        """Record trials that are not yet recorded; returns the chain's head."""
        found = {trial.identity: trial for trial in reversed(list(trials))}

        def unrecorded(rows: list[Row]) -> list[dict[str, object]]:
            known = {row["body"]["identity"] for row in rows}
            return [_body(trial) for identity, trial in reversed(found.items()) if identity not in known]

        self.chain.extend(unrecorded)
        return self.head()

    def head(self) -> str:
        return self.chain.head()

    def verify(self, anchor: str) -> None:
        """Refuses an edited, removed or reordered row, and a tail cut behind an anchored head."""
        self.chain.verify(anchor)

    def rows(self) -> pl.DataFrame:
        """number, configuration, label, evaluation, rows, n, sharpe, skew, kurtosis, returns, sessions, hash."""
        rows = [{"number": row["number"], **row["body"], "hash": row["hash"]} for row in self.chain.rows()]
        return pl.DataFrame(rows, schema=_SCHEMA, strict=False)


_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "number": pl.Int64,
    "identity": pl.String,
    "configuration": pl.String,
    "label": pl.String,
    "evaluation": pl.String,
    "rows": pl.String,
    "n": pl.Int64,
    "sharpe": pl.Float64,
    "skew": pl.Float64,
    "kurtosis": pl.Float64,
    "sessions": pl.List(pl.String),
    "returns": pl.List(pl.Float64),
    "hash": pl.String,
}


def _body(trial: Trial) -> dict[str, object]:
    m = moments(np.asarray(trial.returns))
    return {
        "identity": trial.identity,
        "configuration": trial.configuration,
        "label": trial.label,
        "evaluation": trial.evaluation,
        "rows": trial.rows,
        "n": m.n,
        "sharpe": m.sharpe,
        "skew": m.skew,
        "kurtosis": m.kurtosis,
        "sessions": [day.isoformat() for day in trial.sessions],
        "returns": [float(value) for value in trial.returns],
    }


def returns_matrix(rows: pl.DataFrame) -> np.ndarray:
    """Returns of the ledger's rows on the sessions that all of them share, shape [T, N]."""
    if rows.is_empty():
        return np.empty((0, 0))
    series = [dict(zip(r["sessions"], r["returns"], strict=True)) for r in rows.iter_rows(named=True)]
    shared = sorted(set.intersection(*(set(s) for s in series)))
    return np.array([[s[day] for s in series] for day in shared], dtype=np.float64).reshape(len(shared), len(series))
