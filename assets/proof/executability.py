"""Executability: no simulated fill could not have happened, and no universe knows who will survive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl

from assets.proof.contract import BROKEN, HELD, Progress, Size
from assets.proof.homes import HomePlan
from assets.proof.judged_market import EVERYTHING, Judged, MarketPlan, judge
from assets.proof.survivorship import EVERY
from pipeline.backtests.bootstrap import block_bootstrap
from pipeline.diagnostics.finding import Finding
from pipeline.studies import STUDIES

BLOCK = 20  # sessions a block of the bootstrap: several holding periods


def _sessions(seed: int, instruments: int, sessions: int, last: date | None = None, **more: Any) -> HomePlan:
    faults = {"late_rate": 0.01, "revision_rate": 0.01, "stretch": 20}
    market = {"seed": seed, "instruments": instruments, "sessions": sessions, "minutes": False, "faults": faults}
    return HomePlan(market=market | ({"last_session": last} if last else {}), evenings=2, **more)


def _minutes(seed: int, days: int) -> HomePlan:
    return HomePlan(market={"seed": seed, "days": days, "signal": 0.3})


# One market of each era of the price limits: ChiNext's and the arrangements' reform of 2020, the BSE's opening, the
# main boards' registration of 2023, wider ST bands and the BSE's new codes of 2025 and 2026.
ERAS = {
    "2019-2021": (date(2021, 3, 31), ("bse_mapping", "index_member_all")),
    "2020-2022": (date(2022, 6, 30), ("bse_mapping",)),
    "2022-2024": (date(2024, 2, 29), ("bse_mapping",)),
}
MARKETS: dict[Size, dict[str, tuple[MarketPlan, ...]]] = {
    "small": {
        "session": (MarketPlan("40 x 120", _sessions(1, 40, 120)),),
        "minute": (MarketPlan("6 days", _minutes(1, 6), random_books=3),),
    },
    "full": {
        "session": (
            MarketPlan("200 x 400, own research", _sessions(1, 200, 400), 50, own=True),
            MarketPlan("200 x 400, second seed", _sessions(2, 200, 400), 50),
            *(MarketPlan(f"200 x 400, {era}", _sessions(10 + i, 200, 400, last), 50, unsold=unsold)
              for i, (era, (last, unsold)) in enumerate(ERAS.items())),
            *(MarketPlan(f"40 x 160, seed {seed}", _sessions(seed, 40, 160), 20) for seed in range(20, 30)),
        ),
        "minute": (
            MarketPlan("14 days, own research", _minutes(1, 14), 20, own=True),
            *(MarketPlan(f"10 days, seed {seed}", _minutes(seed, 10), 10) for seed in (2, 3)),
        ),
    },
}  # fmt: skip
FORGED: dict[Size, int] = {"small": 20, "full": 200}


def run(size: Size, folder: Path, progress: Progress) -> Finding:
    """Every market of every registered study: trade in it, judge the trades on raw rows, forge some and judge these."""
    jobs = [(name, market, FORGED[size], folder) for name, study in STUDIES.items()
            for market in MARKETS[size][study.market.decides]]  # fmt: skip
    judged: list[Judged] = []
    if size == "small":
        for job in jobs:
            progress(f"{job[0]}: {job[1].name}", len(judged) / len(jobs))
            judged.append(judge(*job))
    else:
        with ProcessPoolExecutor(2, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
            running = [pool.submit(judge, *job) for job in jobs]
            for done, future in enumerate(as_completed(running), start=1):
                progress(f"{future.result().study}: {future.result().market}", done / len(jobs))
            judged = [future.result() for future in running]
    return finding(judged)


def finding(judged: list[Judged]) -> Finding:
    """HELD: no rule broken, every forgery caught, each kind forged at least once, universes equal to the raw ones."""
    impossible = sum(one.impossible for one in judged)
    forgeries = _summed_forgeries(judged)
    open_universes = sum(one.universe.get("missing", 0) + one.universe.get("surplus", 0) for one in judged)
    closed = max((one.closed for one in judged), default=0.0)
    caught = all(0 < made == found for made, found in zip(forgeries["forged"], forgeries["caught"], strict=True))
    held = impossible == 0 and caught and open_universes == 0 and closed == 0.0
    fills = sum(filled for one in judged for _, filled, _ in one.trades.values())
    gaps = _gaps(judged)
    tables = {
        "markets": pl.DataFrame([row for one in judged for row in _market_rows(one)], infer_schema_length=None),
        "forged trades": forgeries,
        "what survivors alone would have earned": gaps,
    }
    broken = [text for one in judged for text in one.broken]
    if broken:
        tables["broken rules"] = pl.DataFrame({"what": broken})
    return Finding(
        float(impossible), HELD if held else BROKEN, _text(judged, fills, impossible, forgeries, gaps), tables,
        rule="HELD: 0 impossible fills, every forged one caught and every kind forged, and a universe that equals the "
        "raw listing days pair by pair",
        counts={"fills": fills, "impossible": impossible, "forged": int(forgeries["forged"].sum()),
                "caught": int(forgeries["caught"].sum()), "markets": len(judged)},
    )  # fmt: skip


def _market_rows(one: Judged) -> Iterable[Mapping[str, object]]:
    for book, (orders, fills, wrong) in one.trades.items():
        widest = book == EVERYTHING
        yield {
            "study": one.study, "market": one.market, "book": book, "orders": orders, "fills judged": fills,
            "impossible": wrong, "entries refused": one.refused if widest else None,
            "refused though possible": one.refused_possible if widest else None,
        }  # fmt: skip


def _summed_forgeries(judged: list[Judged]) -> pl.DataFrame:
    rows = [{"study": one.study, "forgery": kind, "forged": made, "caught": found}
            for one in judged for kind, (made, found) in one.forgeries.items()]  # fmt: skip
    counted = {"study": pl.String, "forgery": pl.String, "forged": pl.Int64, "caught": pl.Int64}
    frame = pl.DataFrame(rows, schema=counted)
    return frame.group_by("study", "forgery", maintain_order=True).sum()


def _gaps(judged: list[Judged]) -> pl.DataFrame:
    """Annual net return that a universe of today's names adds, over all markets, with its 95% interval."""
    rows: list[dict[str, object]] = []
    for study in dict.fromkeys(one.study for one in judged if one.gains):
        of_study = [one for one in judged if one.study == study]
        year = STUDIES[study].market.sessions_per_year
        for kind in of_study[0].gains:
            daily = pl.Series([value for one in of_study for value in one.gains[kind]], dtype=pl.Float64)
            low, high = block_bootstrap(daily, 2000, BLOCK, 0.95, seed=5)
            rows.append({
                "study": study, "universe and book": kind, "markets": len(of_study), "sessions": len(daily),
                "gain a year": float(daily.mean() or 0.0) * year, "from": low * year, "to": high * year,  # type: ignore[arg-type]
                "with ours": max(one.closed for one in of_study),
            })  # fmt: skip
    return pl.DataFrame(rows)


