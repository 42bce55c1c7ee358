"""State of the book, of funding and of the clock at a minute's decision."""

from __future__ import annotations

import numpy as np

from pipeline.features.minutes import windows
from pipeline.features.minutes.books import DEPTHS
from pipeline.features.minutes.history import LONGEST_FUNDING_HOURS, MINUTE_US, MinuteHistory
from pipeline.features.minutes.spec import MinuteFamily, MinuteFeature, Source

_NO_BOOK = "no usable snapshot in the minute"
_TAKER = (1, 5)
_DAY, _WEEK = 1440, 10_080
_MONDAY = 4 * _DAY  # 1970-01-05 was the first Monday of the epoch


def _one(
    family: str, name: str, meaning: str, unit: str, sources: tuple[Source, ...], window: int, formula: str,
    missing: str,
) -> MinuteFeature:  # fmt: skip
    return MinuteFeature(name, family, meaning, unit, sources, window, window, formula, "WINDOW_V1", missing)


def _book_features() -> tuple[MinuteFeature, ...]:
    return (
        _one(
            "book",
            "book_microprice_basis_bps",
            "size-weighted mid over the mid (not Stoikov's microprice)",
            "bps",
            ("books",),
            1,
            "((ask * bid_size + bid * ask_size) / max(bid_size + ask_size, 1e-12) / mid - 1) * 1e4 at level 0",
            _NO_BOOK,
        ),
        *(
            _one(
                "book",
                f"depth_imbalance_l{n}",
                f"bids less asks over {n} levels",
                "fraction of notional, -1 to 1",
                ("books",),
                1,
                f"(bids - asks) / (bids + asks), sum of price * size over levels 0..{n - 1}",
                f"{_NO_BOOK}, or a missing level",
            )
            for n in DEPTHS
        ),
        *(
            _one(
                "book",
                f"book_pressure_taker_{n}m",
                f"book pressure that {n} minutes of taker flow confirm",
                "bps",
                ("bars", "books"),
                n,
                f"book_microprice_basis_bps * taker_imbalance_{n}m",
                f"{_NO_BOOK}, or no volume in {n} minutes",
            )
            for n in _TAKER
        ),
        _one(
            "book",
            "depth_l20_zscore_60m",
            "notional at 20 levels against the hour",
            "deviations",
            ("books",),
            60,
            "(depth - mean) / sample deviation over 60, depth = sum of price * size of both sides, levels 0..19",
            "a minute of the window without a snapshot or with a missing level, or no deviation",
        ),
    )


def _book(history: MinuteHistory) -> list[np.ndarray]:
    both, net = history.depths
    basis = history.microprice_basis
    return [
        basis,
        *(net / both),
        *(basis * history.taker_imbalance[n] for n in _TAKER),
        windows.zscores(both[2], history.book_held, 60),
    ]


def _funding_features() -> tuple[MinuteFeature, ...]:
    window, stale = LONGEST_FUNDING_HOURS * 60, "no funding, or the newest is older than its own interval"
    return (
        _one("funding", "funding_rate_bps", "newest settled rate", "bps", ("funding",), window, "rate * 1e4", stale),
        _one(
            "funding",
            "minutes_to_funding",
            "time from the decision to the next funding",
            "minutes",
            ("funding",),
            window,
            "funding_time + interval - (minute + 1)",
            stale,
        ),
    )


def _funding(history: MinuteHistory) -> list[np.ndarray]:
    return [history.funding_rate * 1e4, history.minutes_to_funding]


def _clock_features() -> tuple[MinuteFeature, ...]:
    return tuple(
        _one(
            "clock",
            f"minute_of_{period}_{wave}",
            f"the minute's open on the circle of a UTC {period}",
            "none",
            ("bars",),
            1,
            f"{wave}(2 pi m / {steps}), m = minutes since {'00:00' if period == 'day' else 'Monday 00:00'} UTC",
            "never",
        )
        for period, steps in (("day", _DAY), ("week", _WEEK))
        for wave in ("sin", "cos")
    )


def _clock(history: MinuteHistory) -> list[np.ndarray]:
    minutes = history.rows["minute"].to_physical().to_numpy() // MINUTE_US
    of_week = (minutes - _MONDAY) % _WEEK
    return [*windows.cycle(of_week % _DAY, _DAY), *windows.cycle(of_week, _WEEK)]


BOOK = MinuteFamily("book", _book_features(), _book)
FUNDING = MinuteFamily("funding", _funding_features(), _funding)
CLOCK = MinuteFamily("clock", _clock_features(), _clock)
