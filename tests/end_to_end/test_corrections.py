"""A correction leaves every earlier decision as it was; only later ones see it."""

from __future__ import annotations

from datetime import date, timedelta

import polars as pl
import pytest

from assets.runs import Runner
from tests.tiny import Tiny, copy_of

pytestmark = pytest.mark.xdist_group("tiny")

STAGES = {"panel": ("panel", "exclusions", "intraday", "summary"), "features": ("features", "paths")}


@pytest.fixture(scope="module")
def evenings(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Runner, Runner, date, dict[str, str]]:
    """Two environments on the evening of the first live session, one with rows of last month corrected that afternoon.

    Returns the corrected one, the other, the corrected session, and the table -> instrument that was corrected.
    """
    folder, evening = tmp_path_factory.mktemp("evenings"), tiny.runner.study.market.decided_at(tiny.live[0])
    corrected, plain = (copy_of(tiny.eve, folder / name, now=evening) for name in ("corrected", "plain"))
    lake, tables = corrected.environment.lake, corrected.environment.tables
    session = corrected.environment.calendar().shift(tiny.live[0], -24)
    traded = lake.latest("daily").filter(pl.col("ts_code").str.ends_with(".SZ"), trade_date=session)
    chosen = dict(zip(("daily", "adj_factor"), traded["ts_code"].sort().head(2), strict=True))
    changes = {
        "daily": (pl.col("vol") * 2, pl.col("amount") * 2),
        "adj_factor": (pl.col("adj_factor") * 1.25,),
    }
    for table, code in chosen.items():
        row = lake.latest(table).filter(trade_date=session, ts_code=code).select(tables[table].names)
        row = row.with_columns(*changes[table])
        added = lake.append(tables[table], row, request="a correction", ingested_at=evening - timedelta(minutes=30))
        assert (added.revised, added.observed) == (1, 1)
    for runner in (corrected, plain):
        month = f"{tiny.live[0]:%Y-%m}"
        runner.ingest(month, month)
        runner.market(f"{session:%Y-%m}", month)
    return corrected, plain, session, chosen


def hashes(runner: Runner, stage: str, table: str) -> dict[str, str]:
    """Session -> content hash, over all months."""
    current = runner.environment.artifacts.current(runner.study.name, stage)
    return {day: digest for version in current.values() for day, digest in version.tables[table]["sessions"].items()}


@pytest.mark.parametrize(("stage", "table"), [(stage, table) for stage in STAGES for table in STAGES[stage]])
def test_earlier_decisions_keep_their_hash(tiny: Tiny, evenings, stage: str, table: str) -> None:
    """Pins a correction that rewrites what an earlier decision saw."""
    corrected, _, session, _ = evenings
    before = hashes(copy_at_eve(tiny), stage, table)
    after = hashes(corrected, stage, table)
    assert session.isoformat() in before or table == "exclusions"
    assert len(before) > 100 or table in ("exclusions", "paths")
    assert {day: after[day] for day in before} == before
    assert set(after) - set(before) == {tiny.live[0].isoformat()}


def copy_at_eve(tiny: Tiny) -> Runner:
    """The eve itself; only read."""
    from assets.definitions import build_definitions
    from resources.environments import Environment

    return Runner(Environment(tiny.eve), tiny.runner.instance, build_definitions)


def test_the_difference_is_a_table(tiny: Tiny, evenings) -> None:
    """Pins a correction that is applied without a trace, or lost."""
    corrected, plain, session, chosen = evenings
    patches, none = (
        runner.environment.artifacts.table(runner.study.name, "panel", "patches").filter(session=session)
        for runner in (corrected, plain)
    )
    assert none.is_empty()
    assert patches["effective_session"].to_list() == [tiny.live[0]] * 2
    assert set(patches["instrument"]) == set(chosen.values())
    panel = corrected.environment.artifacts.table(corrected.study.name, "panel", "panel").filter(session=session)
    both = patches.join(panel, on=("session", "instrument"), suffix="_then")
    ratio = {row["instrument"]: row for row in both.iter_rows(named=True)}
    first, second = ratio[chosen["daily"]], ratio[chosen["adj_factor"]]
    assert first["volume"] == 2 * first["volume_then"]
    assert first["factor"] == first["factor_then"]
    assert second["factor"] == 1.25 * second["factor_then"]
    assert second["volume"] == second["volume_then"]


def test_later_decisions_see_the_correction(tiny: Tiny, evenings) -> None:
    """Pins features that go on reading the first version, or a correction that spreads to other names' own features."""
    corrected, plain, _, chosen = evenings
    tables = [
        runner.environment.artifacts.table(runner.study.name, "features", "features").filter(session=tiny.live[0])
        for runner in (corrected, plain)
    ]
    both = tables[0].join(tables[1], on="instrument", suffix="_plain")
    # Volume is divided by the factor, so both corrections move it; only one moves prices.
    for column, codes in (("VMA30", set(chosen.values())), ("MA30", {chosen["adj_factor"]})):
        differs = both.filter(pl.col(column).ne_missing(pl.col(f"{column}_plain")))["instrument"]
        assert set(differs) == codes, column
