"""Sessions inferred one by one as if live, each made again by the research path the next day, bit for bit."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date, timedelta
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from assets.daily import check_session, run_session
from assets.proof.bit_flips import Flip, Place, changed, file_flips, raw_flip, table_flip
from assets.proof.contract import BROKEN, HELD, Progress, Size
from assets.proof.homes import HomePlan, open_home, reader_of, stage_named
from assets.runs import Runner
from pipeline.diagnostics.finding import Finding
from pipeline.errors import FoldgateError, Tampered
from pipeline.serving.parity import KEYS
from pipeline.serving.records import BOOKS, Selection, write_selection
from pipeline.stages.serving import PARITY_TABLES
from pipeline.studies import STUDIES
from pipeline.study import Study
from resources.environments import Environment

SEED = 20261120
RECORD, BUNDLE, NOTHING = "record", "bundle", Place("", "", "")
# Inputs that the research path reads, and what the live session stored of itself.
FLIPPED = (("panel", "panel"), ("features", "features"), *(("inference", name) for name in PARITY_TABLES))


@dataclass(frozen=True)
class Sizes:
    """How long a study lives, by how often it decides.

    Parameters
    ----------
    homes : mapping
        The evenings of a home are the live sessions and the one before them.
    flips : int
        Changed bits a place.
    again : bool
        Whether every session is made again once more at the end, with all that became known meanwhile.
    """

    homes: Mapping[str, HomePlan]
    flips: int
    again: bool


_FEW_TABLES = ("trade_cal", "stock_basic", "daily", "adj_factor", "daily_basic", "suspend_d", "index_daily")
_LATE = {"faults": {"late_rate": 0.02, "revision_rate": 0.02, "stretch": 3}}
SIZES: dict[Size, Sizes] = {
    "small": Sizes(
        {"session": HomePlan(market={"sessions": 100}, held=76, evenings=5, study={
            "universe.seasoning_sessions": 5, "execution.random_books": 2, "features": ["returns", "limits"],
            "tables": [{"table": name} for name in _FEW_TABLES]}),
         "minute": HomePlan(market={"days": 12}, evenings=2, study={"training.row_cap": 500})},
        flips=1, again=False,
    ),
    "full": Sizes(
        {"session": HomePlan(None, market={"instruments": 40, "sessions": 200, **_LATE}, evenings=61),
         "minute": HomePlan(None, market={"days": 60}, evenings=15, study={"training.row_cap": 20_000})},
        flips=20, again=True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Flipped:
    """A changed bit: where it must be found and where it was."""

    what: str
    expected: Place
    found: Place

    @property
    def named(self) -> bool:
        return self.found == self.expected


@dataclass(frozen=True)
class Outcome:
    """A study's live sessions.

    Parameters
    ----------
    reports : DataFrame
        `when`, session, asset, `rows`, `different`, `first`.
    """

    study: str
    reports: pl.DataFrame
    flips: list[Flipped]


def run(size: Size, folder: Path, progress: Progress) -> Finding:
    """Every registered study."""
    asked, outcomes = SIZES[size], dict[str, Outcome]()
    if size == "small":
        for name in STUDIES:
            outcomes[name] = examine(name, asked, folder / name, progress)
        return finding([*outcomes.values()])
    with ProcessPoolExecutor(min(2, len(STUDIES)), mp_context=get_context("spawn")) as pool:
        running = {pool.submit(examine, name, asked, folder / name, _silent): name for name in STUDIES}
        for done in as_completed(running):
            outcomes[running[done]] = done.result()
            progress(running[done], len(outcomes) / len(STUDIES))
    return finding([outcomes[name] for name in STUDIES])


def _silent(text: str, done: float) -> None:
    """In a process of its own, nobody listens."""


def examine(name: str, asked: Sizes, home: Path, progress: Progress) -> Outcome:
    """One study: its live sessions, then the changed bits of one of them."""
    study = STUDIES[name]
    runner, sessions = lived_home(study, home, asked.homes[study.market.decides], progress)
    reports = [_report(runner.environment, "the day after", day) for day in sessions]
    if asked.again:
        progress(f"{name}: all again", 0.8)
        reports += _again(runner, sessions)
    progress(f"{name}: changed bits", 0.9)
    flips = flipped(runner, sessions[-1], asked.flips)
    return Outcome(name, pl.concat(reports), flips)


def lived_home(study: Study, home: Path, wanted: HomePlan, progress: Progress) -> tuple[Runner, list[date]]:
    """A champion, then sessions one by one at their own decision times, each checked on the next evening."""
    shutil.rmtree(home, ignore_errors=True)  # half a life cannot be gone on with
    progress(f"{study.name}: a champion", 0.0)
    runner = open_home(study, home, wanted)
    runner.ingest()
    runner.market()
    runner.research()
    runner.judged("candidate")
    runner.stages(["champion"])
    environment = runner.environment
    last = environment.settings.last_session
    assert last
    calendar = environment.calendar()
    sessions = [calendar.shift(last, -back) for back in range(wanted.evenings - 2, -1, -1)]
    for i, day in enumerate(sessions):
        progress(f"{study.name}: {day}", (i + 1) / (len(sessions) + 1))
        environment.move_clock(study.market.decided_at(day))
        run_session(runner, day)
        if i:
            check_session(runner, sessions[i - 1])
    environment.move_clock(study.market.decided_at(last) + timedelta(days=1))
    check_session(runner, last)
    return runner, sessions


def _report(environment: Environment, when: str, day: date, report: pl.DataFrame | None = None) -> pl.DataFrame:
    """What the parity stage stored of a session, and its record against its orders."""
    name = environment.study.name
    if report is None:
        report = environment.artifacts.table(name, "parity", "report", partitions=[day.isoformat()])
    place = pl.concat_str(pl.col("asset", "instrument", "column"), separator=", ", ignore_nulls=True)
    first = pl.when(~pl.col("exact")).then(place)
    rows = report.select("session", "asset", "rows", "different", first=first)
    wrong = record_difference(environment, day)
    orders = environment.artifacts.current(name, "inference")[day.isoformat()].tables["orders"]["rows"]
    told = {
        "session": day,
        "asset": RECORD,
        "rows": orders,
        "different": orders if wrong else 0,
        "first": wrong or None,
    }
    return pl.concat([rows, pl.DataFrame([told], schema=rows.schema)]).select(pl.lit(when).alias("when"), pl.all())


def record_difference(environment: Environment, day: date) -> str:
    """The file of a session's record that is not what its stored orders say; empty when it is."""
    study = environment.study
    book = BOOKS[study.policy.family]
    orders = environment.artifacts.table(study.name, "inference", "orders", partitions=[day.isoformat()])
    told = json.loads(environment.artifacts.file(study.name, "inference", "record.json", partition=day.isoformat()))
    with TemporaryDirectory() as folder:
        again = write_selection(Path(folder), Selection(day, told["bundle"], orders.drop("session"), book))
        wanted = again.read_bytes()
    path = book.day_folder(environment.records(study.name), day) / book.record
    return "" if path.read_bytes() == wanted else path.name


