"""One simulated market: books of every kind traded in it, and what the referees say of them. No verdict here."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import polars as pl

from assets.proof.executable_minutes import (
    CANDLES,
    broken_trades,
    every_outcome,
    forged_trades,
    random_trades,
    raw_candles,
)
from assets.proof.forged_fills import FORGERIES, forged
from assets.proof.homes import HomePlan, filled_home, open_home, reader_of
from assets.proof.raw_referee import RawMarket, impossible_fills, possible_refusals
from assets.proof.survivorship import check_universe, listed_pairs, survivor_gains, survivors
from assets.runs import Runner
from pipeline.asof.patches import latest
from pipeline.backtests.books import equal_weight_orders, random_orders
from pipeline.backtests.engine import run_books
from pipeline.backtests.market import Market
from pipeline.backtests.spec import ExecutionSpec
from pipeline.files import replace_if_changed
from pipeline.fingerprints import canonical_json
from pipeline.frames import AsOf
from pipeline.labels.minute_spec import PlanLabelSpec
from pipeline.labels.price_plan import price_plan_context
from pipeline.positions.manager_spec import ManagerSpec, PlanNumbers
from pipeline.positions.policy import Policy, select
from pipeline.positions.spec import PolicySpec
from pipeline.stages.top_k import ORDER_COLUMNS, read_market
from pipeline.studies import STUDIES
from pipeline.study import Study

EVERYTHING = "every listed name, every session"
EVERY_MINUTE = "every minute, both sides"
OWN = "the study's own"
RESULT = "result.json"
SHOWN_BROKEN = 20


@dataclass(frozen=True)
class MarketPlan:
    """A simulated market to trade in.

    Parameters
    ----------
    name : str
    plan : HomePlan
    random_books : int
    own : bool
        Whether the study's own research is run too, and its trades are judged.
    unsold : tuple of str
        Tables that the vendor had not begun to sell by then: the study does without them.
    """

    name: str
    plan: HomePlan
    random_books: int = 10
    own: bool = False
    unsold: tuple[str, ...] = ()


@dataclass
class Judged:
    """What one market gave; plain values, so that an interrupted run goes on with the next market.

    Parameters
    ----------
    trades : mapping
        Kind of book -> orders, fills (a purchase or a sale) and impossible trades.
    refused, refused_possible : int
        Orders of the widest book that were not filled, and those of them that the raw rows would have allowed.
    broken : list
        The first broken rules, in words.
    forgeries : mapping
        Kind -> forged, caught.
    universe : mapping
        Security-days: listed, missing, surplus, unseen by a universe of today.
    gains : mapping
        Universe and book -> daily net returns that survivors alone add.
    closed : float
        Largest daily difference between books on the panel's universe and on the one that the raw rows tell.
    """

    study: str
    market: str
    decides: str
    trades: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    refused: int = 0
    refused_possible: int = 0
    broken: list[str] = field(default_factory=list)
    forgeries: dict[str, tuple[int, int]] = field(default_factory=dict)
    universe: dict[str, int] = field(default_factory=dict)
    gains: dict[str, list[float]] = field(default_factory=dict)
    closed: float = 0.0

    @property
    def impossible(self) -> int:
        return sum(wrong for _, _, wrong in self.trades.values())

    def add(self, book: str, orders: int, fills: int, wrong: pl.DataFrame) -> None:
        """Note what the referee said of some books."""
        impossible = wrong.select(pl.exclude("rule", "observed")).unique()
        self.trades[book] = orders, fills, len(impossible)
        self.broken += [" ".join(map(str, row)) for row in wrong.head(SHOWN_BROKEN - len(self.broken)).iter_rows()]


def judge(study_name: str, market: MarketPlan, most: int, folder: Path) -> Judged:
    """Trade in a market, judge the trades, forge up to `most` of each kind and judge these.

    What was found before is read back from the folder: an interrupted run goes on with the next market.
    """
    home = folder / f"{study_name} {market.name}".replace(" ", "_").replace(",", "")
    stored = home / RESULT
    if not stored.exists():
        study = STUDIES[study_name]
        shutil.rmtree(home, ignore_errors=True)  # of an interrupted run: its clock stands too late
        found = (_judge_sessions if study.market.decides == "session" else _judge_minutes)(
            study, market, home / "home", most
        )
        shutil.rmtree(home / "home")
        replace_if_changed(stored, canonical_json(asdict(found)).encode())
    return Judged(**json.loads(stored.read_text()))


def _judge_sessions(study: Study, market: MarketPlan, home: Path, most: int) -> Judged:
    kept = [use.model_dump(mode="json") for use in study.tables if use.table not in market.unsold]
    plan = replace(market.plan, study={**market.plan.study, "tables": kept})
    runner = _researched(study, home, plan) if market.own else _quoted(study, home, plan)
    study, found = runner.study, Judged(study.name, market.name, "session")
    assert isinstance(study.execution, ExecutionSpec)
    assert isinstance(study.policy, PolicySpec)
    execution, raw = study.execution, RawMarket(runner.environment.lake)
    read = reader_of(runner.environment, "folds", home)
    quotes = read_market(read)
    panel = latest(AsOf(read.table("panel", "panel")), read.table("panel", "patches")).frame
    books: dict[str, pl.DataFrame] = {
        EVERYTHING: equal_weight_orders(panel, EVERYTHING),
        "equal weights": equal_weight_orders(panel.filter("eligible")),
        "random": random_orders(panel.filter("eligible"), study.policy.top_k, market.random_books, execution.seed),
        "yesterday's winners and losers": _chasing(panel, study.policy.top_k),
    }
    made = {kind: run_books(orders.select(ORDER_COLUMNS), quotes, execution).trades for kind, orders in books.items()}
    if market.own:
        made[OWN] = runner.environment.artifacts.table(study.name, "backtest", "trades")

    def judged(trades: pl.DataFrame) -> pl.DataFrame:
        return impossible_fills(trades, raw, execution.exit_session, execution.delisting_haircut)

    for kind, trades in made.items():
        fills = trades["entry_session"].count() + trades.filter(pl.col("status").is_in(["filled", "carried"])).height
        found.add(kind, len(trades), fills, judged(trades))
    every = made[EVERYTHING]
    found.refused = int((every["status"] == "entry_blocked").sum())
    found.refused_possible = len(possible_refusals(every, raw))
    for forgery in FORGERIES:
        fakes = forged(forgery, every, raw, execution.exit_session, most)
        wrong = judged(fakes).filter(pl.col("rule") == forgery.breaks)
        found.forgeries[forgery.kind] = len(fakes), wrong["book"].n_unique()
    _compare_universes(found, panel, raw, quotes, study, market.random_books)
    return found


def _compare_universes(
    found: Judged, panel: pl.DataFrame, raw: RawMarket, quotes: Market, study: Study, books: int
) -> None:
    """Survivors beside the universe by date, and the universe by date beside the raw listing days."""
    assert isinstance(study.execution, ExecutionSpec)
    assert isinstance(study.policy, PolicySpec)
    pairs = panel.select("session", "instrument")
    truth = listed_pairs(raw, pairs["session"].unique().sort().to_list())
    found.universe = asdict(check_universe(pairs, truth, raw))
    universes = {"all listed": pairs, "scored": panel.filter("eligible").select("session", "instrument")}
    for universe, rows in universes.items():
        gains = survivor_gains(rows, survivors(rows, raw), quotes, study.execution, study.policy.top_k, books)
        found.gains |= {f"{universe}: {book}": values.to_list() for book, values in gains.items()}
    same = survivor_gains(pairs, truth, quotes, study.execution, study.policy.top_k, books)
    found.closed = max(float(values.abs().max() or 0.0) for values in same.values())  # type: ignore[arg-type]


def _chasing(panel: pl.DataFrame, top_k: int) -> pl.DataFrame:
    """Two books as a study would hold them, of the scores that meet price limits most: the last session's return."""
    scored = panel.filter("eligible").with_columns(up_pred=pl.col("close") / pl.col("pre_close") - 1.0)
    scored = scored.with_columns(down_pred=-pl.col("up_pred"))
    return pl.concat(
        select(scored, Policy(top_k=top_k, alpha=alpha)).select(pl.lit(alpha).alias("book"), *ORDER_COLUMNS[1:])
        for alpha in ("up_pred", "down_pred")
    )


