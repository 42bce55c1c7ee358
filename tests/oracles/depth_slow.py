"""A local book as a dict of prices, told change by change: slow, and obvious."""

from __future__ import annotations

import json
from collections.abc import Sequence


def books(lines: Sequence[str], levels: int) -> list[tuple[int, list[tuple[float, float]], list[tuple[float, float]]]]:
    """(last update id, bids, asks) after each change of a feed with one snapshot, from the first one after it."""
    messages = [json.loads(line.partition(" ")[2]) for line in lines]
    messages = [message.get("data", message) for message in messages]
    at = next(i for i, message in enumerate(messages) if "lastUpdateId" in message)
    held = {side: {float(p): float(q) for p, q in messages[at][side]} for side in ("bids", "asks")}
    told = []
    for i, message in enumerate(messages):
        if message.get("e") != "depthUpdate" or message["u"] < messages[at]["lastUpdateId"]:
            continue
        for side, changes in (("bids", message["b"]), ("asks", message["a"])):
            for price, size in changes:
                held[side][float(price)] = float(size)
                if float(size) == 0:
                    del held[side][float(price)]
        if i > at:
            bids = sorted(held["bids"].items(), reverse=True)[:levels]
            told.append((message["u"], bids, sorted(held["asks"].items())[:levels]))
    return told
