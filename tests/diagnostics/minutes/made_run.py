"""A run of a study of minutes in memory: bars with or without a planted drift, labels, folds, scores, trades.

What the stages would have stored, as far as a diagnostic reads it. Only scores and thresholds are made up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from pipeline.calendars import Calendar
from pipeline.calibration.calibrators import Calibrators, HeadCalibrator
from pipeline.calibration.weights import EnsembleWeights, MemberWeight
from pipeline.features.minutes.position_state import SIDED
from pipeline.features.minutes.schema import ORDER, ORDER_FLOW
from pipeline.fingerprints import canonical_json
from pipeline.folds.named import named_splits
from pipeline.folds.spec import FoldSpec
from pipeline.folds.splits import make_folds, roles
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.frames import Hindsight
from pipeline.labels.minute_heads import minute_labels
from pipeline.labels.path_outcomes import path_outcomes
from pipeline.labels.price_plan import price_plan_context
from pipeline.positions.manager import OUTCOME_COLUMNS, predicted_edges, run, with_truth
from pipeline.positions.manager_spec import ManagerConfig, OpenThresholds, PlanNumbers, SideThresholds, Sizing
from pipeline.studies.perp_minute import STUDY
from pipeline.study import Study

FIRST = date(2024, 1, 1)
MEMBER = "heads_linear"
SIGNAL = "ofi_l1_5m"
_MADE = {*ORDER_FLOW, *SIDED, "ret_15m_bps", "realized_vol_15m_bps", "spread_bps"}
COLUMNS = tuple(name for name in ORDER if name in _MADE)
FOLDS = FoldSpec(scheme="cpcv", n_groups=3, n_test_groups=1, tune_share=0.5, locked_share=0.08, stress_share=0.04)
_LOOSE = SideThresholds(min_direction_prob=0.55, min_entry_prob=0.5, min_edge_bps=-50.0)
CONFIG = ManagerConfig(
    open=OpenThresholds(long=_LOOSE, short=_LOOSE, min_direction_margin=0.0, max_market_risk=0.9),
    sizing=Sizing(min_edge_bps=-50.0),
)


def made_study(**parts: Any) -> Study:
    """The study of minutes with few groups, so that a few weeks suffice."""
    return STUDY.model_copy(update={"folds": FOLDS, **parts})


@dataclass
class MadeRun:
    """A reader of tables and files in memory; `read` notes which stages were asked for."""

    calendar: Calendar
    tables: dict[tuple[str, str], pl.DataFrame]
    files_held: dict[tuple[str, str, str], bytes]
    read: set[str] = field(default_factory=set)
    _shared: dict[str, Any] = field(default_factory=dict)

    def table(
        self, stage: str, name: str, *, partitions: Sequence[str] | None = None, columns: Sequence[str] | None = None
    ) -> pl.DataFrame:
        self.read.add(stage)
        frame = self.tables[stage, name]
        if stage == "models" and partitions is not None:
            split = pl.concat_str("split", "member", separator="|")
            frame = frame.filter(split.is_in(list(partitions)))
        return frame if columns is None else frame.select(columns)

    def file(self, stage: str, name: str, partition: str = "") -> bytes:
        self.read.add(stage)
        return self.files_held[stage, name, partition]

    def versions(self, stage: str) -> dict[str, str]:
        months = self.tables["panel", "panel"]["session"].dt.strftime("%Y-%m").unique().sort()
        return dict.fromkeys(months.to_list(), "made")

    def once(self, name: str, build: Any) -> Any:
        return self._shared.setdefault(name, build())

    def with_tables(self, **changed: pl.DataFrame) -> MadeRun:
        """Another run with other tables, named `<stage>_<table>`."""
        named: Mapping[tuple[str, str], pl.DataFrame] = {
            (stage, name): changed.get(f"{stage}_{name}", frame) for (stage, name), frame in self.tables.items()
        }
        return MadeRun(self.calendar, dict(named), self.files_held)


def made_run(
    drift: float = 1.2, days: int = 24, columns: Sequence[str] = COLUMNS, seed: int = 3, study: Study | None = None
) -> MadeRun:
    """`days` of minutes; `drift` bps a minute follow the persistent feature `SIGNAL`, 0 plants nothing."""
    study, rng, n = study or made_study(), np.random.default_rng(seed), 1440 * days
    signal = _persistent(rng, n, 0.985)
    bars = _bars(rng, signal, drift)
    features = bars.select(KEY).with_columns(
        pl.Series(name, rng.normal(size=n).astype(np.float32)) for name in columns
    )
    if SIGNAL in columns:
        features = features.with_columns(pl.Series(SIGNAL, signal.astype(np.float32)))
    plan, labels_spec = study.labels.plan, study.labels
    past = features.select(*KEY).with_columns(ret_15m_bps=pl.lit(0.0), realized_vol_15m_bps=pl.lit(4.0))
    wide = minute_labels(Hindsight(bars), past, plan, labels_spec.bounds)
    outcomes = path_outcomes(Hindsight(bars), plan)
    truth = [f"{side}_{name}" for side in ("long", "short") for name in OUTCOME_COLUMNS]
    labels = wide.join(outcomes.select(*KEY, *(c for c in truth if c not in wide.columns)), on=list(KEY))
    open_days = tuple(FIRST + timedelta(days=i) for i in range(days + 2))
    calendar = Calendar(open_days, open_days[-1])
    folds = make_folds(labels.select(*KEY, "label_start", "label_end"), calendar, study.folds)
    panel = bars.with_columns(
        data_quality_flag=pl.lit("OK"), eligible=pl.lit(True),
        **{name: pl.lit(1.0) for name in ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote")},
        trades=pl.lit(1.0), open=pl.col("close"),
    )
    patches = panel.head(0).select(effective_session="session", **{c: pl.col(c) for c in panel.columns})
    tables = {
        ("panel", "panel"): panel, ("panel", "patches"): patches, ("features", "features"): features,
        ("labels", "labels"): labels,
        **{("folds", name): getattr(folds, name) for name in ("split_sessions", "purged", "paths", "certificate")},
    }
    scores = _scores(rng, labels.select(KEY), features, study, drift)
    tables |= _scored_stages(study, folds, labels, scores)
    return MadeRun(calendar, tables, _files(study))


def _persistent(rng: np.random.Generator, n: int, keep: float) -> np.ndarray:
    steps, out = rng.normal(size=n) * np.sqrt(1 - keep * keep), np.empty(n)
    value = 0.0
    for i in range(n):
        value = keep * value + steps[i]
        out[i] = value
    return out


def _bars(rng: np.random.Generator, signal: np.ndarray, drift: float) -> pl.DataFrame:
    n = len(signal)
    moves = np.concatenate([[0.0], drift * signal[:-1]]) + 3.0 * rng.normal(size=n)
    close = 50_000.0 * np.exp(np.cumsum(moves) * 1e-4)
    reach = 1 + np.abs(rng.normal(size=(2, n))) * 1.5e-4
    before = np.concatenate([close[:1], close[:-1]])
    start = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC)
    frame = pl.DataFrame({
        "minute": pl.datetime_range(start, start + timedelta(minutes=n - 1), "1m", time_unit="us", eager=True),
        "high": np.maximum(close, before) * reach[0], "low": np.minimum(close, before) / reach[1], "close": close,
        "spread_bps": rng.integers(1, 12, n) / 10,
    })  # fmt: skip
    return frame.select(pl.col("minute").dt.date().alias("session"), pl.lit("BTCUSDT").alias("instrument"), pl.all())


def _scores(
    rng: np.random.Generator, keys: pl.DataFrame, features: pl.DataFrame, study: Study, drift: float
) -> pl.DataFrame:
    """One calibrated value per head and row: those of direction and entry follow the signal where it is planted."""
    rows = keys.join(features.select(*KEY, *([SIGNAL] if SIGNAL in features.columns else [])), on=list(KEY))
    lean = rows[SIGNAL].to_numpy() if drift and SIGNAL in rows.columns else rng.normal(size=rows.height)
    up = 1.0 / (1.0 + np.exp(-2.0 * lean))
    own = {"long": up, "short": 1.0 - up}
    columns = {}
    for head in study.labels.heads:
        side = next((side for side in own if side in head.name), "")
        known = own[side] if side else np.full(rows.height, 0.3)
        columns[head.name] = known if head.kind == "probability" else 10.0 * (known - 0.6)
    return rows.select(KEY).with_columns(pl.Series(name, value) for name, value in columns.items())


def _scored_stages(
    study: Study, folds: Any, labels: pl.DataFrame, scores: pl.DataFrame
) -> dict[tuple[str, str], pl.DataFrame]:
    heads = [head.name for head in study.labels.heads]
    raw = labels.select(KEY).with_columns(roles(folds, "locked", labels).alias("role")).join(scores, on=list(KEY))
    models = raw.filter(pl.col("role").is_in(["tune", "test"])).select(
        *KEY, "role", *(pl.col(name).alias(f"{name}_head") for name in heads), split=pl.lit("locked"),
        member=pl.lit(MEMBER))
    parts = []
    for split in study.folds.splits:
        tested = scores.filter(roles(folds, split, scores) == "test")
        parts.append(tested.select(pl.lit(split).alias("split"), *KEY,
                                   *(pl.col(name).alias(f"{name}_pred") for name in heads),
                                   score=pl.col("direction_long_prob")))
    named = labels.select(KEY).with_columns(named_splits(folds, labels))
    trades = pl.concat([
        _trades(study, scores.join(named.filter(split_id=name), on=list(KEY), how="semi"), labels, name)
        for name in ("validation_locked", "latest_stress")
    ]).select(pl.lit("locked").alias("book"), pl.all())
    grid = pl.DataFrame({"candidate": [0, 1], "trade_count": [0, 9], "mean_weighted_edge_bps": [0.0, 1.0]})
    return {("models", "scores"): models, ("predictions", "predictions"): pl.concat(parts),
            ("backtest", "trades"): trades, ("positions", "search"): grid}


def numbers(study: Study) -> PlanNumbers:
    return PlanNumbers.from_context(price_plan_context(study.labels.plan))


def _trades(study: Study, scores: pl.DataFrame, labels: pl.DataFrame, name: str) -> pl.DataFrame:
    decided = with_truth(predicted_edges(scores, numbers(study)), labels, numbers(study))
    return run(decided, CONFIG, numbers(study), name)


def _files(study: Study) -> dict[tuple[str, str, str], bytes]:
    same = Calibrators(tuple(HeadCalibrator(h.name, h.kind, "identity", {}, "made up") for h in study.labels.heads))
    weights = EnsembleWeights((MemberWeight(MEMBER, 1.0, None, 0),), "alone")
    return {
        ("calibrators", f"{MEMBER}.json", "locked"): same.to_json(),
        ("calibrators", "weights.json", "locked"): weights.to_json(),
        ("positions", "policy.json", "locked"): canonical_json(CONFIG).encode(),
    }
