"""The market as fills see it: final truth, dense, one row per instrument. No orders and no cash here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.calendars import Calendar
from pipeline.errors import BadInput, KeyViolation
from pipeline.frames import Hindsight, hindsight, require_columns

BLOCKS = ("", "suspended", "invalid_quote", "no_amount", "limit_up", "limit_down", "unlisted")
"""Why an open or a close could not be traded; the code is the position, 0 could be traded."""

UNLISTED = BLOCKS.index("unlisted")
INVALID_QUOTE = BLOCKS.index("invalid_quote")

COLUMNS = (
    "session",
    "instrument",
    "board",
    "open",
    "close",
    "factor",
    "amount",
    "open_block",
    "close_block",
)


@dataclass(frozen=True)
class Market:
    """Prices and tradability of every instrument on consecutive sessions.

    Parameters
    ----------
    sessions : ndarray of datetime64[D], shape [S]
        Consecutive open sessions of the calendar.
    instruments : ndarray of str, shape [N]
        Ascending.
    boards : ndarray of str, shape [N]
        Board of each instrument's newest row.
    open, close : ndarray of float64, shape [N, S]
        CNY per share, adjusted (raw x factor); NaN where unknown.
    factor, amount : ndarray of float64, shape [N, S]
        Adjustment factor; traded CNY.
    open_block, close_block : ndarray of int8, shape [N, S]
        Codes of `BLOCKS`; never 0 where the price is unknown or not positive.
    last_listed : ndarray of int32, shape [N]
        Position of each instrument's newest row; before `S - 1` it means delisted.
    """

    sessions: np.ndarray
    instruments: np.ndarray
    boards: np.ndarray
    open: np.ndarray
    close: np.ndarray
    factor: np.ndarray
    amount: np.ndarray
    open_block: np.ndarray
    close_block: np.ndarray
    last_listed: np.ndarray

    @classmethod
    def from_hindsight(cls, panel: Hindsight, calendar: Calendar) -> Market:
        """From panel rows in final truth (every listed session of every instrument that may be traded).

        Raises
        ------
        BadInput, KeyViolation, CalendarError
            No rows or an unknown block; a doubled row; a day that is no session.
        """
        frame = hindsight(panel)
        require_columns(frame, COLUMNS, "Market")
        if frame.is_empty():
            raise BadInput("a market needs at least one panel row", 0, "materialise the panel first")
        names = frame["instrument"].unique().sort()
        rows = frame["instrument"].cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int64)
        ordinals = calendar.ordinals(frame["session"])
        first, last = int(ordinals.min()), int(ordinals.max())
        columns = (ordinals - first).astype(np.int64)
        shape = (len(names), last - first + 1)
        cells = rows * shape[1] + columns
        _refuse_doubled(frame, cells, shape)
        newest = np.full(shape[0], -1, np.int64)
        np.maximum.at(newest, rows, columns)
        final = columns == newest[rows]
        boards = np.full(shape[0], "", dtype=object)
        boards[rows[final]] = frame["board"].to_numpy()[final]
        factor = _scatter(_floats(frame, "factor"), cells, shape)
        opens = _scatter(_floats(frame, "open"), cells, shape) * factor
        closes = _scatter(_floats(frame, "close"), cells, shape) * factor
        return cls(
            sessions=calendar.days[first : last + 1],
            instruments=names.to_numpy().astype(str),
            boards=boards.astype(str),
            open=opens,
            close=closes,
            factor=factor,
            amount=_scatter(_floats(frame, "amount"), cells, shape),
            open_block=_blocks(frame["open_block"], opens, cells),
            close_block=_blocks(frame["close_block"], closes, cells),
            last_listed=newest.astype(np.int32),
        )

    def positions(self, days: pl.Series) -> np.ndarray:
        """int32 positions of many sessions; an error for one outside the market."""
        values = days.to_numpy().astype("datetime64[D]")
        found = np.minimum(np.searchsorted(self.sessions, values), len(self.sessions) - 1)
        wrong = self.sessions[found] != values
        if wrong.any():
            raise BadInput(
                "every session must lie inside the market",
                f"{values[wrong][0]} of {int(wrong.sum())}",
                f"the market runs {self.sessions[0]}..{self.sessions[-1]}",
            )
        return found.astype(np.int32)

    def rows(self, instruments: pl.Series) -> np.ndarray:
        """int32 row of each instrument; an error naming one that the market does not hold."""
        known = pl.Enum(pl.Series(self.instruments))
        codes = instruments.cast(pl.String).cast(known, strict=False).to_physical()
        if codes.null_count():
            raise BadInput(
                "every ordered instrument must be in the market",
                instruments.filter(codes.is_null())[0],
                "orders use the panel's `instrument` (first code ever), not the vendor's code of the day",
            )
        return codes.to_numpy().astype(np.int32)


def _floats(frame: pl.DataFrame, column: str) -> np.ndarray:
    return frame[column].cast(pl.Float64).to_numpy()


def _scatter(values: np.ndarray, cells: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    dense = np.full(shape[0] * shape[1], np.nan)
    dense[cells] = values
    return dense.reshape(shape)


def _blocks(series: pl.Series, prices: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Block codes; an absent row is `unlisted`, an unknown price `invalid_quote` whatever the flag says."""
    unknown = set(series.drop_nulls().unique()) - set(BLOCKS)
    if unknown:
        raise BadInput("a block must be one of the known reasons", sorted(unknown), f"one of {BLOCKS[1:-1]}")
    codes = series.fill_null("").cast(pl.Enum(BLOCKS)).to_physical().to_numpy().astype(np.int8)
    dense = np.full(prices.size, UNLISTED, np.int8)
    dense[cells] = codes
    dense[(dense == 0) & ~(prices.reshape(-1) > 0)] = INVALID_QUOTE
    return dense.reshape(prices.shape)


def _refuse_doubled(frame: pl.DataFrame, cells: np.ndarray, shape: tuple[int, int]) -> None:
    seen = np.zeros(shape[0] * shape[1], np.bool_)
    seen[cells] = True
    if int(seen.sum()) != len(cells):
        doubled = frame.filter(frame.select("session", "instrument").is_duplicated())
        raise KeyViolation(
            "Market: the key (session, instrument) must be unique",
            doubled.select("session", "instrument").row(0),
            "keep one row per key",
        )
