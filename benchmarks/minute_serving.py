"""One live minute: 70 features to a decision, against the inference of the whole day.

    python -m benchmarks.minute_serving [--minutes 1440] [--trees]

First every minute scored alone is compared with the day's inference, bit for bit, and the bundle with its own contract;
then the time of a minute is measured. `--trees` puts the boosted member beside the linear one.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from pipeline.calibration.calibrators import fit_calibrators
from pipeline.features.minutes.schema import ORDER, order_hash
from pipeline.fingerprints import canonical_json, hash_bytes
from pipeline.labels.minute_models import five_models
from pipeline.labels.minute_spec import PlanLabelSpec
from pipeline.labels.price_plan import PricePlan
from pipeline.models.members import fit_member
from pipeline.models.preparing import prepare
from pipeline.models.spec import TreeHeadsSpec
from pipeline.positions.manager_spec import ManagerConfig, OpenThresholds, SideThresholds, Sizing
from pipeline.serving.bundle import Bundle, write_bundle
from pipeline.serving.contract import check_conformance, contract_files
from pipeline.serving.infer import Inference, infer
from pipeline.serving.minute_scorer import MinuteScorer
from pipeline.serving.parts import Part, ensemble_file
from pipeline.studies.perp_minute import STUDY as REAL

KEY = ["session", "instrument", "minute"]
LABELS = PlanLabelSpec(heads=five_models(), plan=PricePlan())  # not the study's own, which may be retuned
STUDY = REAL.model_copy(update={"labels": LABELS})
DAYS, MINUTES = 6, 1440  # three to fit on, two to tune on, the last one served
LIMIT_MS = 10.0
SIDE = SideThresholds(min_direction_prob=0.35, min_entry_prob=0.4, min_edge_bps=-5.0)
LOOSE = ManagerConfig(
    open=OpenThresholds(long=SIDE, short=SIDE, min_direction_margin=0.0, max_market_risk=1.0),
    sizing=Sizing(min_edge_bps=-5.0),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=int, default=MINUTES)
    parser.add_argument("--trees", action="store_true")
    arguments = parser.parse_args()
    features, labels, roles = _market()
    with TemporaryDirectory() as folder:
        bundle = _bundle(Path(folder), features, labels, roles, trees=arguments.trees)
        day = features["session"].max()
        today = features.filter(pl.col("session") == day)
        panel = today.select(*KEY, close=pl.lit(40_000.0), eligible=pl.lit(True))
        started = time.perf_counter()
        live = infer(bundle, today, panel, day, panel.select("session", "instrument").clear())
        whole = time.perf_counter() - started
        found = check_conformance(bundle)
        assert not found, found[:3]
        times, busy_ms = _measured(MinuteScorer(bundle), today[: arguments.minutes], live)
    least, median, p99, worst = (float(np.quantile(times, q)) for q in (0.0, 0.5, 0.99, 1.0))
    members = ", ".join(part.member for part in bundle.parts)
    print(f"{len(ORDER)} features, {len(bundle.heads)} heads, {members}: {len(times)} minutes equal their day's bits, "
          f"{len(live.orders)} of {len(today)} would open")
    print(f"one minute: least {least:.2f} ms, median {median:.2f} ms, p99 {p99:.2f} ms, worst {worst:.2f} ms, "
          f"{busy_ms:.2f} ms of processor time; the day at once {1e3 * whole / len(today):.3f} ms a minute")
    verdicts = [f"{name} {'met' if ms < LIMIT_MS else 'MISSED'}" for name, ms in (("median", median), ("p99", p99))]
    busy = f"{os.getloadavg()[0]:.1f} running on {os.cpu_count()} cores"
    print(f"limit {LIMIT_MS:.0f} ms a minute: {', '.join(verdicts)} ({busy})")


def _measured(scorer: MinuteScorer, rows: pl.DataFrame, live: Inference) -> tuple[Sequence[float], float]:
    """Milliseconds of each minute, after each was compared with its day; and the mean processor time of one."""
    plain = list(rows.iter_rows(named=True))
    ratios = dict(live.orders.select("minute", "weight").iter_rows())
    for i, row in enumerate(plain):
        alone = scorer.score(row)
        assert alone.predictions.equals(live.predictions[i]), row["minute"]
        assert alone.scores.equals(live.scores.filter(minute=row["minute"])), row["minute"]
        assert alone.decision.planned_ratio == ratios.get(row["minute"], 0.0), row["minute"]
    times, used = [], time.process_time()
    for row in plain:
        started = time.perf_counter()
        scorer.score(row)
        times.append(1e3 * (time.perf_counter() - started))
    return times, 1e3 * (time.process_time() - used) / len(plain)


def _market() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Noise with a signal in the first two features; labels of every head."""
    draw = np.random.default_rng(3)
    opens = [datetime(2024, 3, 1, tzinfo=UTC) + timedelta(minutes=m) for m in range(DAYS * MINUTES)]
    keys = pl.DataFrame(
        {"session": [at.date() for at in opens], "instrument": ["BTCUSDT"] * len(opens), "minute": opens},
        schema_overrides={"minute": pl.Datetime("us", "UTC")},
    )
    values = draw.standard_normal((len(opens), len(ORDER)))
    features = keys.hstack(pl.DataFrame(values.astype(np.float32), schema=list(ORDER)))
    move = 2 * values[:, 0] + draw.standard_normal(len(opens))
    columns: dict[str, np.ndarray] = {}
    for head in STUDY.labels.heads:
        noisy = values[:, 1] + draw.standard_normal(len(opens))
        columns[head.label] = 9 * noisy if head.kind == "regression" else noisy > 0.5
    columns |= {"long_target": move > 1, "short_target": move < -1, "neutral_target": np.abs(move) <= 1}
    labels = keys.hstack(pl.DataFrame({name: column.astype(np.float32) for name, column in columns.items()}))
    start = pl.col("minute") + timedelta(minutes=1)
    labels = labels.with_columns(label_start=start, label_end=start + timedelta(minutes=45))
    place = np.arange(len(opens)) // MINUTES
    roles = keys.with_columns(role=pl.Series(np.array(["fit"] * 3 + ["tune"] * 2 + ["test"])[place]))
    return features, labels, roles


