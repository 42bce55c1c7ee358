"""A raw feed of depth changes and snapshots -> the book after each change, 20 levels a side.

The vendor's rules [C]: quantities are absolute and 0 removes a level; a snapshot is joined by the change that covers
its `lastUpdateId`; then each change must name the one before it, else the book is unknown until the next snapshot. A
feed is held in memory, so it should be hours, not weeks. Reading files is not done here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import polars as pl
from numba import njit

from pipeline.errors import BadInput, SchemaError
from pipeline.tables.binance import BOOK_LEVELS, level_names
from pipeline.tables.epochs import instant

BID, ASK = 0, 1


@dataclass(frozen=True)
class Levels:
    """Price and size pairs of a message, both sides together."""

    side: np.ndarray
    price: np.ndarray
    size: np.ndarray


@dataclass(frozen=True)
class Snapshot:
    """A whole book from the interface: received after `after` changes, it holds all changes up to `update_id`."""

    after: int
    update_id: int
    levels: Levels


@dataclass(frozen=True)
class DepthFeed:
    """The depth part of a recorded feed, in order of arrival.

    Parameters
    ----------
    changes : DataFrame
        received_time (ns), event_ms, transaction_ms, first_id, last_id, previous_id; a row a message.
    bounds : int64 array [changes + 1]
        Where each change's levels begin in `levels`.
    levels : Levels
    snapshots : tuple of Snapshot
    """

    changes: pl.DataFrame
    bounds: np.ndarray
    levels: Levels
    snapshots: tuple[Snapshot, ...]


@dataclass(frozen=True)
class Rebuilt:
    """Books after each change that could be applied, and what could not be.

    Parameters
    ----------
    books : DataFrame
        received_time, origin_time, transaction_time (Datetime ns / us / us, naive UTC), sequence_number (last update
        id), `{bid,ask}_{0..19}_{price,size}` (null where the book is shorter).
    notes : tuple of str
        Breaks of the chain and snapshots that no change joins.
    """

    books: pl.DataFrame
    notes: tuple[str, ...]


@dataclass
class _Reading:
    """Lists that grow while lines are read."""

    heads: list[tuple[int, ...]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    bids: list[int] = field(default_factory=list)
    prices: list[str] = field(default_factory=list)
    sizes: list[str] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)


def read_feed(lines: Iterable[str], symbol: str) -> DepthFeed:
    """Read `<receive time in ns> <message>` lines; trades, quotes and other symbols are passed by.

    Parameters
    ----------
    lines : iterable of str
    symbol : str
        The one whose depth is wanted. A snapshot names no symbol, so a feed may hold those of one symbol only.

    Raises
    ------
    BadInput
        A depth line that is no such message.
    """
    read = _Reading()
    for number, line in enumerate(lines, 1):
        if '"depthUpdate"' in line or '"lastUpdateId"' in line:
            try:
                _take(read, line, symbol)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise BadInput("a line of a depth feed is a receive time in ns and a depth message",
                               f"line {number}: {type(error).__name__} {error}",
                               "cut the damaged line out, the book is then unknown until a snapshot") from None
    names = ("received_time", "event_ms", "transaction_ms", "first_id", "last_id", "previous_id")
    changes = pl.DataFrame(read.heads, schema=dict.fromkeys(names, pl.Int64()), orient="row")
    bounds = np.concatenate([[0], np.cumsum(np.array(read.counts, dtype=np.int64))]).astype(np.int64)
    side = np.full(int(bounds[-1]), ASK, dtype=np.int8)
    for begin, bids in zip(bounds[:-1], read.bids, strict=True):
        side[begin:begin + bids] = BID
    return DepthFeed(changes, bounds, _levels(read.prices, read.sizes, side), tuple(read.snapshots))


def _take(read: _Reading, line: str, symbol: str) -> None:
    """One depth message or snapshot."""
    stamp, _, text = line.partition(" ")
    message: dict[str, Any] = json.loads(text)
    data = message.get("data", message)
    if "lastUpdateId" in data:
        pairs = [*data["bids"], *data["asks"]]
        side = np.repeat(np.array([BID, ASK], dtype=np.int8), [len(data["bids"]), len(data["asks"])])
        held = _levels([price for price, _ in pairs], [size for _, size in pairs], side)
        read.snapshots.append(Snapshot(len(read.heads), int(data["lastUpdateId"]), held))
        return
    if data["e"] != "depthUpdate" or data["s"] != symbol:
        return
    # Spot names no previous id: there each change begins right after the one before.
    previous = data.get("pu", data["U"] - 1)
    heads = (int(stamp), data["E"], data.get("T", data["E"]), data["U"], data["u"], previous)
    read.heads.append(heads)
    read.counts.append(len(data["b"]) + len(data["a"]))
    read.bids.append(len(data["b"]))
    for price, size in chain(data["b"], data["a"]):
        read.prices.append(price)
        read.sizes.append(size)


def _levels(prices: Sequence[str], sizes: Sequence[str], side: np.ndarray) -> Levels:
    """Decimal text -> float64: equal prices are written alike, so they stay equal."""
    text = pl.DataFrame({"price": prices, "size": sizes}, schema={"price": pl.String, "size": pl.String})
    numbers = text.cast(pl.Float64, strict=False)
    wrong = text.filter(numbers.select(~pl.all_horizontal((pl.all().is_finite() & (pl.all() >= 0)).fill_null(False)))
                        .to_series())
    if not wrong.is_empty():
        raise BadInput("prices and sizes of a depth feed are finite and not below zero", wrong.row(0),
                       "cut the damaged line out, the book is then unknown until a snapshot")
    return Levels(side, numbers["price"].to_numpy(), numbers["size"].to_numpy())


def rebuild(feed: DepthFeed, levels: int = BOOK_LEVELS) -> Rebuilt:
    """The book after each change, from the first that arrived after a snapshot: earlier nobody could know it.

    Raises
    ------
    SchemaError
        A feed without snapshot: changes alone give no book.
    """
    if not feed.snapshots:
        raise SchemaError("a depth feed holds at least one snapshot", 0, "record the interface's depth answer too")
    last, previous = feed.changes["last_id"].to_numpy(), feed.changes["previous_id"].to_numpy()
    joined = np.r_[False, previous[1:] == last[:-1]][: len(last)]
    parts, notes = [], [_break_note(feed, int(i)) for i in np.flatnonzero(~joined)[1:]]
    starts = [snapshot.after for snapshot in feed.snapshots] + [len(last)]
    for snapshot, until in zip(feed.snapshots, starts[1:], strict=True):
        first = _joining(snapshot, last, previous, joined)
        if first is None:
            notes.append(f"no change joins the snapshot {snapshot.update_id}; the book is unknown until the next one")
            continue
        end = min(until, _chain_end(joined, first))
        parts.append(_books(feed, snapshot, first, end, levels))
    return Rebuilt(pl.concat(parts) if parts else _books(feed, feed.snapshots[0], 0, 0, levels), tuple(notes))


def _break_note(feed: DepthFeed, i: int) -> str:
    row = feed.changes.row(i, named=True)
    return (f"the change {row['last_id']} follows {row['previous_id']}, not {feed.changes['last_id'][i - 1]}: "
            "the book is unknown until the next snapshot")


def _chain_end(joined: np.ndarray, first: int) -> int:
    """One past the last change of the unbroken chain that `first` is in."""
    broken = np.flatnonzero(~joined[first + 1:])
    return first + 1 + int(broken[0]) if len(broken) else len(joined)


def _joining(snapshot: Snapshot, last: np.ndarray, previous: np.ndarray, joined: np.ndarray) -> int | None:
    """The first change to apply, from the chain that was running when the snapshot came.

    The vendor asks for first_id <= update_id <= last_id; a change that follows on what the snapshot holds
    (previous_id <= update_id) joins just as well when the id falls between two changes.
    """
    if snapshot.after >= len(last):
        return None
    begin = snapshot.after
    while begin > 0 and joined[begin]:
        begin -= 1
    end = _chain_end(joined, begin)
    candidates = begin + np.flatnonzero(last[begin:end] >= snapshot.update_id)
    if not len(candidates) or previous[candidates[0]] > snapshot.update_id:
        return None
    return int(candidates[0])


def _books(feed: DepthFeed, snapshot: Snapshot, first: int, end: int, levels: int) -> pl.DataFrame:
    """Books after the changes `first..end`; those that arrived before the snapshot are applied but not told."""
    held, seen = feed.levels, snapshot.levels
    told = max(first, snapshot.after)
    best = _replay(seen.side, seen.price, seen.size, held.side, held.price, held.size, feed.bounds, first, told,
                   max(end, told), levels)
    changes = feed.changes[told:max(end, told)]
    stamps = changes.select(
        pl.from_epoch("received_time", time_unit="ns"), instant("event_ms").alias("origin_time"),
        instant("transaction_ms").alias("transaction_time"), pl.col("last_id").alias("sequence_number"),
    )
    values = pl.DataFrame(best, schema=list(level_names(levels)), orient="row").cast(pl.Float64)
    return pl.concat([stamps, values.fill_nan(None)], how="horizontal")


@njit(cache=True)
def _replay(
    seen_side: np.ndarray, seen_price: np.ndarray, seen_size: np.ndarray, side: np.ndarray, price: np.ndarray,
    size: np.ndarray, bounds: np.ndarray, first: int, told: int, end: int, levels: int,
) -> np.ndarray:
    """float64 [end - told, 4 * levels]: price and size a level, bids first; NaN where the book is shorter.

    Each side is kept sorted with its best price last, so that most changes move only a few entries. Bids are kept as
    they are, asks as negative prices.
    """
    room = 2 * len(seen_price) + 64
    prices, sizes = np.empty((2, room)), np.empty((2, room))
    filled = np.zeros(2, dtype=np.int64)
    for i in range(len(seen_price)):
        _set_level(prices, sizes, filled, seen_side[i], seen_price[i], seen_size[i])
    out = np.full((end - told, 4 * levels), np.nan)
    for change in range(first, end):
        if max(filled[0], filled[1]) + bounds[change + 1] - bounds[change] > room:
            room = 2 * (room + bounds[change + 1] - bounds[change])
            prices, sizes = _roomier(prices, room), _roomier(sizes, room)
        for i in range(bounds[change], bounds[change + 1]):
            _set_level(prices, sizes, filled, side[i], price[i], size[i])
        if change < told:
            continue
        for s in range(2):
            for level in range(min(levels, filled[s])):
                at = filled[s] - 1 - level
                out[change - told, (s * levels + level) * 2] = abs(prices[s, at])
                out[change - told, (s * levels + level) * 2 + 1] = sizes[s, at]
    return out


@njit(cache=True)
def _roomier(kept: np.ndarray, room: int) -> np.ndarray:
    grown = np.empty((2, room))
    grown[:, : kept.shape[1]] = kept
    return grown


@njit(cache=True)
def _set_level(
    prices: np.ndarray, sizes: np.ndarray, filled: np.ndarray, side: int, price: float, size: float
) -> None:
    """Set, add or (size 0) remove one level."""
    key = price if side == 0 else -price
    row, count = prices[side], filled[side]
    low = np.searchsorted(row[:count], key)
    found = low < count and row[low] == key
    if found and size > 0:
        sizes[side, low] = size
    elif found:
        for i in range(low, count - 1):
            row[i], sizes[side, i] = row[i + 1], sizes[side, i + 1]
        filled[side] -= 1
    elif size > 0:
        for i in range(count, low, -1):
            row[i], sizes[side, i] = row[i - 1], sizes[side, i - 1]
        row[low], sizes[side, low] = key, size
        filled[side] += 1
