"""Books to compare with: random names, the whole universe, the index. The model's are in `path_plan`."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
from numba import njit, prange

from pipeline.errors import BadInput
from pipeline.frames import require_columns, require_unique


def random_orders(eligible: pl.DataFrame, top_k: int, n_books: int, seed: int) -> pl.DataFrame:
    """Books of names drawn at random, without replacement within a decision.

    Parameters
    ----------
    eligible : pl.DataFrame
        session, instrument: the names that each decision could have chosen.
    top_k, n_books, seed : int
        The draw of (seed, book, session) does not depend on which other sessions or books are asked for.

    Returns
    -------
    pl.DataFrame
        book (`random_000`...), session, rank, instrument, weight; `min(top_k, names)` orders a decision, each
        of weight `1 / top_k`.
    """
    names, days, starts = _by_session(eligible)
    draws = np.full((n_books, len(days), top_k), -1, np.int64)
    _draw(starts, days.astype(np.int64), np.uint64(seed), draws)
    book, decision, rank = np.nonzero(draws >= 0)
    books = [f"random_{i:03d}" for i in range(n_books)]
    return pl.DataFrame(
        {
            "book": pl.Series(books).gather(book),
            "session": pl.Series(days[decision]).cast(pl.Date),
            "rank": pl.Series(rank + 1, dtype=pl.Int32),
            "instrument": names.gather(draws[book, decision, rank]),
            "weight": np.full(len(book), 1.0 / top_k),
        }
    )


def equal_weight_orders(eligible: pl.DataFrame, book: str = "equal_weight") -> pl.DataFrame:
    """Every eligible name at every decision, equally weighted, under the same protocol and costs.

    Parameters
    ----------
    eligible : pl.DataFrame
        session, instrument.
    book : str

    Returns
    -------
    pl.DataFrame
        book, session, rank (by instrument), instrument, weight.
    """
    names, days, starts = _by_session(eligible)
    counts = np.diff(starts)
    return pl.DataFrame(
        {
            "book": pl.repeat(book, len(names), eager=True),
            "session": pl.Series(np.repeat(days, counts)).cast(pl.Date),
            "rank": pl.Series(np.arange(len(names)) - np.repeat(starts[:-1], counts) + 1, dtype=pl.Int32),
            "instrument": names,
            "weight": 1.0 / np.repeat(counts, counts),
        }
    )


def index_book(index: pl.DataFrame, start: date, end: date, book: str = "index") -> pl.DataFrame:
    """The benchmark bought at the open of the first curve session and held, without costs.

    Parameters
    ----------
    index : pl.DataFrame
        session, open, close in index points.
    start, end : date
        First and last curve session.

    Returns
    -------
    pl.DataFrame
        book, session, gross, net (equal).
    """
    require_columns(index, ["session", "open", "close"], "index")
    require_unique(index, ["session"], "index")
    window = index.filter(pl.col("session").is_between(start, end)).sort("session")
    if window.is_empty() or window["session"][0] != start or not window["open"][0]:
        raise BadInput(
            "the index needs an open on the first curve session",
            [start.isoformat(), window["session"].head(1).to_list()],
            "fetch index_daily for the whole window",
        )
    nav = (pl.col("close") / window["open"][0]).forward_fill()
    return window.select(book=pl.lit(book), session="session", gross=nav, net=nav)


def _by_session(eligible: pl.DataFrame) -> tuple[pl.Series, np.ndarray, np.ndarray]:
    """Names in key order, the distinct sessions, and where each session's names start."""
    require_columns(eligible, ["session", "instrument"], "eligible")
    if eligible.is_empty():
        raise BadInput("a comparison book needs eligible names", 0, "pass the rows that were scored")
    frame = eligible.select("session", "instrument").sort("session", "instrument")
    days, starts = np.unique(frame["session"].to_numpy(), return_index=True)
    return frame["instrument"], days, np.append(starts, len(frame)).astype(np.int64)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@njit(cache=True)
def _mix(state: np.uint64) -> np.uint64:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    z = (state ^ (state >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


@njit(parallel=True, cache=True)
def _draw(starts: np.ndarray, days: np.ndarray, seed: np.uint64, drawn: np.ndarray) -> None:
    """Writes the row drawn for (book, session, rank); what lies past the session's names is left alone.

    Floyd's sampling, then a shuffle, since Floyd's order is not random.
    """
    n_books, n_sessions, top_k = drawn.shape
    for b in prange(n_books):
        for s in range(n_sessions):
            state = _mix(_mix(seed + _GOLDEN) + np.uint64(b + 1) * _GOLDEN)
            state = _mix(state + np.uint64(days[s] + 1_000_000) * _GOLDEN)
            size = starts[s + 1] - starts[s]
            k = min(top_k, size)
            row = drawn[b, s]
            for j in range(k):
                state += _GOLDEN
                bound = size - k + j
                pick = np.int64(np.float64(_mix(state) >> np.uint64(11)) * 2.0**-53 * (bound + 1))
                for i in range(j):
                    if row[i] == pick:
                        pick = bound
                        break
                row[j] = pick
            for j in range(k - 1, 0, -1):
                state += _GOLDEN
                other = np.int64(np.float64(_mix(state) >> np.uint64(11)) * 2.0**-53 * (j + 1))
                row[j], row[other] = row[other], row[j]
            for j in range(k):
                row[j] += starts[s]
