"""Makes the example raw folder beside this file: a few names and sessions of the simulated market, as CSV.

    python docs/examples/make.py

Nothing here is real. The sample of `all_selections.csv` comes from a run, see README.md.
"""

from __future__ import annotations

import json
from datetime import date, datetime, time
from pathlib import Path

import polars as pl

from pipeline.clock import instant
from pipeline.fingerprints import hash_file
from pipeline.simulation.market import SimulatedMarket
from pipeline.tables.tushare import TABLES
from resources.simulated import simulated_market

HERE = Path(__file__).resolve().parent
RAW = HERE / "raw_folder"
PROFILE = "tiny"
NAMES = 8
SESSIONS = 10
MINUTE_NAMES, MINUTE_SESSIONS = 2, 2
CSV_DATES = {"date_format": "%Y%m%d", "datetime_format": "%Y-%m-%d %H:%M:%S"}


def main() -> None:
    """Write every table of the vendor, then the metadata over all files of this folder."""
    market = simulated_market(PROFILE)
    now = instant(market.profile.last_session, time(23, 59))
    sessions = [day for day in market.calendar.sessions if day <= market.profile.last_session][-SESSIONS:]
    codes = _codes(market, now)
    RAW.mkdir(exist_ok=True)
    for name, spec in TABLES.items():
        rows = _rows(market, name, now, sessions, codes)
        rows.select(spec.names).write_csv(RAW / f"{name}.csv", **CSV_DATES)
    write_metadata()


def _codes(market: SimulatedMarket, now: datetime) -> list[str]:
    """Names that show the hard cases first: a rename, a delisting, ST; then one board after the other."""
    basic = market.table_at("stock_basic", now).sort("ts_code")
    renamed = market.table_at("bse_mapping", now)["n_code"].to_list()
    special = (
        pl.col("ts_code").is_in(renamed),
        pl.col("delist_date").is_not_null(),
        pl.col("name").str.contains("ST"),
    )
    chosen = [code for case in special for code in basic.filter(case)["ts_code"].head(1)]
    boards = basic.with_columns(board=pl.col("ts_code").str.slice(0, 3)).unique("board", maintain_order=True)
    return list(dict.fromkeys([*chosen, *boards["ts_code"]]))[:NAMES]


def _rows(
    market: SimulatedMarket, name: str, now: datetime, sessions: list[date], codes: list[str]
) -> pl.DataFrame:
    """The published rows of one table for the chosen names; the calendar and the index whole."""
    if name == "stk_mins":
        return market.minutes(codes[-MINUTE_NAMES:], sessions[-MINUTE_SESSIONS], sessions[-1])
    if name == "trade_cal":
        return market.table_at(name, now).filter(pl.col("cal_date") >= sessions[0].replace(day=1))
    stretch = (sessions[0], sessions[-1]) if TABLES[name].layout == "session" else ()
    rows = market.table_at(name, now, *stretch)
    column = "n_code" if name == "bse_mapping" else "ts_code"
    return rows if name == "index_daily" else rows.filter(pl.col(column).is_in(codes))


def write_metadata() -> None:
    """`metadata.json`: origin, licence and the hash of every file."""
    files = sorted(path for path in HERE.rglob("*.csv"))
    metadata = {
        "origin": f"simulated market of this repository, profile {PROFILE}; no vendor's data",
        "licence": "Apache-2.0",
        "sha256": {path.relative_to(HERE).as_posix(): hash_file(path) for path in files},
    }
    (HERE / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")


if __name__ == "__main__":
    main()
