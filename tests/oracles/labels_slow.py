"""Executable labels one row at a time, written from the protocol; no code of `pipeline.labels`."""

from __future__ import annotations

from datetime import date


def slow_labels(
    rows: list[dict],
    sessions: list[date],
    known_until: date,
    exit_session: int,
    max_exit_delay: int,
    tail: float,
) -> dict[tuple[date, str], dict]:
    """(session, instrument) -> label fields; None where there is no truth.

    `rows` are panel rows as dicts; `sessions` is the calendar, `known_until` the last session with data.
    """
    market = {(row["session"], row["instrument"]): row for row in rows}
    labels = {}
    for (session, instrument), row in market.items():
        t = sessions.index(session)
        label = _trade(market, instrument, t, sessions, known_until, exit_session, max_exit_delay)
        label["eligible"], label["label_start"] = row["eligible"], session
        labels[session, instrument] = label
    for session in {key[0] for key in labels}:
        _cross_section([label for key, label in labels.items() if key[0] == session], tail)
    return labels


def _price(row: dict | None, field: str) -> float | None:
    if row is None or row[field] is None or row["factor"] is None:
        return None
    return row[field] * row["factor"]


def _trade(market, instrument, t, sessions, known_until, exit_session, max_exit_delay) -> dict:
    label = dict.fromkeys(
        (
            "label_end",
            "entry_session",
            "exit_session",
            "entry_price",
            "exit_price",
            "exit_delay",
            "ret",
            "buy_block",
            "downlock",
            "fragility",
            "intraday",
        )
    )
    label["status"] = "open"
    buy_day = sessions[t + 1]
    if buy_day > known_until:
        return label
    buy = market.get((buy_day, instrument))
    label["buy_block"] = float(buy is None or buy["open_block"] is not None)
    if label["buy_block"]:
        return label | {"status": "entry_blocked", "label_end": sessions[t + 2]}
    paid = _price(buy, "open")
    if paid is None:
        return label | {"status": "censored", "label_end": sessions[t + 2]}
    label["entry_session"], label["entry_price"] = buy_day, paid
    if _price(buy, "close") is not None:
        label["intraday"] = _price(buy, "close") / paid - 1
    for delay in range(max_exit_delay + 1):
        day = sessions[t + exit_session + delay]
        if day > known_until:
            return label
        row = market.get((day, instrument))
        if row is not None and row["close_block"] is None and _price(row, "close") is not None:
            held = [market.get((d, instrument)) for d in sessions[t + 1 : t + exit_session + delay + 1]]
            lows = [low for r in held if (low := _price(r, "low")) is not None]
            sold = _price(row, "close")
            return label | {
                "status": "filled",
                "label_end": sessions[t + exit_session + delay + 1],
                "exit_session": day,
                "exit_price": sold,
                "exit_delay": delay,
                "ret": sold / paid - 1,
                "fragility": max(0.0, 1 - min([*lows, paid]) / paid),
                "downlock": _downlock(held, held[: exit_session - 1], held[exit_session - 1], paid, sold),
            }
    held = [market.get((d, instrument)) for d in sessions[t + 1 : t + exit_session + max_exit_delay + 1]]
    label["downlock"] = _downlock(held, held[: exit_session - 1], None, paid, None)
    if label["downlock"] == 0 and any(_stopped(r) for r in held[exit_session - 1 :]):
        label["downlock"] = None
    return label | {"status": "censored", "label_end": sessions[t + exit_session + max_exit_delay + 1]}


def _stopped(row: dict | None) -> bool:
    return row is None or row["close_block"] == "suspended"


def _downlock(held, before_target, target, paid, sold) -> float:
    if any(row is not None and row["close_block"] == "limit_down" for row in held):
        return 1.0
    if sold is None or not _stopped(target):
        return 0.0
    tradable = [_price(r, "close") for r in before_target if r is not None and r["close_block"] is None]
    last = [price for price in tradable if price is not None][-1:] or [paid]
    return float(sold < last[0])


def _cross_section(labels: list[dict], tail: float) -> None:
    for label in labels:
        label["rank"] = label["q"] = label["intraday_aux"] = None
    eligible = [label for label in labels if label["eligible"]]
    for label in labels:
        if not label["eligible"]:
            label |= dict.fromkeys(("buy_block", "downlock", "fragility"))
    for field, head in (("ret", "rank"), ("intraday", "intraday_aux")):
        known = [label for label in eligible if label[field] is not None]
        for label in known:
            below = sum(other[field] < label[field] for other in known)
            equal = sum(other[field] == label[field] for other in known)
            place = below + (equal + 1) / 2
            label[head] = (place - 1) / (len(known) - 1) - 0.5 if len(known) > 1 else 0.0
            if head == "rank":
                label["q"] = float(len(known) - place < tail * len(known) - 1e-9)
