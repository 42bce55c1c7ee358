"""Volume, trade counts, taker flow and spread of one instrument's minute bars."""

from __future__ import annotations

import numpy as np

from pipeline.features.minutes import windows
from pipeline.features.minutes.history import MinuteHistory
from pipeline.features.minutes.spec import MinuteFamily, MinuteFeature, Source

_ZSCORES = (60, 240)
_PRICES = (15, 60)
_IMBALANCES = (1, 5, 15)
_SHORT = "fewer minutes than the look-back in the segment"


def _one(
    name: str, meaning: str, unit: str, window: int, formula: str, missing: str, source: Source = "bars"
) -> MinuteFeature:
    family = "spread" if source == "spread" else "volume"
    return MinuteFeature(name, family, meaning, unit, (source,), window, window, formula, "WINDOW_V1", missing)


def _zscore(name: str, column: str, n: int, meaning: str, source: Source = "bars") -> MinuteFeature:
    formula = f"({column} - mean) / sample deviation over {n}"
    return _one(name, meaning, "deviations", n, formula, f"{_SHORT}, a missing one in it, or no deviation", source)


def _volume_features() -> tuple[MinuteFeature, ...]:
    return (
        *(_zscore(f"volume_zscore_{n}m", "volume", n, f"volume against {n} minutes") for n in _ZSCORES),
        *(_zscore(f"trades_zscore_{n}m", "trades", n, f"trade count against {n} minutes") for n in _ZSCORES),
        _one(
            "volume_ratio_5m_60m",
            "share of the hour's volume in five minutes, 1 when even",
            "ratio",
            60,
            "(sum volume over 5 / 5) / (sum volume over 60 / 60)",
            f"{_SHORT}, or an hour without volume",
        ),
        _one(
            "trade_size_ratio_5m_60m",
            "mean trade of five minutes against the hour's",
            "ratio",
            60,
            "(quote volume / trades over 5) / (quote volume / trades over 60)",
            f"{_SHORT}, or no trade in five minutes",
        ),
        *(
            _one(
                f"vwap_distance_{n}m_bps",
                f"close over the mean traded price of {n} minutes",
                "bps",
                n,
                f"(close / (sum quote_volume / sum volume over {n}) - 1) * 1e4",
                f"{_SHORT}, or no volume in it",
            )
            for n in _PRICES
        ),
        *(
            _one(
                f"taker_imbalance_{n}m",
                f"taker bought less taker sold over {n} minutes",
                "fraction of volume, -1 to 1",
                n,
                f"(2 * sum taker_buy_volume - sum volume) / sum volume over {n}",
                f"{_SHORT}, or no volume in it",
            )
            for n in _IMBALANCES
        ),
        _zscore("taker_net_zscore_60m", "(2 * taker_buy_volume - volume)", 60, "net taker volume against the hour"),
    )


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """Quotient, NaN where the divisor is not positive."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(under > 0, over / under, np.nan)


def _volume(history: MinuteHistory) -> list[np.ndarray]:
    v, held = history.values, history.held
    volume = {n: windows.sums(v["volume"], held, n) for n in (5, 15, 60)}
    quote = {n: windows.sums(v["quote_volume"], held, n) for n in (5, 15, 60)}
    trades = {n: windows.sums(v["trades"], held, n) for n in (5, 60)}
    size = {n: _ratio(quote[n], trades[n]) for n in trades}
    return [
        *(windows.zscores(v["volume"], held, n) for n in _ZSCORES),
        *(windows.zscores(v["trades"], held, n) for n in _ZSCORES),
        _ratio(volume[5] / 5.0, volume[60] / 60.0),
        _ratio(size[5], size[60]),
        *((_ratio(v["close"], _ratio(quote[n], volume[n])) - 1.0) * 1e4 for n in _PRICES),
        *(history.taker_imbalance[n] for n in _IMBALANCES),
        windows.zscores(2.0 * v["taker_buy_volume"] - v["volume"], held, 60),
    ]


def _spread_features() -> tuple[MinuteFeature, ...]:
    return (
        _one("spread_bps", "best ask over best bid", "bps", 1, "spread_bps of the bar", "no quote", "spread"),
        _one(
            "spread_rank_24h_pct",
            "rank of the spread among a day's minutes, ties at their average",
            "fraction, 0 to 1",
            1440,
            "(count below + (ties + 1) / 2) / count over 1440",
            f"{_SHORT}, no quote now, or quotes in under 90 % of the minutes",
            "spread",
        ),
        _zscore("spread_zscore_60m", "spread_bps", 60, "spread against the hour", "spread"),
    )


def _spread(history: MinuteHistory) -> list[np.ndarray]:
    spread = history.values["spread_bps"]
    return [spread, history.spread_rank, windows.zscores(spread, history.held, 60)]


VOLUME = MinuteFamily("volume", _volume_features(), _volume)
SPREAD = MinuteFamily("spread", _spread_features(), _spread)
