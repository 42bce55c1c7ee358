"""Every registered feature of both kinds, and the states of open positions, under the laws on stored rows of a home."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import numpy as np
import polars as pl

from assets.proof.contract import Progress
from assets.proof.counting import FUTURE, PAST, Certificate, Certified
from pipeline.features import laws
from pipeline.features.channels import channel_family
from pipeline.features.compute import CHANNELS, path_channels
from pipeline.features.minutes import laws as minute_laws
from pipeline.features.minutes.position_state import (
    ENTRY_COLUMNS,
    SIGN,
    STATE_KEY,
    STATE_ORDER,
    STATE_SCHEMA,
    Barriers,
    position_states,
)
from pipeline.features.minutes.schema import FAMILIES as MINUTE_FAMILIES
from pipeline.features.plan import FAMILIES, Plan
from pipeline.frames import MINUTE_ROW as MINUTE_KEY
from pipeline.frames import ROW, AsOf
from pipeline.stages.minutes import UNUSABLE
from resources.environments import Environment

LAWS = (laws.check_future_cut, laws.check_past_cut, laws.check_batch_range, laws.check_batch_order, laws.check_universe)
BARRIERS = Barriers(target_distance_bps=60.0, stop_distance_bps=30.0, cost_bps=6.5)
MINUTE = timedelta(minutes=1)


def stored_sessions(environment: Environment) -> laws.FeatureInputs:
    """What the features of sessions are made from, as the panel stage stored it."""
    panel, patches, intraday = (
        environment.artifacts.table(environment.study.name, "panel", name) for name in ("panel", "patches", "intraday")
    )
    return laws.FeatureInputs(panel, patches, intraday)


def stored_minutes(environment: Environment) -> minute_laws.MinuteInputs:
    """What the features of minutes are made from."""
    panel, books, funding = (
        environment.artifacts.table(environment.study.name, "panel", name) for name in ("panel", "books", "funding")
    )
    usable = panel.filter(~pl.col("data_quality_flag").is_in(UNUSABLE))
    return minute_laws.MinuteInputs(usable, books.drop("session"), funding.drop("session"))


def evenly(length: int, first: int, count: int | None) -> list[int]:
    """Positions spread from `first` to the newest; all of them where no count is given."""
    places = np.arange(first, length) if count is None else np.linspace(first, length - 1, count).round()
    return sorted({int(at) for at in places})


def certify_sessions(
    inputs: laws.FeatureInputs, cuts: int | None, measured_at: int, progress: Progress
) -> list[Certified]:
    """Every registered family of sessions, and every channel of every bar of a day."""
    n_bars = inputs.intraday["bars"].dtype.shape[0] // 5  # type: ignore[attr-defined]
    channels = channel_family(n_bars)
    plans = {"features of sessions": Plan(tuple(FAMILIES.values())), "minute channels": Plan((channels,))}
    calculations = {"features of sessions": laws.calculate_features, "minute channels": stored_channels}
    found = []
    for of, plan in plans.items():
        seen = Certificate(ROW)
        days = inputs.sessions
        chosen = tuple(days[at] for at in evenly(len(days), 0 if cuts is None else plan.lookback, cuts))
        subject = laws.Subject(plan, inputs, cuts=chosen, calculate=calculations[of], compare=seen)
        for i, law in enumerate(LAWS):
            progress(f"{of}: {law.__name__}", i / len(LAWS))
            law(subject)
        asked = tuple(days[at] for at in evenly(len(days), plan.lookback, measured_at))
        measured = laws.measured_lookbacks(laws.Subject(plan, inputs, cuts=asked, calculate=calculations[of]))
        families = {family.name: [f.name for f in family.features] for family in plan.families}
        found.append(Certified(of, "sessions", families, {f.name: f.lookback for f in plan.features}, measured, seen))
    return found


def stored_channels(inputs: laws.FeatureInputs, plan: Plan, sessions: Sequence[date]) -> pl.DataFrame:
    """The `paths` table as columns, one a channel and bar; a panel row without minutes is a row of nulls."""
    paths = path_channels(inputs.intraday, inputs.as_of, sessions)
    by_bar = paths["channels"].to_numpy().reshape(len(paths), -1, len(CHANNELS)).transpose(0, 2, 1)
    columns = pl.DataFrame(by_bar.reshape(len(paths), -1), schema=dict.fromkeys(plan.schema, pl.Float32))
    rows = inputs.panel.filter(pl.col("session").is_in(list(sessions))).select(ROW).sort(ROW)
    stored = pl.concat([paths.select(ROW), columns], how="horizontal")
    return rows.join(stored, on=list(ROW), how="left", maintain_order="left")


def certify_minutes(
    inputs: minute_laws.MinuteInputs, cuts: int, measured_at: int, progress: Progress
) -> list[Certified]:
    """Every registered family of minutes, and the states of positions of both sides entered at every minute."""
    minutes = inputs.bars["minute"].unique().sort()
    declared = {f.name: f.lookback for family in MINUTE_FAMILIES for f in family.features}
    first = int((minutes <= minutes[0] + max(declared.values()) * MINUTE).sum())
    chosen = tuple(minutes[at] for at in evenly(len(minutes), first, cuts))
    seen = Certificate(MINUTE_KEY)
    subject = minute_laws.MinuteSubject(inputs, chosen, compare=seen)
    for i, law in enumerate(minute_laws.LAWS):
        progress(f"features of minutes: {law.__name__}", i / len(minute_laws.LAWS))
        law(subject)
    asked = tuple(minutes[at] for at in evenly(len(minutes), first, measured_at))
    measured = minute_laws.measured_lookbacks(minute_laws.MinuteSubject(inputs, asked))
    families = {family.name: [f.name for f in family.features] for family in MINUTE_FAMILIES}
    progress("states of positions", 0.9)
    return [
        Certified("features of minutes", "minutes", families, declared, measured, seen),
        _certify_states(inputs, subject.whole, chosen, asked),
    ]


def _certify_states(
    inputs: minute_laws.MinuteInputs, market: pl.DataFrame, cuts: Sequence[datetime], asked: Sequence[datetime]
) -> Certified:
    """Cuts, order and universe of the states that are seen at the cut minutes."""
    seen, window = Certificate(STATE_KEY), STATE_SCHEMA[0].lookback
    entries = _entries(inputs.bars)
    whole = _states(inputs.bars, market, entries)
    names = inputs.bars["instrument"].unique().sort()
    for cut in cuts:
        for law, first in ((FUTURE, None), (PAST, cut - (window - 1) * MINUTE)):
            seen.count(law, whole, _states_at(inputs.bars, market, entries, first, cut), STATE_ORDER)
    shuffled = (frame.sample(fraction=1, shuffle=True, seed=5) for frame in (inputs.bars, market, entries))
    seen.count("a value is the same in any order of rows", whole, _states(*shuffled), STATE_ORDER)
    for kept in (names[:1], names[1:]):
        part = [frame.filter(pl.col("instrument").is_in(kept.implode())) for frame in (inputs.bars, market, entries)]
        if len(kept):
            seen.count("a value is the same in any universe", whole, _states(*part), STATE_ORDER)
    needed = next(
        minutes for minutes in range(1, window + 1)
        if all(_same(whole, _states_at(inputs.bars, market, entries, cut - (minutes - 1) * MINUTE, cut), cut)
               for cut in asked)
    )  # fmt: skip
    declared = {f.name: f.lookback for f in STATE_SCHEMA}
    return Certified("states of positions", "minutes", {"position_state": STATE_ORDER}, declared,
                     dict.fromkeys(STATE_ORDER, needed), seen)  # fmt: skip


def _entries(bars: pl.DataFrame) -> pl.DataFrame:
    """A position of either side at every minute; the minute of the hour stands for what a model said."""
    rows = bars.select(MINUTE_KEY).join(pl.DataFrame({"side": list(SIGN)}), how="cross")
    said = pl.col("minute").dt.minute().cast(pl.Float64)
    return rows.with_columns(entry_predicted_edge_bps=said, entry_direction_prob=said / 60).select(ENTRY_COLUMNS)


def _states(bars: pl.DataFrame, market: pl.DataFrame, entries: pl.DataFrame) -> pl.DataFrame:
    return position_states(AsOf(bars), AsOf(market), entries, BARRIERS)


def _states_at(
    bars: pl.DataFrame, market: pl.DataFrame, entries: pl.DataFrame, first: datetime | None, last: datetime
) -> pl.DataFrame:
    """States seen at minute `last`, with nothing stored after it, or before `first`."""
    inside = pl.col("minute") <= last
    if first is not None:
        inside = inside & (pl.col("minute") >= first)
    return _states(*(frame.filter(inside) for frame in (bars, market, entries))).filter(pl.col("minute") == last)


def _same(whole: pl.DataFrame, found: pl.DataFrame, cut: datetime) -> bool:
    return whole.filter(pl.col("minute") == cut).equals(found)
