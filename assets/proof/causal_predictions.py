"""Raw scores, calibrated scores and decisions of a judged bundle under the same laws, from stored panel rows on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from assets.proof.causal_features import evenly, stored_minutes, stored_sessions
from assets.proof.contract import Progress
from assets.proof.counting import FUTURE, PAST, Certificate, Certified
from pipeline.errors import IncompleteTables
from pipeline.features import laws
from pipeline.features.compute import compute, path_channels
from pipeline.features.history import History
from pipeline.features.minutes import laws as minute_laws
from pipeline.features.minutes import schema
from pipeline.features.minutes.compute import minute_features
from pipeline.features.plan import Plan, plan
from pipeline.features.spec import Family, Feature
from pipeline.frames import MINUTE_ROW as MINUTE_KEY
from pipeline.frames import ROW, canonical
from pipeline.serving.bundle import Bundle
from pipeline.serving.infer import infer, named_scores, part_scores, predicted, prepared
from pipeline.serving.minute_scorer import MinuteScorer
from pipeline.serving.selecting import ManagerSelector
from resources.environments import Environment

RAW, CALIBRATED, DECISIONS = "raw scores", "calibrated scores", "decisions"
LAWS = (laws.check_future_cut, laws.check_past_cut, laws.check_batch_range, laws.check_batch_order)
UNIVERSE = "a prediction is the same without the names that may not be scored"
MINUTE = timedelta(minutes=1)


def kinds_of(columns: Sequence[str]) -> dict[str, list[str]]:
    """What each column of a prediction is."""
    found: dict[str, list[str]] = {RAW: [], CALIBRATED: [], DECISIONS: []}
    for name in columns:
        found[RAW if name.endswith("_head") else CALIBRATED if name.endswith("_pred") else DECISIONS].append(name)
    return found


def wide(bundle: Bundle, scores: pl.DataFrame, predictions: pl.DataFrame, decided: pl.DataFrame) -> pl.DataFrame:
    """One row a key: `<part> <head>_head`, `<head>_pred`, `score` and the decision's numbers."""
    key, table = list(bundle.row_key), predictions.with_columns(pl.col("score").alias("policy score")).drop("score")
    for part in bundle.parts:
        own = scores.filter(pl.col("member") == part.name).drop("member")
        table = table.join(own.rename(lambda c, p=part.name: f"{p} {c}" if c.endswith("_head") else c), on=key)
    return table.join(decided, on=key, how="left").sort(key)


