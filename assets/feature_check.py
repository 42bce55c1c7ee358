"""`foldgate check feature NAME`: a factor author's loop, on the environment's own panel.

The laws live in `pipeline/features/laws.py`, the statistics in `pipeline/diagnostics/factor.py`; minute features are
checked in `minute_feature_check.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

from assets import arguments
from assets.console import counted, fixed, number, percent, table
from assets.minute_feature_check import check_minute_feature
from pipeline.asof.patches import latest
from pipeline.backtests.ic import forward_returns
from pipeline.backtests.market import Market
from pipeline.diagnostics.factor import QUANTILES, FactorReport, factor_report
from pipeline.errors import BadInput, LawBroken
from pipeline.features.channels import CHANNEL_FEATURES, CHANNELS, channel_family
from pipeline.features.laws import LAWS, FeatureInputs, Subject, calculate_features, measured_lookbacks
from pipeline.features.plan import FAMILIES, Plan
from pipeline.features.spec import Feature
from pipeline.frames import AsOf
from pipeline.labels.spec import LabelSpec
from pipeline.stages.contract import months
from resources.environments import Environment

SESSIONS = 120  # decisions judged: half a year holds every window and enough ICs, and takes seconds
LAW_INSTRUMENTS = 300  # a law that breaks, breaks on any few hundred names; 5,400 would take minutes
LAW_CUTS, LOOKBACK_CUTS = 6, 3
HORIZONS = (1, 5, 20)
KEY = ("session", "instrument")


@dataclass(frozen=True)
class Batch:
    """Stored rows of the sessions that are judged and of the look-back before them.

    Parameters
    ----------
    judged : list of date
        The newest sessions of the panel, at most `SESSIONS`.
    law_inputs : FeatureInputs
        What the laws compute from: those sessions of at most `LAW_INSTRUMENTS` names.
    values : DataFrame
        The family's features of every eligible row of the judged sessions.
    """

    plan: Plan
    judged: list[date]
    panel: pl.DataFrame
    patches: pl.DataFrame
    law_inputs: FeatureInputs
    values: pl.DataFrame


def check_feature(environment: Environment, name: str) -> int:
    """Judge and describe a feature or a family of the environment's study; 1 when a law is red."""
    check = {"session": check_session_feature, "minute": check_minute_feature}[environment.study.market.decides]
    return check(environment, name)


def check_session_feature(environment: Environment, name: str) -> int:
    """Judge and describe a feature, every feature of a family, or a channel bar by bar; 1 when a law is red.

    Raises
    ------
    BadInput
        No such feature, family or channel; a panel or labels that were not made yet, or are too short.
    """
    plan, features = resolve(name, environment.study.market.bars_per_session)
    batch = load_batch(environment, plan)
    _print_subject(environment, name, features, batch)
    red = _print_laws(Subject(plan, batch.law_inputs, tuple(f.name for f in features), _cuts(batch, plan, LAW_CUTS)))
    measured = measured_lookbacks(
        Subject(plan, batch.law_inputs, tuple(f.name for f in features), _cuts(batch, plan, LOOKBACK_CUTS))
    )
    returns, spans = _returns(environment, batch)
    spans = spans if len(features) == 1 else {"ret": spans["ret"]}
    reports = {f.name: factor_report(_factor(batch, f.name), returns, spans) for f in features}
    if len(features) == 1:
        _print_feature(features[0], measured, reports[features[0].name])
    else:
        _print_family(features, measured, reports)
    return 1 if red else 0


def resolve(name: str, n_bars: int) -> tuple[Plan, tuple[Feature, ...]]:
    """The plan to compute, and the features to judge, of a feature's, a family's or a channel's name."""
    owners = {feature.name: (family, feature) for family in FAMILIES.values() for feature in family.features}
    arguments.one_of("check names a registered feature, family or channel", name, [*FAMILIES, *owners, *CHANNELS])
    if name in CHANNELS:
        bars = channel_family(n_bars, (name,))
        return Plan((bars,)), bars.features
    if name in FAMILIES:
        return Plan((FAMILIES[name],)), FAMILIES[name].features
    family, feature = owners[name]
    return Plan((family,)), (feature,)


