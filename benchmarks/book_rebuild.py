"""20 levels a side after each of 10,000 depth changes, beside a local book kept as a dict of prices.

First both must give the same books; then both are timed on levels already read from JSON.

    python -m benchmarks.book_rebuild
"""

from __future__ import annotations

import heapq
import json
import sys
import time

import numpy as np

from pipeline.tables.binance import level_names
from pipeline.tables.depth_feed import DepthFeed, read_feed, rebuild

CHANGES, LEVELS_A_CHANGE, BOOK, LEVELS = 10_000, 60, 1_000, 20


def recorded() -> DepthFeed:
    """A whole book of 1,000 levels a side and changes that crowd at the middle, as a recorder writes them."""
    rng = np.random.default_rng(0)
    sides = {"bids": -1, "asks": 1}
    whole = {
        side: [[f"{60_000 + sign * (i + 1) * 0.1:.2f}", "1.000"] for i in range(BOOK)] for side, sign in sides.items()
    }
    lines = [f"0 {json.dumps({'lastUpdateId': 0, **whole})}"]
    for u in range(1, CHANGES + 1):
        away = rng.geometric(0.02, (2, LEVELS_A_CHANGE // 2))
        size = np.where(rng.random(away.shape) < 0.4, 0.0, rng.uniform(0.001, 9, away.shape))
        bids, asks = ([[f"{60_000 + sign * a * 0.1:.2f}", f"{q:.3f}"] for a, q in zip(away[s], size[s], strict=True)]
                      for s, sign in enumerate(sides.values()))
        data = {"e": "depthUpdate", "E": u, "T": u, "s": "X", "U": u, "u": u, "pu": u - 1, "b": bids, "a": asks}
        lines.append(f"{u} {json.dumps(data)}")
    return read_feed(lines, "X")


def theirs(feed: DepthFeed) -> np.ndarray:
    """A dict a side, the best 20 picked after each change."""
    held: tuple[dict[float, float], dict[float, float]] = ({}, {})
    seen, levels = feed.snapshots[0].levels, feed.levels
    for side, price, size in zip(seen.side.tolist(), seen.price.tolist(), seen.size.tolist(), strict=True):
        held[side][price] = size
    sides, prices, sizes = levels.side.tolist(), levels.price.tolist(), levels.size.tolist()
    told = []
    for begin, end in zip(feed.bounds[:-1].tolist(), feed.bounds[1:].tolist(), strict=True):
        for i in range(begin, end):
            if sizes[i]:
                held[sides[i]][prices[i]] = sizes[i]
            else:
                held[sides[i]].pop(prices[i], None)
        best = heapq.nlargest(LEVELS, held[0].items()) + heapq.nsmallest(LEVELS, held[1].items())
        told.append([value for level in best for value in level])
    return np.array(told)


def main() -> None:
    feed = recorded()
    ours = rebuild(feed).books.select(level_names()).to_numpy()
    begin = time.perf_counter()
    peer = theirs(feed)
    slow = time.perf_counter() - begin
    if not np.array_equal(ours, peer):
        sys.exit("books differ")
    begin = time.perf_counter()
    rebuild(feed)
    fast = time.perf_counter() - begin
    print(f"books equal: {len(ours):,} of {LEVELS} levels a side")
    print(f"ours: {fast:.3f} s; dict of prices: {slow:.2f} s; ratio {slow / fast:.0f}")


if __name__ == "__main__":
    main()
