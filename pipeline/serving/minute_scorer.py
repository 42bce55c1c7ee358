"""One live minute scored by a bundle: the functions of `infer`, with everything prepared but the row's own values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from pipeline.errors import BadInput, SchemaError
from pipeline.frames import MINUTE
from pipeline.models.normaliser import RANKED
from pipeline.models.prepared import NOTHING_MORE, Prepared
from pipeline.serving.bundle import Bundle
from pipeline.serving.infer import named_scores, part_scores, predicted, prepared
from pipeline.serving.selecting import Decision, ManagerSelector, decisions

KEY_SCHEMA: dict[str, Any] = {"session": pl.Date, "instrument": pl.String, MINUTE: pl.Datetime("us", "UTC")}


@dataclass(frozen=True)
class ScoredMinute:
    """What an `Inference` of the day holds of this minute, bit for bit.

    Parameters
    ----------
    scores : DataFrame
        `member`, key, `<head>_head`; one row a part.
    predictions : DataFrame
        Key, `<head>_pred`, `score`; one row.
    decision : Decision
    """

    scores: pl.DataFrame
    predictions: pl.DataFrame
    decision: Decision


class MinuteScorer:
    """A bundle kept ready for one row at a time.

    Parameters
    ----------
    bundle : Bundle
        One that decides by the minute, on the minute's own features alone.

    Raises
    ------
    BadInput
        A bundle that decides by the session, ranks rows against each other, or reads windows or categories.
    """

    def __init__(self, bundle: Bundle) -> None:
        scopes = {scope for scorer in bundle.scorers.values() for scope in scorer.normaliser.scopes}
        alone = bundle.window == 1 and bundle.reads == NOTHING_MORE and not scopes & set(RANKED)
        if not isinstance(bundle.selector, ManagerSelector) or not alone:
            observed = f"key {bundle.row_key}, window {bundle.window}, {bundle.reads}, scopes {sorted(scopes)}"
            rule = "a minute is scored alone where its own features decide"
            raise BadInput(rule, observed, "score the whole session with infer")
        self._bundle, self._selector = bundle, bundle.selector
        self._schema: tuple[str, ...] = tuple(bundle.manifest["schema"])
        blank = {"instrument": "", MINUTE: datetime(2000, 1, 1, tzinfo=UTC)} | dict.fromkeys(self._schema, 0.0)
        self._template = self._prepared_once(blank)
        self.score(blank)  # wakes the runtimes: the first call takes as long as a hundred

    def score(self, row: Mapping[str, Any] | pl.DataFrame) -> ScoredMinute:
        """Score and decide.

        Parameters
        ----------
        row : mapping or DataFrame of one row
            `instrument`, `minute` (UTC, its open) and every feature of the bundle, in its own unit; `session` may
            stand beside them.

        Raises
        ------
        SchemaError
            A feature is absent or unknown.
        BadInput
            Not one row; a feature is missing or not finite.
        """
        values = _named(row)
        self._require_schema(values)
        keys = _keys(values)
        x = np.array([[values[name] for name in self._schema]], np.float32)
        store = replace(self._template, rows=keys, sessions=(keys["session"][0],), values=x)
        scores = {name: raw for name, _, raw in part_scores(self._bundle, store)}
        predictions = predicted(self._bundle, scores)
        (decision,) = decisions(self._selector.decided(predictions))
        return ScoredMinute(named_scores(self._bundle, scores), predictions, decision)

    def _prepared_once(self, blank: Mapping[str, Any]) -> Prepared:
        keys = _keys(blank)
        features = keys.with_columns(pl.lit(0.0, pl.Float32).alias(name) for name in self._schema)
        return prepared(self._bundle, features, keys.with_columns(eligible=pl.lit(True)), keys.clear())

    def _require_schema(self, values: Mapping[str, Any]) -> None:
        wanted = {*KEY_SCHEMA, *self._schema}
        missing, unknown = sorted(wanted - {"session"} - values.keys()), sorted(values.keys() - wanted)
        if missing or unknown:
            raise SchemaError(
                "a minute has instrument, minute and the bundle's features",
                f"missing {missing}, unknown {unknown}",
                "build features with the study of the bundle, or refit",
            )


def _named(row: Mapping[str, Any] | pl.DataFrame) -> Mapping[str, Any]:
    if not isinstance(row, pl.DataFrame):
        return row
    if row.height != 1:
        raise BadInput("one minute is scored at a time", f"{row.height} rows", "score a session with infer")
    return row.row(0, named=True)


def _keys(values: Mapping[str, Any]) -> pl.DataFrame:
    minute = values[MINUTE]
    if not isinstance(minute, datetime) or minute.tzinfo is None:
        raise BadInput("a minute is an instant with its zone", repr(minute), "give its open as a UTC datetime")
    minute = minute.astimezone(UTC)
    return pl.DataFrame([(minute.date(), values["instrument"], minute)], schema=KEY_SCHEMA, orient="row")