def load_batch(environment: Environment, plan: Plan) -> Batch:
    """Read no more months than the newest sessions and the plan's look-back need."""
    study, artifacts = environment.study.name, environment.artifacts
    for stage in ("panel", "labels"):
        if not artifacts.current(study, stage):
            raise BadInput(
                f"a feature is checked on a stored {stage}",
                f"{environment.home} holds none",
                "`make demo` makes one; `foldgate backfill` does on your own data",
            )
    stored = artifacts.table(study, "panel", "summary", columns=["session"])["session"].to_list()
    if len(stored) < plan.lookback + LAW_CUTS:
        raise BadInput(
            f"a look-back of {plan.lookback} sessions is judged on at least {plan.lookback + LAW_CUTS}",
            f"{len(stored)} sessions in the panel",
            "backfill more months",
        )
    used = stored[-(SESSIONS + plan.lookback - 1) :]
    parts, inside = months(used), pl.col("session").is_in(pl.Series(used).implode())
    panel = artifacts.table(study, "panel", "panel", partitions=parts).filter(inside)
    patches = artifacts.table(study, "panel", "patches", partitions=parts).filter(inside)
    judged = used[-SESSIONS:]
    names, kept, values = _sample(panel), [], []
    for month in months(judged):
        days = [day for day in judged if f"{day:%Y-%m}" == month]
        minutes = _minutes(environment, plan, month)
        # Month by month, because the minutes of half a year of a whole market are more than a gigabyte.
        values.append(calculate_features(FeatureInputs(panel, patches, minutes), plan, days))
        kept.append(minutes.filter(pl.col("instrument").is_in(names.implode())))
    law_inputs = FeatureInputs(panel, patches, pl.concat(kept)).only(names).cut(judged[0], judged[-1])
    scored = panel.filter("eligible").select(KEY)
    return Batch(plan, judged, panel, patches, law_inputs, pl.concat(values).join(scored, on=list(KEY), how="semi"))


def _minutes(environment: Environment, plan: Plan, month: str) -> pl.DataFrame:
    """A month's minute bars; none of them where no feature reads any."""
    minutes = environment.artifacts.table(environment.study.name, "panel", "intraday", partitions=[month])
    return minutes if "bars" in plan.inputs else minutes.clear()


