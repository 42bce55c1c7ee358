"""Append-only records of what was selected, as CSV files with stable columns.

    daily_top10_records/trade_date=YYYYMMDD/top10_record.csv      the selection of a session; created once
    daily_top10_records/trade_date=YYYYMMDD/no_selection_NN.csv   a refusal of a session; created once
    daily_top10_records/top10_history.csv, top10_latest.csv       derived
    selections/all_selections.csv, latest_selection_row.csv       derived, one row a session

The per-date files are the truth; whatever is derived is rebuilt from all of them at every write, so that a kill
between two files heals at the next. A session may be refused several times and then be selected: each refusal
stays in the history under its own attempt number, and the selection is the last attempt. A selection stands: the
same one again changes nothing, another one is a conflict, and a refusal after it is not recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl

from pipeline.errors import BadInput, RecordConflict, Tampered
from pipeline.files import create_once, one_writer, replace_if_changed
from pipeline.frames import require_columns

SELECTED, NO_SELECTION = "SELECTED", "NO_SELECTION"
DAILY, SELECTIONS = "daily_top10_records", "selections"
RECORD = "top10_record.csv"
RANKED = ("code", "weight", "score", "board", "industry")
RANKS = 10  # columns of all_selections.csv; more only if a policy selects more
_RECORD_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "trade_date": pl.String,
    "status": pl.String,
    "bundle": pl.String,
    "rank": pl.Int32,
    "code": pl.String,
    "instrument": pl.String,
    "weight": pl.Float64,
    "score": pl.Float64,
    "board": pl.String,
    "industry": pl.String,
    "reason": pl.String,
}
_HISTORY_SCHEMA = _RECORD_SCHEMA | {"attempt": pl.Int32}
_HEADER = ",".join(_RECORD_SCHEMA).encode()


@dataclass(frozen=True)
class Selection:
    """What a bundle selected for a session.

    Parameters
    ----------
    day : date
    bundle : str
        Hash of the bundle.
    ranked : DataFrame
        `rank` from 1, `instrument`, `code`, `weight`, `score`, `board`, `industry`.
    """

    day: date
    bundle: str
    ranked: pl.DataFrame


def write_selection(root: Path, selection: Selection) -> Path:
    """Record a selection and rebuild what is derived; the same one again changes no byte.

    Returns
    -------
    Path
        The session's record.

    Raises
    ------
    RecordConflict
        The session has another selection; nothing was changed.
    BadInput
        No names, or ranks that are not 1, 2, ….
    """
    data = _csv(_record(selection))
    path = _folder(root, selection.day) / RECORD
    with one_writer(root):
        if not create_once(path, data) and path.read_bytes() != data:
            raise RecordConflict(
                "a session's selection is recorded once",
                _conflict(path, data),
                "the record stands; find out what changed with the parity stage",
            )
        _rebuild(root)
    return path


def write_no_selection(root: Path, day: date, reason: str) -> Path:
    """Record that a session has no selection, and why; then the latest files say so.

    The same reason as the refusal before changes nothing; neither does a refusal of a session that has its
    selection.

    Returns
    -------
    Path
        The session's newest record.
    """
    folder = _folder(root, day)
    refusal = {"trade_date": f"{day:%Y%m%d}", "status": NO_SELECTION, "reason": " ".join(reason.split())}
    data = _csv(pl.DataFrame([refusal], schema=_RECORD_SCHEMA))
    with one_writer(root):
        before = _attempts(folder)
        path = before[-1] if before else folder / RECORD
        if not before or (path.name != RECORD and path.read_bytes() != data):
            path = folder / f"no_selection_{len(before) + 1:02d}.csv"
            create_once(path, data)
        _rebuild(root)
    return path


def _folder(root: Path, day: date) -> Path:
    return root / DAILY / f"trade_date={day:%Y%m%d}"


def _attempts(folder: Path) -> list[Path]:
    """A session's files in the order of its attempts: refusals by number, the selection last."""
    refusals = sorted(folder.glob("no_selection_*.csv"), key=lambda path: int(path.stem.rpartition("_")[2]))
    return refusals + [path for path in (folder / RECORD,) if path.exists()]


