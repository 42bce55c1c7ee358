"""Causality certificates: no registered feature and no prediction moves with what its decision could not know."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numba
import polars as pl

from assets.proof.causal_features import certify_minutes, certify_sessions, stored_minutes, stored_sessions
from assets.proof.causal_predictions import certify_minute_predictions, certify_session_predictions
from assets.proof.contract import BROKEN, HELD, Progress, Size
from assets.proof.counting import Certified
from assets.proof.homes import HomePlan, filled_home, judged_home
from pipeline.diagnostics.finding import Finding
from pipeline.serving.bundle import Bundle, load_bundle
from pipeline.stages.candidates import BUNDLE_FILE
from pipeline.studies import STUDIES
from resources.environments import Environment

SYMBOLS = ["BTCUSDT", "ETHUSDT"]  # one symbol alone could not show what a second one changes
TWO_SYMBOLS = {"market": {"symbols": SYMBOLS}, "study": {"universe.symbols": SYMBOLS}}


@dataclass(frozen=True)
class Sizes:
    """How much is asked.

    Parameters
    ----------
    homes : mapping
        How often a study decides -> its home.
    predictions : tuple of str
        For which of them a bundle is made and judged too.
    cuts : mapping
        How often -> cuts; None for every session.
    measured_at : mapping
        How often -> cuts at which look-backs are measured.
    """

    homes: dict[str, HomePlan]
    predictions: tuple[str, ...]
    cuts: dict[str, int | None]
    measured_at: dict[str, int] = field(default_factory=lambda: {"session": 2, "minute": 2})


_OFTEN_LATE = {"faults": {"late_rate": 0.02, "revision_rate": 0.02, "stretch": 3}}
SIZES: dict[Size, Sizes] = {
    "small": Sizes(
        {"session": HomePlan(market={"sessions": 110}),
         "minute": HomePlan(market={**TWO_SYMBOLS["market"], "days": 6}, study=TWO_SYMBOLS["study"])},
        predictions=("session",), cuts={"session": 4, "minute": 4}, measured_at={"session": 1, "minute": 1},
    ),
    "full": Sizes(
        {"session": HomePlan(None, market={"instruments": 40, "sessions": 270, **_OFTEN_LATE}, evenings=3),
         "minute": HomePlan(None, market={**TWO_SYMBOLS["market"], "days": 12}, study=TWO_SYMBOLS["study"])},
        predictions=("session", "minute"), cuts={"session": None, "minute": 200},
        measured_at={"session": 6, "minute": 6},
    ),
}  # fmt: skip


def run(size: Size, folder: Path, progress: Progress) -> Finding:
    """One certificate a kind of feature and a kind of prediction, of every registered study."""
    asked = SIZES[size]
    jobs = [(name, asked, folder / name) for name in STUDIES]
    found: dict[str, list[Certified]] = {}
    if size == "small":
        found = {name: certify(name, asked, home, progress) for name, asked, home in jobs}
    else:
        with ProcessPoolExecutor(min(2, len(jobs)), mp_context=get_context("spawn")) as pool:
            running = {pool.submit(certify, *job, _silent): job[0] for job in jobs}
            for done in as_completed(running):
                found[running[done]] = done.result()
                progress(running[done], len(found) / len(jobs))
    return finding([certified for name in STUDIES for certified in found[name]])


def certify(study_name: str, asked: Sizes, home: Path, progress: Progress) -> list[Certified]:
    """Of one study: its home, then every law on what it stored."""
    study = STUDIES[study_name]
    decides = study.market.decides
    wanted, cuts, measured_at = asked.homes[decides], asked.cuts[decides], asked.measured_at[decides]
    predicts = decides in asked.predictions
    progress(f"{study_name}: home", 0.0)
    environment = (judged_home if predicts else filled_home)(study, home, wanted).environment
    with _one_thread():
        if decides == "session":
            found = certify_sessions(stored_sessions(environment), cuts, measured_at, progress)
            judge: Callable[..., Certified] = certify_session_predictions
        else:
            found = certify_minutes(stored_minutes(environment), cuts or 0, measured_at, progress)
            judge = certify_minute_predictions
        if predicts:
            found.append(judge(environment, candidate_bundle(environment), cuts, measured_at, progress))
    return found


def candidate_bundle(environment: Environment) -> Bundle:
    """What the candidate stage packed and judged."""
    name = environment.study.name
    chosen = json.loads(environment.artifacts.file(name, "candidate", BUNDLE_FILE))
    return load_bundle(environment.bundles(name), chosen["bundle"])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Thousands of tiny computations: starting threads would cost more than they do."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def _silent(text: str, done: float) -> None:
    """In a process of its own, nobody listens."""


def finding(certified: list[Certified]) -> Finding:
    """All certificates together: held where every column was compared, none differs and none needs more history."""
    families = pl.concat([each.table() for each in certified])
    columns = pl.concat([each.column_table() for each in certified])
    longer = columns.filter(pl.col("look-back measured") > pl.col("look-back declared"))
    unseen = columns.filter((pl.col("rows") == 0) | (pl.col("future cuts") == 0) | (pl.col("past cuts") == 0))
    wrong = columns.filter(pl.col("differences") > 0)
    held = longer.is_empty() and unseen.is_empty() and wrong.is_empty()
    exact = columns.filter(pl.col("look-back measured") == pl.col("look-back declared")).height
    values, fewest = int((columns["rows"]).sum()), int(columns["future cuts"].min())  # type: ignore[arg-type]
    names = ", ".join(wrong["column"].head(5).to_list() + longer["column"].head(5).to_list())
    text = (
        f"{columns.height:,} columns of {families.height} families were computed anew from cut, shuffled and thinned "
        f"rows: {values:,} values compared bit for bit, {int(columns['differences'].sum()):,} differ. The future was "
        f"cut at {fewest} or more decisions of every column. History was cut at the declared look-back, and shorter "
        f"until a value moved: {exact:,} columns need all that they declare, {longer.height} more than that, the rest "
        f"needed less on these markets."
    )
    if not held:
        text += f" Not causal, or not seen: {names or ', '.join(unseen['column'].head(5).to_list())}."
    return Finding(
        score=float(columns["differences"].sum()),
        status=HELD if held else BROKEN,
        text=text,
        tables={"certificates": families, "columns": columns},
        rule="held when no value differs, no column needs more history than it declares, and every column was cut",
        counts={"columns": columns.height, "values": values, "cuts": fewest},
    )
