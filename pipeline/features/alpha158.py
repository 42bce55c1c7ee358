"""The 158 columns of qlib's Alpha158, in its order. The arithmetic is in `alpha158_kernel`."""

from __future__ import annotations

import numpy as np

from pipeline.features.alpha158_kernel import WINDOWS, alpha158
from pipeline.features.history import History
from pipeline.features.spec import Family, Feature

_PRICES = ("open", "high", "low", "close")
_BAR = (*_PRICES, "volume", "factor")

# name -> meaning; K-bar shapes need the bar of the day only.
_DAY = {
    "KMID": "(close - open) / open",
    "KLEN": "(high - low) / open",
    "KMID2": "(close - open) / (high - low)",
    "KUP": "upper shadow over open",
    "KUP2": "upper shadow over (high - low)",
    "KLOW": "lower shadow over open",
    "KLOW2": "lower shadow over (high - low)",
    "KSFT": "(2 close - high - low) / open",
    "KSFT2": "(2 close - high - low) / (high - low)",
    "OPEN0": "open / close",
    "HIGH0": "high / close",
    "LOW0": "low / close",
    "VWAP0": "vwap / close",
}

# name -> (sessions read before the N of the window, bars needed, meaning)
_ROLLING = {
    "ROC": (1, 2, "close N sessions ago / close"),
    "MA": (0, 1, "mean close / close"),
    "STD": (0, 2, "standard deviation of close / close"),
    "BETA": (0, 2, "slope of close over sessions / close"),
    "RSQR": (0, 2, "R squared of close over sessions"),
    "RESI": (0, 2, "residual of the newest close / close"),
    "MAX": (0, 1, "highest high / close"),
    "MIN": (0, 1, "lowest low / close"),
    "QTLU": (0, 1, "80% quantile of close / close"),
    "QTLD": (0, 1, "20% quantile of close / close"),
    "RANK": (0, 1, "percentile rank of the newest close"),
    "RSV": (0, 1, "close between lowest low and highest high"),
    "IMAX": (0, 1, "position of the highest high / N"),
    "IMIN": (0, 1, "position of the lowest low / N"),
    "IMXD": (0, 1, "IMAX - IMIN"),
    "CORR": (0, 2, "correlation of close and log volume"),
    "CORD": (1, 3, "correlation of return and log volume change"),
    "CNTP": (1, 1, "share of bars that closed higher"),
    "CNTN": (1, 1, "share of bars that closed lower"),
    "CNTD": (1, 1, "CNTP - CNTN"),
    "SUMP": (1, 2, "rises over rises and falls of close"),
    "SUMN": (1, 2, "falls over rises and falls of close"),
    "SUMD": (1, 2, "SUMP - SUMN"),
    "VMA": (0, 1, "mean volume / volume"),
    "VSTD": (0, 2, "standard deviation of volume / volume"),
    "WVMA": (1, 3, "coefficient of variation of |return| x volume"),
    "VSUMP": (1, 2, "rises over rises and falls of volume"),
    "VSUMN": (1, 2, "falls over rises and falls of volume"),
    "VSUMD": (1, 2, "VSUMP - VSUMN"),
}


def _features() -> tuple[Feature, ...]:
    day = [
        Feature(
            name,
            "alpha158",
            (*_BAR, "amount") if name == "VWAP0" else _BAR,
            1,
            1,
            "instrument",
            "ratio",
            meaning,
        )
        for name, meaning in _DAY.items()
    ]
    rolling = [
        Feature(
            f"{name}{n}", "alpha158", _BAR, n + before, bars, "instrument", "ratio", f"{meaning}, N = {n}"
        )
        for name, (before, bars, meaning) in _ROLLING.items()
        for n in WINDOWS
    ]
    return (*day, *rolling)


def _compute(history: History) -> np.ndarray:
    v = history.values
    out = history.empty(len(FAMILY.features))
    alpha158(
        v["open"],
        v["high"],
        v["low"],
        v["close"],
        v["volume"],
        v["amount"],
        v["factor"],
        history.start,
        history.stop,
        history.first,
        out,
    )
    return history.at_rows(out)


FAMILY = Family("alpha158", _features(), _compute)
