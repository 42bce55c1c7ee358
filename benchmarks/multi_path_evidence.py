"""What the study's members recover of a planted signal, beside its maker's own: daily, intraday, regime, and none.

A market of each kind goes from vendor rows through panel, features, labels and one split; every member is fitted with
the study's own spec on the first sessions, chooses its epoch on the next and is scored on the last, all purged. The
oracle's rank IC is that of the planted signal on the same rows.

    python -m benchmarks.multi_path_evidence [--names 300] [--sessions 600] [--signal 0.15] [--seeds 1]
        [--plants daily intraday regime none] [--members linear boosted multi_path]
"""

from __future__ import annotations

import argparse
import math
import time
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.asof.panel import build_panel
from pipeline.asof.patches import latest
from pipeline.features.compute import CHANNELS, compute, path_channels
from pipeline.features.plan import plan
from pipeline.labels.executable import executable_labels
from pipeline.models.members import fit_member
from pipeline.models.metrics import session_rank_ic
from pipeline.models.prepared import Prepared, Reads
from pipeline.models.preparing import prepare
from pipeline.models.spec import MemberSpec
from pipeline.simulation.market import SimulatedMarket, simulate
from pipeline.simulation.profiles import Faults, Profile
from pipeline.studies.ashare_daily import STUDY

KEY = ["session", "instrument"]
CODES_AT_ONCE = 100
FIT, TUNE = 0.6, 0.15  # shares of the sessions; the rest tests


class Market(NamedTuple):
    """A market ready for fitting."""

    prepared: Prepared
    labels: pl.DataFrame
    roles: pl.DataFrame
    oracle: pl.DataFrame


def make(plant: str, names: int, sessions: int, signal: float, seed: int) -> Market:
    """From vendor rows to one split's roles."""
    kind = "daily" if plant == "none" else plant
    strength = 0.0 if plant == "none" else signal
    market = simulate(
        Profile(
            name=plant, instruments=names, sessions=sessions, signal=strength, plant=kind, seed=seed,
            faults=Faults(late_rate=0.0, revision_rate=0.0),
        )
    )  # fmt: skip
    days = list(market.sessions)
    raw = {name: rows.rename({"published_at": "known_at"}) for name, rows in market.tables.items()}
    raw["stk_mins"] = minutes(market)
    tables = build_panel(raw, market.calendar, days, STUDY.market, STUDY.universe)
    the_plan = plan(STUDY.features)
    features = compute(tables.panel, tables.patches, tables.intraday, the_plan, days)
    paths = path_channels(tables.intraday, tables.panel, days)
    labels = executable_labels(latest(tables.panel, tables.patches), market.calendar, days, STUDY.labels)
    categories = tuple(dict.fromkeys(name for member in STUDY.members for name in member.layout.categories))
    standing = tables.panel.frame.select(*KEY, "eligible", *(c for c in categories if c not in the_plan.schema))
    prepared = prepare(
        features, standing, the_plan.scopes, Reads(CHANNELS, STUDY.market.bars_per_session, categories), paths
    )
    return Market(prepared, labels, roles(labels, days), oracle(market))


def minutes(market: SimulatedMarket) -> pl.DataFrame:
    """All minute bars, some codes at a time."""
    codes = [str(code) for code in market.tables["daily"]["ts_code"].unique().sort()]
    parts = [market.minutes(codes[i : i + CODES_AT_ONCE]) for i in range(0, len(codes), CODES_AT_ONCE)]
    return pl.concat(parts).rename({"published_at": "known_at"})


def roles(labels: pl.DataFrame, days: list[date]) -> pl.DataFrame:
    """fit, tune and test in time order; a row whose label reaches into the next part belongs to none."""
    tune, test = days[int(len(days) * FIT)], days[int(len(days) * (FIT + TUNE))]
    end = pl.col("label_end").cast(pl.Date)
    role = (
        pl.when(end <= tune).then(pl.lit("fit"))
        .when((pl.col("session") >= tune) & (end <= test)).then(pl.lit("tune"))
        .when(pl.col("session") >= test).then(pl.lit("test"))
        .otherwise(pl.lit("purged"))
    )  # fmt: skip
    return labels.select(*KEY, role=role)


def oracle(market: SimulatedMarket) -> pl.DataFrame:
    return market.oracle.select(*KEY, "signal")


def rank_ic(scores: pl.DataFrame, column: str, labels: pl.DataFrame) -> np.ndarray:
    """Per session, with the executable return, over rows that have both."""
    rows = scores.join(labels.select(*KEY, "rank"), on=KEY).drop_nulls([column, "rank"]).sort(KEY)
    session = rows["session"].rank("dense").to_numpy().astype(np.int32)
    ic = session_rank_ic(
        rows["rank"].to_numpy().astype(np.float32), rows[column].to_numpy().astype(np.float32), session
    )
    return ic[np.isfinite(ic)]


def fitted(member: MemberSpec, market: Market) -> tuple[pl.DataFrame, dict[str, object], float]:
    """Test scores, notes and seconds."""
    started = time.perf_counter()
    with TemporaryDirectory() as folder:
        made = fit_member(
            member,
            STUDY.training,
            STUDY.labels.heads,
            market.prepared,
            market.labels,
            market.roles,
            workdir=Path(folder),
        )
    return made.scores.filter(role="test"), made.notes, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=int, default=300)
    parser.add_argument("--sessions", type=int, default=600)
    parser.add_argument("--signal", type=float, default=0.15, help="rank IC of the planted signal")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--plants", nargs="+", default=["daily", "intraday", "regime", "none"])
    parser.add_argument("--members", nargs="+", default=[member.name for member in STUDY.members])
    asked = parser.parse_args()
    print("plant      seed  member       rank IC      SE  sessions  of oracle  seconds  notes")
    for plant in asked.plants:
        means: dict[str, list[float]] = {}
        for seed in range(asked.seeds):
            market = make(plant, asked.names, asked.sessions, asked.signal, 20_260_930 + seed)
            test = market.roles.filter(role="test").join(market.prepared.rows, on=KEY, how="semi")
            known = rank_ic(test.join(market.oracle, on=KEY), "signal", market.labels) if plant != "none" else None
            if known is not None:
                show(plant, seed, "oracle", known, None, 0.0, {})
            for member in (member for member in STUDY.members if member.name in asked.members):
                scores, notes, seconds = fitted(member, market)
                found = rank_ic(scores, "rank_head", market.labels)
                means.setdefault(member.name, []).append(float(found.mean()))
                show(plant, seed, member.name, found, known, seconds, notes)
        for name, values in means.items() if asked.seeds > 1 else ():
            error = np.std(values, ddof=1) / math.sqrt(len(values))  # between markets: sessions overlap, markets do not
            print(f"{plant:9} all    {name:11} {np.mean(values):+8.4f} {error:7.4f} over {len(values)} markets")


def show(
    plant: str, seed: int, name: str, ic: np.ndarray, known: np.ndarray | None, seconds: float, notes: dict[str, object]
) -> None:
    share = f"{ic.mean() / known.mean():9.0%}" if known is not None else " " * 9
    error = ic.std(ddof=1) / math.sqrt(len(ic))
    told = f"epoch {notes['epoch']} (loss {notes['epoch_by_loss']})" if "epoch" in notes else ""
    print(
        f"{plant:9} {seed:5}  {name:11} {ic.mean():+8.4f} {error:7.4f} {len(ic):9} {share} {seconds:8.1f}  {told}",
        flush=True,
    )


if __name__ == "__main__":
    main()