def _again(runner: Runner, sessions: Sequence[date]) -> list[pl.DataFrame]:
    """Panel and features of every month anew, then the parity of every session."""
    months = sorted(runner.environment.artifacts.current(runner.study.name, "panel"))
    runner.stages(["panel", "features"], first=months[0], last=months[-1])
    return [_report(runner.environment, "at the end", day, _made_again(runner.environment, day)) for day in sessions]


def _made_again(environment: Environment, day: date) -> pl.DataFrame:
    """The report of the parity stage, as it would store it now."""
    with TemporaryDirectory() as folder:
        reader = reader_of(environment, "parity", Path(folder))
        return stage_named("parity").run(environment.study, reader, day.isoformat()).tables["report"]


def flipped(runner: Runner, day: date, count: int) -> list[Flipped]:
    """Changed bits in whatever leads from the raw rows of a session to its record, one at a time."""
    environment, draw = runner.environment, random.Random(SEED)
    made = [_found(runner, day, raw_flip(environment, day, draw)) for _ in range(count)]
    runner.stages(["panel", "features"], first=f"{day:%Y-%m}")  # without what the raw rows held for a while
    for stage, table in FLIPPED:
        flips = [table_flip(environment, stage, table, day, draw) for _ in range(count)]
        made += [_found(runner, day, flip) for flip in flips if flip is not None]
    made += [_found(runner, day, flip) for flip in _files(environment, day, draw)]
    # Each was undone: what is found now would be the proof's own doing.
    return [*made, Flipped("nothing", NOTHING, _place(environment, day))]