class SessionPredictions:
    """Scores and orders of sessions, from panel rows: live where one session is asked for, research where many are.

    Parameters
    ----------
    bundle : Bundle
    features : Plan
        Of the bundle's study.
    sessions : sequence of date
        All that are stored; the first ones have no whole window, and are not scored.
    """

    def __init__(self, bundle: Bundle, features: Plan, sessions: Sequence[date]) -> None:
        self.bundle, self.features, self.first = bundle, features, sessions[bundle.window - 1]
        self.lookback = features.lookback + bundle.window - 1

    def __call__(self, inputs: laws.FeatureInputs, _: Plan, sessions: Sequence[date]) -> pl.DataFrame:
        """As the `calculate` of a subject; sessions that hold too few eligible names have no rows."""
        known, wanted = inputs.sessions, set(sessions)
        enough = inputs.panel.filter("eligible").group_by("session").len()
        scored = enough.filter(pl.col("len") >= self.bundle.policy.top_k)["session"].to_list()
        days = [day for day in known if day in wanted and day in scored and day >= self.first]
        if not days:
            return pl.DataFrame(schema=self._schema)
        first = max(known.index(days[0]) - self.bundle.window + 1, 0)
        window = known[first : known.index(days[-1]) + 1]
        panel = canonical(inputs.panel.filter(pl.col("session").is_in(window)), ROW)
        features = canonical(compute(inputs.as_of, inputs.patches, inputs.intraday, self.features, window), ROW)
        paths = canonical(path_channels(inputs.intraday, inputs.as_of, window), ROW)
        if len(sessions) > 1:
            return self._research(features, panel, paths, days)
        try:
            made = infer(self.bundle, features, panel, days[0], paths)
        except IncompleteTables:  # a look-back that is being measured, shorter than the window
            return panel.filter("eligible", session=days[0]).select(ROW).match_to_schema(
                self._schema, missing_columns="insert")  # fmt: skip
        return wide(self.bundle, made.scores, made.predictions, _orders(made.orders))

    def _research(
        self, features: pl.DataFrame, panel: pl.DataFrame, paths: pl.DataFrame, days: list[date]
    ) -> pl.DataFrame:
        """All sessions in one batch, as the stages score them."""
        store = prepared(self.bundle, features, panel, paths)
        scores = {name: raw for name, _, raw in part_scores(self.bundle, store, days)}
        predictions = predicted(self.bundle, scores)
        orders = self.bundle.selector.orders(predictions, panel)
        return wide(self.bundle, named_scores(self.bundle, scores), predictions, _orders(orders))

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the wide table, without the key."""
        heads = [head.name for head in self.bundle.heads]
        raw = [f"{part.name} {head}_head" for part in self.bundle.parts for head in heads]
        return (*raw, *(f"{head}_pred" for head in heads), "policy score", "order rank", "order weight")

    @property
    def _schema(self) -> dict[str, Any]:
        key = {"session": pl.Date, "instrument": pl.String}
        return key | {name: pl.Float32 if name.endswith("_head") else pl.Float64 for name in self.columns}


def _orders(orders: pl.DataFrame) -> pl.DataFrame:
    named = {"order rank": pl.col("rank").cast(pl.Float64), "order weight": pl.col("weight").cast(pl.Float64)}
    return orders.select(*ROW, **named)


def certify_session_predictions(
    environment: Environment, bundle: Bundle, cuts: int | None, measured_at: int, progress: Progress
) -> Certified:
    """Of a bundle that decides by the session."""
    inputs, made_of = stored_sessions(environment), plan(environment.study.features)
    assert isinstance(made_of, Plan)
    calculate, seen = SessionPredictions(bundle, made_of, inputs.sessions), Certificate(ROW)
    columns, lookback = calculate.columns, calculate.lookback
    pseudo = Plan((Family("predictions", tuple(_declared(name, lookback) for name in columns), _never),))
    scored = calculate(inputs, pseudo, inputs.sessions)["session"].unique().sort().to_list()
    first = scored[0] if cuts is None else max(scored[0], inputs.sessions[lookback])
    days = [day for day in inputs.sessions if day >= first]
    subject = laws.Subject(pseudo, inputs, cuts=tuple(days[at] for at in evenly(len(days), 0, cuts)),
                           calculate=calculate, compare=seen)  # fmt: skip
    for i, law in enumerate(LAWS):
        progress(f"predictions of sessions: {law.__name__}", i / len(LAWS))
        law(subject)
    ever = inputs.panel.filter("eligible")["instrument"].unique()
    seen.count(UNIVERSE, subject.whole, calculate(inputs.only(ever), pseudo, inputs.sessions), columns)
    late = [at for at in range(len(inputs.sessions)) if at >= lookback]
    asked = tuple(inputs.sessions[late[at]] for at in evenly(len(late), 0, measured_at))
    measured = laws.measured_lookbacks(laws.Subject(pseudo, inputs, cuts=asked, calculate=calculate))
    return Certified("predictions of sessions", "sessions", kinds_of(columns), dict.fromkeys(columns, lookback),
                     measured, seen)  # fmt: skip


def _declared(name: str, lookback: int) -> Feature:
    return Feature(name, "predictions", (), lookback, 0, "cross_section", "", "")


def _never(_: History) -> np.ndarray:
    raise AssertionError("a prediction is calculated by its subject")


class MinutePredictions:
    """Scores and decisions of minutes, from bars on: a batch as research scores it, or one minute as if live."""

    def __init__(self, bundle: Bundle, panel: pl.DataFrame) -> None:
        assert isinstance(bundle.selector, ManagerSelector)
        self.bundle, self.panel, self.selector = bundle, panel, bundle.selector
        self.names = tuple(bundle.manifest["schema"])
        self.scorer = MinuteScorer(bundle)

    def batch(self, inputs: minute_laws.MinuteInputs, after: Any = None) -> pl.DataFrame:
        """Of every complete eligible minute of the inputs, or of those after one."""
        features = self._complete(inputs)
        if after is not None:
            features = features.filter(pl.col("minute") > after)
        if features.is_empty():
            return features.select(MINUTE_KEY)
        panel = self.panel.join(features, on=list(MINUTE_KEY), how="semi").join(
            inputs.bars.select(MINUTE_KEY), on=list(MINUTE_KEY), how="semi")  # fmt: skip
        standing, _ = self.selector.standing(panel, features)
        store = prepared(self.bundle, features, standing, features.clear().select(MINUTE_KEY))
        scores = {name: raw for name, _, raw in part_scores(self.bundle, store)}
        predictions = predicted(self.bundle, scores)
        return wide(self.bundle, named_scores(self.bundle, scores), predictions, _decided(self.selector, predictions))

    def live(self, inputs: minute_laws.MinuteInputs, minute: Any) -> pl.DataFrame:
        """Of one minute, each symbol by itself."""
        rows = self._complete(inputs).filter(pl.col("minute") == minute)
        rows = rows.join(self.panel.filter("eligible"), on=list(MINUTE_KEY), how="semi")
        made = [self.scorer.score(row) for row in rows.iter_slices(1)]
        return pl.concat([
            wide(self.bundle, one.scores, one.predictions, _decided(self.selector, one.predictions)) for one in made
        ]) if made else rows.select(MINUTE_KEY)  # fmt: skip

    def _complete(self, inputs: minute_laws.MinuteInputs) -> pl.DataFrame:
        every = minute_features(inputs.bars, inputs.books, inputs.funding, self.names)
        return canonical(every.drop_nulls(list(self.names)), MINUTE_KEY)


def _decided(selector: ManagerSelector, predictions: pl.DataFrame) -> pl.DataFrame:
    """Side as a sign (0 where it stays out), planned ratio and both sides' predicted edges."""
    side = pl.col("side").replace_strict({"LONG": 1.0, "SHORT": -1.0}, default=0.0, return_dtype=pl.Float64)
    edges = [pl.col(f"{side}_predicted_edge_bps").cast(pl.Float64) for side in ("long", "short")]
    named = {"decided side": side, "decided ratio": pl.col("planned_ratio").cast(pl.Float64)}
    return selector.decided(predictions).select(*MINUTE_KEY, *edges, **named)