def _bundle(
    folder: Path, features: pl.DataFrame, labels: pl.DataFrame, roles: pl.DataFrame, *, trees: bool
) -> Bundle:
    members = [member for member in STUDY.members if trees or not isinstance(member, TreeHeadsSpec)]
    heads = STUDY.labels.heads
    prepared = prepare(features, features.select(*KEY, eligible=pl.lit(True)), dict.fromkeys(ORDER, "series"))
    files, weights, parts = {}, {}, []
    for member in members:
        part = Part(member.name, "production", 1 / len(members))
        fitted = fit_member(member, STUDY.training, heads, prepared, labels, roles, workdir=folder)
        tune = fitted.scores.filter(pl.col("role") == "tune")
        files |= {part.file(name): data for name, data in fitted.files.items()}
        files[part.calibrators] = fit_calibrators(tune, labels, heads, STUDY.calibration).to_json()
        weights[part.name] = {name: hash_bytes(data) for name, data in fitted.files.items()}
        parts.append(part)
    files |= {
        "ensemble.json": ensemble_file(parts, {}),
        "policy.json": canonical_json(LOOSE).encode(),
        "study.json": canonical_json(STUDY).encode(),
    }
    manifest = {
        "study": STUDY.name,
        "schema": list(ORDER),
        "schema_hash": order_hash(),
        "weights": weights,
        "lineage": {"ledger_head": "0" * 64, "evaluation": "0" * 64},
    }
    return write_bundle(folder / "bundles", files | contract_files(files, manifest, lambda: features[-500:]), manifest)


if __name__ == "__main__":
    main()