def _record(selection: Selection) -> pl.DataFrame:
    """One row a rank."""
    ranked = selection.ranked
    require_columns(ranked, ("rank", "instrument", *RANKED), "a selection")
    if ranked.is_empty() or ranked["rank"].to_list() != list(range(1, len(ranked) + 1)):
        raise BadInput("a selection has ranks 1, 2, …", ranked["rank"].to_list(), "record the session as NO_SELECTION")
    return ranked.select(
        pl.lit(f"{selection.day:%Y%m%d}").alias("trade_date"),
        pl.lit(SELECTED).alias("status"),
        pl.lit(selection.bundle).alias("bundle"),
        "rank",
        "code",
        "instrument",
        "weight",
        "score",
        "board",
        "industry",
        pl.lit(None, pl.String).alias("reason"),
    )


def _csv(frame: pl.DataFrame) -> bytes:
    """Text with the shortest floats that read back to the same bits."""
    return frame.write_csv().encode()


def _conflict(path: Path, data: bytes) -> str:
    """The first line that differs."""
    recorded, new = path.read_text().splitlines(), data.decode().splitlines()
    pairs = zip(recorded + ["(end)"] * len(new), new + ["(end)"] * len(recorded), strict=True)
    old, now = next(pair for pair in pairs if pair[0] != pair[1])
    return f"{path.parent.name}: recorded {old!r}, now {now!r}"


def _rebuild(root: Path) -> None:
    """Derive every summary from the per-date files."""
    text = _history(root)
    _require_appended(root / DAILY / "top10_history.csv", text)
    history = pl.read_csv(text, schema=_HISTORY_SCHEMA)
    last = history.select(pl.struct("trade_date", "attempt").last()).to_series()
    latest = history.filter(pl.struct("trade_date", "attempt").is_in(last.implode()))
    rows = _one_row_a_session(history)
    # What people act on comes first: a kill here must not leave yesterday's list as the latest.
    replace_if_changed(root / DAILY / "top10_latest.csv", _csv(latest))
    replace_if_changed(root / SELECTIONS / "latest_selection_row.csv", _csv(rows.tail(1)))
    replace_if_changed(root / DAILY / "top10_history.csv", text)
    replace_if_changed(root / SELECTIONS / "all_selections.csv", _csv(rows))


def _history(root: Path) -> bytes:
    """All attempts of all sessions in order, as the lines of their files with the attempt's number behind."""
    lines = [_csv(pl.DataFrame(schema=_HISTORY_SCHEMA)).rstrip()]
    for folder in sorted((root / DAILY).glob("trade_date=*")):
        for attempt, path in enumerate(_attempts(folder), start=1):
            header, *rows = path.read_bytes().splitlines()
            if header != _HEADER:
                raise Tampered("a record has its columns", f"{path}: {header!r}", "restore the records folder")
            lines += [row + b",%d" % attempt for row in rows]
    return b"\n".join(lines) + b"\n"


def _require_appended(path: Path, data: bytes) -> None:
    """The history only grows: a per-date file that was edited or removed is seen here."""
    before = path.read_bytes().splitlines() if path.exists() else []
    lost = set(before) - set(data.splitlines())
    if lost:
        raise Tampered(
            "recorded rows stay as they were",
            f"{path.name} has {sorted(lost)[0].decode()!r}, the per-date records do not",
            "restore the records folder from a backup",
        )


def _one_row_a_session(history: pl.DataFrame) -> pl.DataFrame:
    """The last attempt of every session: copy-ready codes, then each rank's code, weight, score and tags."""
    standing = history.filter(pl.col("attempt") == pl.col("attempt").max().over("trade_date"))
    names = pl.col("code").drop_nulls()
    ranks = range(1, max(RANKS, *standing["rank"].fill_null(0)) + 1)
    wide = [
        pl.col(column)
        .filter(pl.col("rank") == rank)
        .first()
        .alias(f"{'rank' if column == 'code' else column}_{rank:02d}")
        for column in RANKED
        for rank in ranks
    ]
    return standing.group_by("trade_date", maintain_order=True).agg(
        pl.col("status").first(),
        pl.col("bundle").first(),
        names.len().alias("names"),
        pl.when(names.len() > 0).then(names.str.join(",")).alias("codes"),
        pl.when(names.len() > 0).then(names.str.head(6).str.join(",")).alias("plain_codes"),
        *wide,
        pl.col("reason").first(),
    )