def _text(judged: list[Judged], fills: int, impossible: int, forgeries: pl.DataFrame, gaps: pl.DataFrame) -> str:
    refused, possible = (sum(getattr(one, name) for one in judged) for name in ("refused", "refused_possible"))
    universe = {name: sum(one.universe.get(name, 0) for one in judged)
                for name in ("pairs", "missing", "surplus", "unseen")}  # fmt: skip
    said = [
        f"{impossible} impossible trades in {fills:,} fills in {len(judged)} markets; the widest books order every "
        "listed name at every session and either side at every minute, so what is judged is all that could be filled.",
        f"Of {refused:,} refused entries the raw rows would have allowed {possible:,}.",
        f"{forgeries['caught'].sum():,} of {forgeries['forged'].sum():,} forged trades of {len(forgeries)} kinds were "
        "caught.",
    ]
    if not gaps.is_empty():
        gains = [f"{row['gain a year']:+.1%} a year [{row['from']:+.1%}, {row['to']:+.1%}] ({row['universe and book']})"
                 for row in gaps.iter_rows(named=True) if EVERY in row["universe and book"]]  # fmt: skip
        said.append(
            f"A universe of the names that are listed today misses {universe['unseen']:,} of {universe['pairs']:,} "
            f"security-days and adds {' and '.join(gains)}; ours misses {universe['missing']}, has "
            f"{universe['surplus']} too many, and its books gain {max(gaps['with ours']):.1%}."
        )
    return " ".join(said)
