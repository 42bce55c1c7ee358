"""The files of append-only records: created once, refusals numbered, summaries derived. What a row says: `records`.

The per-date files are the truth; whatever is derived is rebuilt from all of them at every write, so that a kill
between two files heals at the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path

import polars as pl

from pipeline.errors import RecordConflict, Tampered
from pipeline.files import create_once, one_writer, replace_if_changed

NO_SELECTION = "NO_SELECTION"


@dataclass(frozen=True)
class RecordBook:
    """A kind of record: its files and columns.

    Parameters
    ----------
    folder : str
        Holds `trade_date=YYYYMMDD/`, history and latest.
    record, history, latest : str
        File names: a session's record; all attempts of all sessions; the newest session's last attempt.
    every, newest : str
        Paths of the summary of one row a session, and of its last row.
    columns : mapping
        Of a record; `trade_date`, `status`, `bundle` and `reason` among them. A refusal fills only these.
    summarise : callable
        History, `columns` and `attempt` -> one row a session.
    idle : str
        Status of a session in which nothing was to be done; empty where that is a refusal.
    """

    folder: str
    record: str
    history: str
    latest: str
    every: str
    newest: str
    columns: Mapping[str, pl.DataType | type[pl.DataType]]
    summarise: Callable[[pl.DataFrame], pl.DataFrame]
    idle: str = ""

    @cached_property
    def history_columns(self) -> dict[str, pl.DataType | type[pl.DataType]]:
        return {**self.columns, "attempt": pl.Int32}

    def day_folder(self, root: Path, day: date) -> Path:
        return root / self.folder / f"trade_date={day:%Y%m%d}"


def record(root: Path, book: RecordBook, day: date, rows: pl.DataFrame) -> Path:
    """Create a session's record and rebuild what is derived; the same one again changes no byte.

    Raises
    ------
    RecordConflict
        The session has another record; nothing was changed.
    """
    data = _csv(rows)
    path = book.day_folder(root, day) / book.record
    with one_writer(root):
        if not create_once(path, data) and path.read_bytes() != data:
            raise RecordConflict(
                "a session's selection is recorded once",
                _conflict(path, data),
                "the record stands; find out what changed with the parity stage",
            )
        _rebuild(root, book)
    return path


def refuse(root: Path, book: RecordBook, day: date, reason: str) -> Path:
    """Record that a session has none, and why; the same reason as before, or after the record, changes nothing."""
    folder = book.day_folder(root, day)
    refusal = {"trade_date": f"{day:%Y%m%d}", "status": NO_SELECTION, "reason": " ".join(reason.split())}
    data = _csv(pl.DataFrame([refusal], schema=book.columns))
    with one_writer(root):
        before = _attempts(book, folder)
        path = before[-1] if before else folder / book.record
        if not before or (path.name != book.record and path.read_bytes() != data):
            path = folder / f"no_selection_{len(before) + 1:02d}.csv"
            create_once(path, data)
        _rebuild(root, book)
    return path


def _attempts(book: RecordBook, folder: Path) -> list[Path]:
    """A session's files in the order of its attempts: refusals by number, the selection last."""
    refusals = sorted(folder.glob("no_selection_*.csv"), key=lambda path: int(path.stem.rpartition("_")[2]))
    return refusals + [path for path in (folder / book.record,) if path.exists()]


def _csv(frame: pl.DataFrame) -> bytes:
    """Text with the shortest floats that read back to the same bits."""
    return frame.write_csv().encode()


def _conflict(path: Path, data: bytes) -> str:
    """The first line that differs."""
    recorded, new = path.read_text().splitlines(), data.decode().splitlines()
    pairs = zip(recorded + ["(end)"] * len(new), new + ["(end)"] * len(recorded), strict=True)
    old, now = next(pair for pair in pairs if pair[0] != pair[1])
    return f"{path.parent.name}: recorded {old!r}, now {now!r}"


def _rebuild(root: Path, book: RecordBook) -> None:
    """Derive every summary from the per-date files."""
    text = _history(root, book)
    folder = root / book.folder
    _require_appended(folder / book.history, text)
    history = pl.read_csv(text, schema=book.history_columns)
    last = history.select(pl.struct("trade_date", "attempt").last()).to_series()
    latest = history.filter(pl.struct("trade_date", "attempt").is_in(last.implode()))
    rows = book.summarise(history)
    # What people act on comes first: a kill here must not leave yesterday's list as the latest.
    replace_if_changed(folder / book.latest, _csv(latest))
    replace_if_changed(root / book.newest, _csv(rows.tail(1)))
    replace_if_changed(folder / book.history, text)
    replace_if_changed(root / book.every, _csv(rows))


def _history(root: Path, book: RecordBook) -> bytes:
    """All attempts of all sessions in order, as the lines of their files with the attempt's number behind."""
    lines = [_csv(pl.DataFrame(schema=book.history_columns)).rstrip()]
    expected = ",".join(book.columns).encode()
    for folder in sorted((root / book.folder).glob("trade_date=*")):
        for attempt, path in enumerate(_attempts(book, folder), start=1):
            header, *rows = path.read_bytes().splitlines()
            if header != expected:
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
