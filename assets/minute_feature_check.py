"""`foldgate check feature NAME` on minutes: a factor author's loop, on the environment's own bars, books and funding.

The laws live in `pipeline/features/minutes/laws.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property

import numpy as np
import polars as pl

from assets import arguments
from assets.console import counted, fixed, number, percent, table
from pipeline.asof.minutes import apply_minute_patches
from pipeline.backtests.bootstrap import block_bootstrap
from pipeline.backtests.ic import pooled_rank_ic
from pipeline.diagnostics.factor import CONFIDENCE, QUANTILES, SAMPLES, SEED
from pipeline.errors import BadInput, LawBroken
from pipeline.features.minutes.compute import minute_features, sources_of
from pipeline.features.minutes.laws import LAWS, MinuteInputs, MinuteSubject, measured_lookbacks
from pipeline.features.minutes.plan import FAMILIES
from pipeline.features.minutes.schema import SCHEMA, lookback, lost_sources
from pipeline.features.minutes.spec import MinuteFeature
from pipeline.frames import MINUTE
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.stages.contract import months
from pipeline.stages.minutes import UNUSABLE
from resources.environments import Environment

DAYS = 90  # judged for coverage, values and rank IC: 129,600 minutes of all features take seconds
LAW_DAYS = 3  # under the laws, behind the longest look-back: each cut computes all of it again
LAW_CUTS, LOOKBACK_CUTS = 6, 3
AHEAD = (1, 5, 15)  # minutes; beside the price plan's own horizon
LAGS = (1, 15, 60)
A_MINUTE, A_DAY = timedelta(minutes=1), timedelta(days=1)


@dataclass(frozen=True)
class MinuteBatch:
    """Stored minutes that are judged.

    Parameters
    ----------
    inputs : MinuteInputs
        Usable bars, books and funding of the judged days, and of the look-back before them, corrections applied.
    days : list of date
        Judged for coverage, values and rank IC.
    eligible : DataFrame
        Key of the minutes that may be scored.
    """

    names: tuple[str, ...]
    inputs: MinuteInputs
    days: list[date]
    eligible: pl.DataFrame

    @cached_property
    def values(self) -> pl.DataFrame:
        """The features of every minute that may be scored."""
        whole = minute_features(self.inputs.bars, self.inputs.books, self.inputs.funding, self.names)
        return whole.join(self.eligible, on=list(KEY), how="semi", maintain_order="left")

    @cached_property
    def law_inputs(self) -> MinuteInputs:
        """The newest `LAW_DAYS` and the longest look-back before them."""
        last = self.inputs.bars[MINUTE].max()
        assert isinstance(last, datetime)
        return self.inputs.cut(last - LAW_DAYS * A_DAY - lookback(self.names) * A_MINUTE, last)

    def cuts(self, count: int) -> tuple[datetime, ...]:
        """Minutes spread evenly over those with a full look-back, the newest among them."""
        minutes = self.law_inputs.bars[MINUTE].unique().sort()
        full = minutes.filter(minutes >= minutes[0] + lookback(self.names) * A_MINUTE)
        at = np.linspace(0, len(full) - 1, min(count, len(full))).round().astype(int)
        return tuple(full[int(i)] for i in dict.fromkeys(at.tolist()))


def check_minute_feature(environment: Environment, name: str) -> int:
    """Judge and describe a minute feature, or every feature of a family; 1 when a law is red.

    Raises
    ------
    BadInput
        No such feature or family; a source that it needs is not stored; a panel or labels that were not made
        yet, or are too short.
    """
    features = resolve_minute(name)
    batch = load_minutes(environment, features)
    _print_subject(environment, name, features, batch)
    red = _print_laws(MinuteSubject(batch.law_inputs, batch.cuts(LAW_CUTS), batch.names))
    measured = measured_lookbacks(MinuteSubject(batch.law_inputs, batch.cuts(LOOKBACK_CUTS), batch.names))
    returns = _returns(environment, batch)
    if len(features) == 1:
        _print_feature(features[0], measured[name], batch, returns)
    else:
        _print_family(features, measured, batch, returns)
    return 1 if red else 0


def resolve_minute(name: str) -> tuple[MinuteFeature, ...]:
    """The features to judge, of a feature's or a family's name."""
    owners = {feature.name: feature for feature in SCHEMA}
    arguments.one_of("check names a registered minute feature or family", name, [*FAMILIES, *owners])
    return FAMILIES[name].features if name in FAMILIES else (owners[name],)


def load_minutes(environment: Environment, features: tuple[MinuteFeature, ...]) -> MinuteBatch:
    """Read no more months than the newest days and the look-back need."""
    study, artifacts = environment.study.name, environment.artifacts
    for stage in ("panel", "labels"):
        if not artifacts.current(study, stage):
            raise BadInput(f"a feature is checked on a stored {stage}", f"{environment.home} holds none",
                           "`foldgate demo --study` makes one; `foldgate backfill` does on your own data")
    names = tuple(feature.name for feature in features)
    stored = artifacts.table(study, "panel", "summary", columns=["session"])["session"].to_list()
    warm_up = -(-lookback(names) * A_MINUTE // A_DAY)
    if len(stored) < warm_up + 2:
        raise BadInput(f"a look-back of {lookback(names)} minutes is judged on at least {warm_up + 2} days",
                       f"{counted(len(stored), 'day')} in the panel", "backfill more months")
    used = stored[-(DAYS + warm_up) :]
    parts, inside = months(used), pl.col("session").is_in(pl.Series(used).implode())
    tables = {name: artifacts.table(study, "panel", name, partitions=parts).filter(inside)
              for name in ("panel", "books", "funding")}  # fmt: skip
    panel = apply_minute_patches(tables["panel"], artifacts.table(study, "panel", "patches", partitions=parts))
    bars = panel.filter(~pl.col("data_quality_flag").is_in(UNUSABLE))
    inputs = MinuteInputs(bars, tables["books"].drop("session"), tables["funding"].drop("session"))
    held = sources_of(inputs.bars, inputs.books, inputs.funding)
    lost = {feature.name: lacking for feature in features if (lacking := lost_sources(feature, held))}
    if lost:
        first, lacking = next(iter(lost.items()))
        raise BadInput("a feature is checked where its sources are stored",
                       f"{first} needs {' and '.join(lacking)}, which {environment.home} does not hold",
                       f"check one that reads {' or '.join(sorted(held))}, or add the table")
    judged = used[warm_up:]
    eligible = panel.filter("eligible", pl.col("session").is_in(pl.Series(judged).implode())).select(KEY)
    return MinuteBatch(names, inputs, judged, eligible)


def _returns(environment: Environment, batch: MinuteBatch) -> pl.DataFrame:
    """The key and forward returns: the plan's `ret` first, then close to close over some minutes without a gap."""
    study, artifacts = environment.study, environment.artifacts
    part = [month for month in months(batch.days) if month in artifacts.current(study.name, "labels")]
    labels = artifacts.table(study.name, "labels", "labels", partitions=part, columns=[*KEY, "ret"])
    closes = batch.inputs.bars.select(*KEY, "close")
    found = closes.join(labels, on=list(KEY), how="left", maintain_order="left")
    for ahead in AHEAD:
        later = closes.select("instrument", pl.col(MINUTE) - ahead * A_MINUTE, later="close")
        found = found.join(later, on=["instrument", MINUTE], how="left", maintain_order="left").with_columns(
            (pl.col("later") / pl.col("close") - 1).alias(f"{ahead}_minutes")
        ).drop("later")  # fmt: skip
    return found.drop("close")


