"""Laws that every registered model family obeys. Each red names the member, the rows and both values."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import polars as pl

from pipeline.frames import row_key
from pipeline.models.inputs import Inputs
from pipeline.models.preparing import Part
from pipeline.models.scoring import Scorer


def _same(whole: pl.DataFrame, part: pl.DataFrame, what: str, scorer: Scorer) -> None:
    key = row_key(part)
    joined = part.join(whole, on=key, how="left", suffix="_whole", maintain_order="left")
    for head in scorer.card.heads:
        column = f"{head.name}_head"
        a = joined[column].to_numpy().view(np.uint32)
        b = joined[f"{column}_whole"].to_numpy().view(np.uint32)
        if not np.array_equal(a, b):
            at = int(np.flatnonzero(a != b)[0])
            row = joined.row(at, named=True)
            raise AssertionError(
                f"{scorer.card.name}: {what} changes {column} of {' '.join(str(row[name]) for name in key)} "
                f"from {row[column + '_whole']!r} to {row[column]!r}; remedy: serve from the fixed batch only"
            )


def check_scores_do_not_depend_on_other_sessions(scorer: Scorer, tables: Part, sessions: Sequence[date]) -> None:
    """Each session scored alone, from no more than its window, gives the bits of the whole run."""
    whole = _score(scorer, tables, sessions)
    axis = tables.standing["session"].unique().sort().to_list()
    for day in sessions:
        at = axis.index(day)
        window = pl.col("session").is_in(axis[max(0, at - scorer.window + 1) : at + 1])
        alone = _score(scorer, Part(*(frame if frame is None else frame.filter(window) for frame in tables)), [day])
        _same(whole.filter(session=day), alone, "scoring the session alone", scorer)


def check_scores_do_not_depend_on_the_batch(scorer: Scorer, inputs: Inputs, seed: int = 0) -> None:
    """Any subset of rows, at any place of any batch, gives the same bits."""
    draw = np.random.default_rng(seed)
    whole = scorer.score_inputs(inputs)
    for size in (1, 2, 63, 64, 65, len(inputs)):
        index = draw.permutation(len(inputs))[:size]
        _same(whole, scorer.score_inputs(inputs.take(index)), f"a batch of {size} shuffled rows", scorer)


def check_scores_do_not_see_the_future(scorer: Scorer, tables: Part, day: date) -> None:
    """Everything after `day` replaced: its scores keep their bits."""
    later = pl.col("session") > day
    measured = [c for c, t in tables.features.schema.items() if t == pl.Float32]
    spoilt = tables.features.with_columns(
        pl.when(later).then(9.0).otherwise(pl.col(c)).cast(pl.Float32).alias(c) for c in measured
    )
    closed = tables.standing.with_columns(eligible=pl.col("eligible") & ~later)
    paths = _spoilt_bars(tables.paths, day) if tables.paths is not None else None
    whole = _score(scorer, tables, tables.standing["session"].unique().to_list())
    _same(whole, _score(scorer, Part(spoilt, closed, paths), [day]), "a changed future", scorer)


def _spoilt_bars(paths: pl.DataFrame, day: date) -> pl.DataFrame:
    bars = paths["channels"].to_numpy().copy()
    bars[(paths["session"] > day).to_numpy()] = 9.0
    return paths.with_columns(channels=pl.Series(bars, dtype=paths.schema["channels"]))


def _score(scorer: Scorer, tables: Part, sessions: Sequence[date]) -> pl.DataFrame:
    return scorer.score(tables.features, tables.standing, sessions, tables.paths)


def check_probabilities_are_open(scorer: Scorer, scores: pl.DataFrame) -> None:
    """Probability heads lie strictly inside (0, 1), so that logits exist; nothing is null or NaN."""
    for head in scorer.card.heads:
        values = scores[f"{head.name}_head"]
        assert values.dtype == pl.Float32, f"{head.name}: {values.dtype}"
        assert values.null_count() == 0, f"{head.name}: {values.null_count()} nulls"
        assert values.is_finite().all(), f"{scorer.card.name}: {head.name} has values that are not finite"
        if head.kind == "probability":
            inside = values.is_between(0.0, 1.0, closed="none").all()
            assert inside, f"{scorer.card.name}: {head.name} spans {values.min()}..{values.max()}"
