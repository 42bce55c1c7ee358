"""Which fit rows a head trains on: its population, and a cap that keeps the newest. Nothing else is filtered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import BadInput
from pipeline.frames import MINUTE
from pipeline.labels.spec import HeadSpec, PopulationSpec
from pipeline.models.examples import label_columns
from pipeline.models.prepared import Prepared

MIN_POPULATION_ROWS = 1_000


class HeadRows(NamedTuple):
    """What a head trained on.

    Parameters
    ----------
    fit_filter : str
        Name of the population.
    fit_rows, fit_total_rows : int
        Rows it trained on, of all fit rows.
    fit_row_ratio : float
    target_source : str
        The label column.
    """

    fit_filter: str
    fit_rows: int
    fit_total_rows: int
    fit_row_ratio: float
    target_source: str


def on_fit_rows(
    targets: NDArray[np.float32],
    fit: NDArray[np.bool_],
    prepared: Prepared,
    labels: pl.DataFrame,
    heads: Sequence[HeadSpec],
    row_cap: int | None,
) -> tuple[NDArray[np.float32], dict[str, HeadRows]]:
    """Targets that are missing on the fit rows outside a head's population: then every family leaves them out.

    Parameters
    ----------
    targets : float32 [n, H]
    fit : bool [n]
        The fit rows; targets of the others stay as they are.
    row_cap : int or None
        Labelled fit rows per head, the newest kept.

    Raises
    ------
    BadInput
        Under 1,000 labelled rows of a population, labels of a softmax that are not one-hot, or a softmax whose heads
        train on different rows.
    """
    _require_one_hot(targets, fit, heads)
    populations = _populations(prepared, labels, heads)
    newest_first = np.argsort(_time(prepared)[fit], kind="stable")[::-1]
    rows, kept = np.flatnonzero(fit), targets.copy()
    trained_on: dict[str, HeadRows] = {}
    for column, head in enumerate(heads):
        used = ~np.isnan(targets[rows, column])
        if head.population is not None:
            used &= populations[head.population][rows]
            _require_enough(head, int(used.sum()))
        if row_cap is not None:
            used[newest_first[np.cumsum(used[newest_first]) > row_cap]] = False
        kept[rows[~used], column] = np.nan
        count, total = int(used.sum()), len(rows)
        trained_on[head.name] = HeadRows(head.fit_filter, count, total, count / max(total, 1), head.label)
    return kept, trained_on


def _populations(
    prepared: Prepared, labels: pl.DataFrame, heads: Sequence[HeadSpec]
) -> dict[PopulationSpec, NDArray[np.bool_]]:
    wanted = list(dict.fromkeys(head.population for head in heads if head.population is not None))
    if not wanted:
        return {}
    found = label_columns(prepared, labels, [population.column for population in wanted])
    return {population: found.select(_inside(population)).to_series().to_numpy() for population in wanted}


def _inside(population: PopulationSpec) -> pl.Expr:
    value = pl.col(population.column).cast(pl.Float64).fill_nan(None)
    inside = value == 1 if population.method == "direction_label" else value >= population.least_bps
    return inside.fill_null(False)


def _time(prepared: Prepared) -> NDArray[np.datetime64]:
    """When each row's decision falls: several instruments share an instant."""
    return prepared.rows[MINUTE if MINUTE in prepared.rows.columns else "session"].to_numpy()


def _require_enough(head: HeadSpec, rows: int) -> None:
    if rows < MIN_POPULATION_ROWS:
        rule = f"a population has {MIN_POPULATION_ROWS} labelled fit rows"
        raise BadInput(rule, f"{rows} of {head.name} under {head.fit_filter}", "widen the population or the fit rows")


def _require_one_hot(targets: NDArray[np.float32], fit: NDArray[np.bool_], heads: Sequence[HeadSpec]) -> None:
    for group in dict.fromkeys(head.softmax for head in heads if head.softmax):
        columns = [i for i, head in enumerate(heads) if head.softmax == group]
        if len({heads[i].population for i in columns}) > 1:
            raise BadInput("the heads of a softmax train on the same rows", group, "give them one population")
        truth = targets[:, columns]
        missing = np.isnan(truth)
        one_hot = (truth.sum(axis=1) == 1.0) | missing.all(axis=1)
        if not one_hot.all():
            observed = f"{group}: {truth[np.flatnonzero(~one_hot)[0]].tolist()}"
            raise BadInput("the labels of a softmax are one-hot, or all missing", observed, "correct the labels")
        if missing[fit].all():
            raise BadInput("a softmax has labels on its fit rows", f"{group}: none", "widen the fit rows")