def _print_subject(
    environment: Environment, name: str, features: tuple[MinuteFeature, ...], batch: MinuteBatch
) -> None:
    if len(features) == 1:
        f = features[0]
        print(f"{f.name} (family {f.family}, method {f.method}): {f.meaning}")
        print(f"  unit {f.unit}; reads {', '.join(f.sources)}; {f.formula}")
        print(f"  missing: {f.missing}")
    else:
        sources = dict.fromkeys(source for f in features for source in f.sources)
        print(f"family {name}: {len(features)} features; reads {', '.join(sources)}")
    symbols = ", ".join(batch.inputs.bars["instrument"].unique().sort())
    print(f"  on {environment.study.name} ({environment.settings.source}): {counted(len(batch.days), 'day')} "
          f"{batch.days[0]}..{batch.days[-1]} of {symbols}, {counted(len(batch.eligible), 'eligible minute')}; laws on "
          f"{counted(len(batch.law_inputs.bars), 'minute')}, history cut at {len(batch.cuts(LAW_CUTS))}")  # fmt: skip


def _print_laws(subject: MinuteSubject) -> int:
    """How many laws are red."""
    print("\nlaws")
    red = 0
    for law in LAWS:
        name = law.__name__.removeprefix("check_").replace("_", " ")
        try:
            law(subject)
        except LawBroken as broken:
            red += 1
            print(f"  RED  {name:<13} {broken.rule}\n       observed: {broken.observed}\n"
                  f"       remedy:   {broken.remedy}")  # fmt: skip
        else:
            print(f"  ok   {name:<13} {(law.__doc__ or '').splitlines()[0]}")
    return red