def _files(environment: Environment, day: date, draw: random.Random) -> list[Flip]:
    """Every file of the champion's bundle, and the session's record."""
    study = environment.study
    serving = environment.champions(study.name).current()
    assert serving
    bundle = environment.bundles(study.name) / serving["bundle"]
    names = sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file())
    book = BOOKS[study.policy.family]
    folder = book.day_folder(environment.records(study.name), day)
    return [
        *file_flips(bundle, BUNDLE, "bundle", names, draw),
        *file_flips(folder, RECORD, "record", [book.record], draw),
    ]


def _found(runner: Runner, day: date, flip: Flip) -> Flipped:
    with changed(flip):
        if flip.rebuilds:
            runner.stages(["panel", "features"], first=f"{day:%Y-%m}")
        return Flipped(flip.what, flip.place, _place(runner.environment, day))


def _place(environment: Environment, day: date) -> Place:
    """Where the session's parity differs first, or the file that it refuses to read."""
    try:
        report = _made_again(environment, day)
    except Tampered as refused:
        return Place(BUNDLE, "", str(refused.observed).split(":")[0])
    except FoldgateError as refused:
        return Place(type(refused).__name__, "", refused.rule)
    differing = {row["asset"]: row for row in report.filter(~pl.col("exact")).iter_rows(named=True)}
    first = next((differing[asset] for asset in KEYS if asset in differing), None)
    if first:
        return Place(first["asset"], first["instrument"], first["column"])
    wrong = record_difference(environment, day)
    return Place(RECORD, "", wrong) if wrong else NOTHING


def finding(outcomes: Sequence[Outcome]) -> Finding:
    """Held where no row of any session differs, and every changed bit is found where it is."""
    reports = pl.concat(
        [outcome.reports.select(pl.lit(outcome.study).alias("study"), pl.all()) for outcome in outcomes]
    )
    flips = [(outcome.study, flip) for outcome in outcomes for flip in outcome.flips]
    bits = [flip for _, flip in flips if flip.expected != NOTHING]
    rows, different = int(reports["rows"].sum()), int(reports["different"].sum())
    named = sum(flip.named for flip in bits)
    days = {outcome.study: outcome.reports["session"].n_unique() for outcome in outcomes}
    lived = ", ".join(f"{count} of {study}" for study, count in days.items())
    return Finding(
        score=(rows - different) / rows,
        status=HELD if not different and all(flip.named for _, flip in flips) else BROKEN,
        text=f"Live sessions: {lived}. The research path made {rows - different} of {rows} rows again with every bit: "
        "panel, window of features, tensors, raw scores, calibrated scores, orders, and the record against its "
        f"orders. Of {len(bits)} single bits that were changed in stored files, {named} were found with the first "
        "asset, row and column named.",
        tables={"rows made again": _row_table(reports), "changed bits": _flip_table(flips)},
        rule="held when no row differs and every changed bit is named where it is",
        counts={"sessions": sum(days.values()), "rows": rows, "rows that differ": different, "changed bits": len(bits),
                "named": named},
    )  # fmt: skip


def _row_table(reports: pl.DataFrame) -> pl.DataFrame:
    """One row a study, time of the check and asset, from cause to effect."""
    order = {asset: i for i, asset in enumerate([*KEYS, RECORD])}
    table = reports.group_by("study", "when", "asset", maintain_order=True).agg(
        pl.col("session").n_unique().alias("sessions"),
        pl.sum("rows"),
        pl.sum("different").alias("rows that differ"),
        pl.col("first").drop_nulls().first().alias("first difference"),
    )
    return table.rename({"when": "made again"}).sort(
        "study", "made again", pl.col("asset").replace_strict(order, return_dtype=pl.Int64), maintain_order=True
    )


def _flip_table(flips: Sequence[tuple[str, Flipped]]) -> pl.DataFrame:
    """One row a study and kind of file, with an example."""
    rows = [
        {"study": study, "bit changed in": flip.what, "bits": 1, "found": int(flip.found != NOTHING),
         "named": int(flip.named), "must be found at": str(flip.expected) or None,
         "found at": str(flip.found) or None, "wrong": not flip.named}
        for study, flip in flips
    ]  # fmt: skip
    frame = pl.DataFrame(rows).sort("wrong", descending=True, maintain_order=True)
    grouped = frame.group_by("study", "bit changed in", maintain_order=True)
    return grouped.agg(pl.sum("bits", "found", "named"), pl.col("must be found at", "found at").first()).sort(
        "study", maintain_order=True
    )