def certify_minute_predictions(
    environment: Environment, bundle: Bundle, cuts: int, measured_at: int, progress: Progress
) -> Certified:
    """Of a bundle that decides by the minute."""
    inputs = stored_minutes(environment)
    calculate = MinutePredictions(bundle, environment.artifacts.table(environment.study.name, "panel", "panel"))
    lookback, seen = schema.lookback(calculate.names), Certificate(MINUTE_KEY)
    whole = calculate.batch(inputs)
    columns = [name for name in whole.columns if name not in MINUTE_KEY]
    minutes = whole["minute"].unique().sort()
    first = int((minutes <= inputs.bars["minute"].min() + lookback * MINUTE).sum())  # type: ignore[operator]
    chosen = [minutes[at] for at in evenly(len(minutes), first, cuts)]
    for i, cut in enumerate(chosen):
        progress("predictions of minutes: cuts", i / len(chosen))
        day_before = cut - timedelta(days=1)
        seen.count(FUTURE, whole, calculate.batch(inputs.cut(None, cut), after=day_before), columns)
        seen.count(PAST, whole, calculate.live(inputs.cut(cut - (lookback - 1) * MINUTE, cut), cut), columns)
    for start, end in pairwise(chosen):
        part = calculate.batch(inputs.cut(start - lookback * MINUTE, end), after=start - MINUTE)
        seen.count("a value is the same in any batch of minutes", whole, part, columns)
    seen.count("a value is the same in any order of rows", whole, calculate.batch(inputs.shuffled(5)), columns)
    names = inputs.bars["instrument"].unique().sort()
    for kept in (names[:1], names[1:]):
        if len(kept):
            alone = calculate.batch(inputs.only(kept))
            seen.count("a value is the same in any universe", whole, alone, columns)
    asked = [minutes[at] for at in evenly(len(minutes), first, measured_at)]
    measured = _measured(calculate, inputs, whole, columns, asked, lookback)
    return Certified("predictions of minutes", "minutes", kinds_of(columns), dict.fromkeys(columns, lookback),
                     measured, seen)  # fmt: skip


def _measured(
    calculate: MinutePredictions, inputs: minute_laws.MinuteInputs, whole: pl.DataFrame, columns: Sequence[str],
    cuts: Sequence[Any], declared: int,
) -> dict[str, int]:  # fmt: skip
    """Column -> the fewest minutes with which its values at the cuts keep their bits; one bisection for all columns."""
    low, high = dict.fromkeys(columns, 1), dict.fromkeys(columns, 2 * declared)
    while open_ := [name for name in columns if low[name] < high[name]]:
        middle = {name: (low[name] + high[name]) // 2 for name in open_}
        for minutes in set(middle.values()):
            asked = [name for name in open_ if middle[name] == minutes]
            short = set()
            for cut in cuts:
                found = calculate.live(inputs.cut(cut - (minutes - 1) * MINUTE, cut), cut)
                lost = found.height < whole.filter(pl.col("minute") == cut).height
                short |= set(asked) if lost else {
                    row[0] for row in minute_laws.differences(whole, found, asked)
                }  # fmt: skip
            low |= dict.fromkeys(short, minutes + 1)
            high |= {name: minutes for name in asked if name not in short}
    return low