def _sample(panel: pl.DataFrame) -> pl.Series:
    """Instruments spread evenly over the market's codes, which order them by board."""
    names = panel["instrument"].unique().sort()
    return names[:: -(-len(names) // LAW_INSTRUMENTS)]


def _cuts(batch: Batch, plan: Plan, count: int) -> tuple[date, ...]:
    """Sessions spread evenly over those with a full look-back, the newest among them, and where most was revised."""
    days = batch.law_inputs.sessions
    even = {days[int(at)] for at in np.linspace(min(plan.lookback, len(days) - 1), len(days) - 1, count).round()}
    late = batch.law_inputs.patches["effective_session"].value_counts().sort("count", descending=True)
    return tuple(sorted(even | {day for day in late["effective_session"].head(count // 3) if day in days}))


def _returns(environment: Environment, batch: Batch) -> tuple[pl.DataFrame, dict[str, int]]:
    """Forward returns by horizon, the executable one first, and the sessions that each spans."""
    study, artifacts = environment.study, environment.artifacts
    part = [month for month in months(batch.judged) if month in artifacts.current(study.name, "labels")]
    labels = artifacts.table(study.name, "labels", "labels", partitions=part, columns=[*KEY, "ret"])
    market = Market.from_hindsight(latest(AsOf(batch.panel), batch.patches), environment.calendar())
    returns = forward_returns(market, HORIZONS).join(labels, on=list(KEY), how="left")
    assert isinstance(study.labels, LabelSpec)
    return returns, {"ret": study.labels.exit_session + 1, **{f"{h}_sessions": h for h in HORIZONS}}


def _factor(batch: Batch, name: str) -> pl.DataFrame:
    return batch.values.select(*KEY, factor=name)


def _print_subject(environment: Environment, name: str, features: tuple[Feature, ...], batch: Batch) -> None:
    if name in CHANNELS:
        channel = CHANNEL_FEATURES[CHANNELS.index(name)]
        print(f"{name} (channel of Path A, {len(features)} bars a session): {channel.meaning}")
        print(f"  unit {channel.unit}; scope {channel.scope}; reads {', '.join(channel.inputs)}")
    elif len(features) == 1:
        f = features[0]
        needs = f"; needs {f.min_bars} bars" if f.min_bars else ""
        print(f"{f.name} (family {f.family}): {f.meaning}")
        print(f"  unit {f.unit}; scope {f.scope}; reads {', '.join(f.inputs)}{needs}")
    else:
        print(f"family {features[0].family}: {len(features)} features; reads {', '.join(batch.plan.inputs)}")
    names, sampled = batch.values["instrument"].n_unique(), batch.law_inputs.panel["instrument"].n_unique()
    print(
        f"  on {environment.study.name} ({environment.settings.source}): {len(batch.judged)} sessions "
        f"{batch.judged[0]}..{batch.judged[-1]}, {names:,} eligible names; laws on {sampled:,} names, "
        f"history cut at {len(_cuts(batch, batch.plan, LAW_CUTS))} sessions"
    )


def _print_laws(subject: Subject) -> int:
    """How many laws are red."""
    print("\nlaws")
    red = 0
    for law in LAWS:
        name = law.__name__.removeprefix("check_").replace("_", " ")
        try:
            law(subject)
        except LawBroken as broken:
            red += 1
            print(
                f"  RED  {name:<13} {broken.rule}\n       observed: {broken.observed}\n       remedy:   {broken.remedy}"
            )
        else:
            print(f"  ok   {name:<13} {(law.__doc__ or '').splitlines()[0]}")
    return red


def _print_feature(feature: Feature, measured: dict[str, int], report: FactorReport) -> None:
    print(f"\nlook-back   declared {feature.lookback}, measured {measured[feature.name]} sessions")
    worst = report.coverage.sort("share", "session").row(0, named=True)
    newest = report.coverage.row(-1, named=True)
    print(
        f"coverage    {percent(report.coverage['share'].mean())} of eligible rows, lowest {percent(worst['share'])} "
        f"on {worst['session']}, newest {percent(newest['share'])}"
    )
    print("\nvalues")
    heads = ["min", *(f"{100 * q:g} %" for q in QUANTILES[1:-1]), "max"]
    table(heads, [[number(q) for q in report.quantiles] if report.quantiles else ["-"] * len(heads)])
    if feature.scope == "market":
        print("\nrank IC and turnover: none, because a feature of scope market is one number a session")
        return
    correlations = report.autocorrelation.items()
    later = ", ".join(f"{fixed(value)} after {counted(lag, 'session')}" for lag, value in correlations)
    print(f"\nturnover: rank autocorrelation {later} (1 never trades)")
    print("\nrank IC, with its 95 % block-bootstrap interval")
    table(["return", "sessions", "mean", "low", "high", "ICIR", "positive"], list(_ic_rows(report)))


def _ic_rows(report: FactorReport) -> Iterator[list[str]]:
    for row in report.ic.iter_rows(named=True):
        ahead = row["horizon"].removesuffix("_sessions")
        what = "executable (label ret)" if ahead == "ret" else f"close to close, {counted(int(ahead), 'session')}"
        numbers = [fixed(row[name]) for name in ("mean", "low", "high", "icir")]
        yield [what, str(row["sessions"]), *numbers, percent(row["positive"])]


def _print_family(features: tuple[Feature, ...], measured: dict[str, int], reports: dict[str, FactorReport]) -> None:
    print("\nrank IC against the executable return, with its 95 % block-bootstrap interval; look-backs in sessions")
    rows = []
    for f in features:
        report = reports[f.name]
        ic = report.ic.row(0, named=True)
        numbers = [fixed(ic[name]) for name in ("mean", "low", "high")]
        lag = next(iter(report.autocorrelation))
        rows.append(
            [f.name, str(f.lookback), str(measured[f.name]), percent(report.coverage["share"].mean()), *numbers,
             fixed(report.autocorrelation[lag])]
        )  # fmt: skip
    table(["feature", "declared", "measured", "coverage", "IC", "low", "high", "autocorr. 1"], rows)