def _print_feature(feature: MinuteFeature, measured: int, batch: MinuteBatch, returns: pl.DataFrame) -> None:
    values = batch.values.select(*KEY, factor=feature.name)
    known = values["factor"].drop_nulls()
    print(f"\nlook-back   declared {feature.lookback}, measured {measured} minutes; window {feature.window}")
    by_day = values.group_by("session").agg(share=pl.col("factor").is_not_null().mean()).sort("session")
    worst, newest = by_day.sort("share", "session").row(0, named=True), by_day.row(-1, named=True)
    print(f"coverage    {percent(values['factor'].is_not_null().mean())} of eligible minutes, lowest "
          f"{percent(worst['share'])} on {worst['session']}, newest {percent(newest['share'])}")  # fmt: skip
    print("\nvalues")
    heads = ["min", *(f"{100 * q:g} %" for q in QUANTILES[1:-1]), "max", "zeros"]
    cells = [number(known.quantile(q, "linear")) for q in QUANTILES] if len(known) else ["-"] * len(QUANTILES)
    table(heads, [[*cells, percent((known == 0).mean() if len(known) else None)]])
    later = ", ".join(f"{fixed(_autocorrelation(values, lag))} after {counted(lag, 'minute')}" for lag in LAGS)
    print(f"\nrank autocorrelation {later}")
    print("\nrank IC over all days against the return ahead, with its 95 % block-bootstrap interval by day")
    rows = [_ic_row(values, returns, ahead) for ahead in ("ret", *(f"{ahead}_minutes" for ahead in AHEAD))]
    table(["return", "days", "mean", "low", "high", "positive"], rows)


def _ic_row(values: pl.DataFrame, returns: pl.DataFrame, ahead: str) -> list[str]:
    """Rank IC over all days of one horizon, as a row of a table."""
    what = "over the price plan's hold (label ret)" if ahead == "ret" else f"close to close, {ahead.replace('_', ' ')}"
    days, mean, low, high, positive = information(values, returns, ahead)
    return [what.replace("1 minutes", "1 minute") if ahead == "1_minutes" else what, str(days), fixed(mean),
            fixed(low), fixed(high), percent(positive)]  # fmt: skip


def information(
    values: pl.DataFrame, returns: pl.DataFrame, ahead: str
) -> tuple[int, float | None, float | None, float | None, float | None]:
    """Days, rank IC over all of them, its interval over days, share of days that add to it; None without any."""
    told = pooled_rank_ic(values, returns, score="factor", truth=ahead).drop_nulls("rank_ic")
    if told.is_empty():
        return 0, None, None, None, None
    ic, pairs = told["rank_ic"], told["pairs"]
    low, high = block_bootstrap(ic, SAMPLES, 1, CONFIDENCE, SEED) if len(ic) > 1 else (None, None)
    return len(ic), float((ic * pairs).sum() / pairs.sum()), low, high, float((ic > 0).mean())  # type: ignore[arg-type]


def _autocorrelation(values: pl.DataFrame, lag: int) -> float | None:
    """Rank correlation of a feature with itself `lag` minutes later."""
    later = values.select("instrument", pl.col(MINUTE) - lag * A_MINUTE, later="factor")
    both = values.join(later, on=["instrument", MINUTE]).drop_nulls(["factor", "later"])
    return both.select(pl.corr("factor", "later", method="spearman")).item() if len(both) > 1 else None


def _print_family(
    features: tuple[MinuteFeature, ...], measured: dict[str, int], batch: MinuteBatch, returns: pl.DataFrame
) -> None:
    print("\nrank IC over all days against the return over the plan's hold, with its 95 % block-bootstrap interval by "
          "day; look-backs in minutes")  # fmt: skip
    rows = []
    for f in features:
        values = batch.values.select(*KEY, factor=f.name)
        _, mean, low, high, _ = information(values, returns, "ret")
        rows.append([f.name, str(f.lookback), str(measured[f.name]), percent(values["factor"].is_not_null().mean()),
                     fixed(mean), fixed(low), fixed(high), fixed(_autocorrelation(values, 1))])  # fmt: skip
    table(["feature", "declared", "measured", "coverage", "IC", "low", "high", "autocorr. 1 m"], rows)
