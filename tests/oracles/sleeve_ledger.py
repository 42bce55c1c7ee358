"""A plain ledger of the sleeve protocol, written from its prose; shares no code with the library.

It walks the calendar one day at a time with positions as dicts, and decides each fill on the day itself from
that day's quotes. Slow on purpose.
"""

from __future__ import annotations

import math


def sleeve_ledger(
    days: list,
    quotes: dict,
    orders: list[dict],
    *,
    sleeves: int,
    exit_session: int,
    buy_bps: float,
    sell_bps: float,
    haircut: float,
) -> tuple[list[tuple], dict]:
    """Walk a book.

    Parameters
    ----------
    days : list of date
        Every session of the market.
    quotes : dict
        (instrument, date) -> dict(open, close, factor, open_block, close_block); absent when not listed.
        Prices may be None.
    orders : list of dict
        session, rank, instrument, weight.

    Returns
    -------
    curve : list of (date, nav)
    trades : dict
        (session, rank) -> dict(status, entry_session, entry_price, exit_session, exit_price, exit_delay,
        stake, ret).
    """
    last_quote = {}
    for instrument, day in quotes:
        last_quote[instrument] = max(day, last_quote.get(instrument, day))
    decisions: dict = {}
    for order in sorted(orders, key=lambda o: (o["session"], o["rank"])):
        decisions.setdefault(order["session"], []).append(order)
    first, last = min(decisions), max(decisions)
    first_place = days.index(first)
    cash = [1.0 / sleeves] * sleeves
    positions: list[dict] = []
    trades = {
        (o["session"], o["rank"]): {
            "status": "pending",
            "entry_session": None,
            "entry_price": None,
            "exit_session": None,
            "exit_price": None,
            "exit_delay": None,
            "stake": 0.0,
            "ret": None,
        }
        for o in orders
    }
    curve: list[tuple] = []
    for place in range(first_place + 1, len(days)):
        day = days[place]
        _open_round(days, place, quotes, decisions, trades, positions, cash, first_place, sleeves)
        _close_round(days, place, quotes, trades, positions, cash, exit_session, last_quote, buy_bps, sell_bps, haircut)
        nav = math.fsum([*cash, *(_shares(p, buy_bps) * p["mark"] for p in positions)])
        curve.append((day, nav))
        if place >= days.index(last) + exit_session and not positions:
            break
    for position in positions:
        position["trade"]["status"] = "open"
    return curve, trades


def _shares(position: dict, buy_bps: float) -> float:
    return position["stake"] / (1 + buy_bps / 1e4) / position["entry_price"]


def _adjusted(quote: dict | None, side: str) -> float | None:
    if quote is None or quote[side] is None or quote["factor"] is None or quote[side] * quote["factor"] <= 0:
        return None
    return quote[side] * quote["factor"]


def _open_round(days, place, quotes, decisions, trades, positions, cash, first_place, sleeves) -> None:
    """Equal weights of the free cash, at the open after the decision; blocked names leave their cash idle."""
    decided = days[place - 1]
    if decided not in decisions:
        return
    turn = (place - 1 - first_place) % sleeves
    free = cash[turn]
    for order in decisions[decided]:
        quote = quotes.get((order["instrument"], days[place]))
        price = _adjusted(quote, "open")
        trade = trades[order["session"], order["rank"]]
        if price is None or quote["open_block"] is not None:
            trade["status"] = "entry_blocked"
            continue
        stake = order["weight"] * free
        cash[turn] -= stake
        trade.update(entry_session=days[place], entry_price=price, stake=stake)
        positions.append(
            {
                "instrument": order["instrument"],
                "turn": turn,
                "stake": stake,
                "entry_price": price,
                "mark": price,
                "decided": place - 1,
                "trade": trade,
            }
        )


def _close_round(
    days, place, quotes, trades, positions, cash, exit_session, last_quote, buy_bps, sell_bps, haircut
) -> None:
    """Sell what is due and tradable; a name without any later row is written down and paid out."""
    for position in list(positions):
        quote = quotes.get((position["instrument"], days[place]))
        price = _adjusted(quote, "close")
        target = position["decided"] + exit_session
        gone = days[place] > last_quote[position["instrument"]]
        if price is not None:
            position["mark"] = price
        due = place >= target and price is not None and quote["close_block"] is None
        if not (due or gone):
            continue
        paid = position["mark"] * (1 - haircut) if gone else price
        status = "delisted" if gone else "filled" if place == target else "carried"
        net = paid / position["entry_price"] * (1 - sell_bps / 1e4) / (1 + buy_bps / 1e4)
        position["trade"].update(
            status=status,
            exit_session=days[place],
            exit_price=paid,
            exit_delay=max(place - target, 0),
            ret=net - 1,
        )
        cash[position["turn"]] += position["stake"] * net
        positions.remove(position)