def _quoted(study: Study, home: Path, plan: HomePlan) -> Runner:
    """A home with raw tables, the last ones fetched evening by evening, and a panel."""
    runner = open_home(study, home, plan)
    runner.ingest()
    settings, calendar = runner.environment.settings, runner.environment.calendar()
    assert settings.first_session
    assert settings.last_session
    for back in range(plan.evenings - 1, 0, -1):
        session = calendar.shift(settings.last_session, 1 - back)
        runner.environment.move_clock(runner.study.market.decided_at(session))
        runner.ingest(f"{session:%Y-%m}", f"{session:%Y-%m}")
    runner.stages(["panel"], first=f"{settings.first_session:%Y-%m}", last=f"{settings.last_session:%Y-%m}")
    return runner


def _researched(study: Study, home: Path, plan: HomePlan) -> Runner:
    runner = filled_home(study, home, plan)
    runner.research()
    return runner


def _judge_minutes(study: Study, market: MarketPlan, home: Path, most: int) -> Judged:
    runner = (_researched if market.own else filled_home)(study, home, market.plan)
    study, found = runner.study, Judged(study.name, market.name, "minute")
    assert isinstance(study.labels, PlanLabelSpec)
    assert isinstance(study.policy, ManagerSpec)
    plan, base = study.labels.plan, study.policy.base
    cooldown = base.add.cooldown_minutes
    candles = raw_candles(runner.environment.lake.scan(CANDLES))
    labels = reader_of(runner.environment, "folds", home).table("labels", "labels")
    numbers = PlanNumbers.from_context(price_plan_context(plan))
    drawn = random_trades(labels, base, numbers, market.random_books, seed=int(market.plan.market["seed"]))
    made = {EVERY_MINUTE: (every_outcome(labels, plan), 0), "random": (drawn, cooldown)}
    if market.own:
        made[OWN] = runner.environment.artifacts.table(study.name, "backtest", "trades"), cooldown
    for kind, (trades, wait) in made.items():
        found.add(kind, len(trades), 2 * len(trades), broken_trades(trades, candles, plan, wait))
    for kind, (fakes, wait) in forged_trades(drawn, candles, plan, most).items():
        wrong = broken_trades(fakes, candles, plan, wait)
        found.forgeries[kind] = fakes["book"].n_unique(), wrong["book"].n_unique()
    return found
