"""Alpha158 written the slow, obvious way: pandas series of one instrument, one expression a column.

`skip_missing=False` is qlib's own treatment of missing bars, `True` ours; without any, both agree.
Nothing is shared with the kernel: windows are materialised, every moment is two-pass.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

WINDOWS = (5, 10, 20, 30, 60)
EPS = 1e-12


def _windows(values: np.ndarray, n: int) -> np.ndarray:
    """`[T, n]`, oldest first, NaN before the series begins."""
    padded = np.concatenate([np.full(n - 1, np.nan), values])
    return np.lib.stride_tricks.sliding_window_view(padded, n)


def _regression(close: pd.Series, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slope, R squared and newest residual of OLS on x = 1..n over the values present."""
    y = _windows(close.to_numpy(), n)
    x = np.where(np.isnan(y), np.nan, np.arange(1.0, n + 1))
    dx, dy = x - np.nanmean(x, 1, keepdims=True), y - np.nanmean(y, 1, keepdims=True)
    sxx, sxy, syy = np.nansum(dx * dx, 1), np.nansum(dx * dy, 1), np.nansum(dy * dy, 1)
    slope = sxy / sxx
    residual = y[:, -1] - (np.nanmean(y, 1) + slope * (n - np.nanmean(x, 1)))
    return slope, sxy * sxy / (sxx * syy), residual


def _std(values: np.ndarray, n: int) -> np.ndarray:
    return np.nanstd(_windows(values, n), axis=1, ddof=1)


def _correlation(x: np.ndarray, y: np.ndarray, n: int, flat_x: np.ndarray | float) -> np.ndarray:
    """Pearson over pairs; NaN where a standard deviation is about zero."""
    both = np.isfinite(x) & np.isfinite(y)
    wx, wy = _windows(np.where(both, x, np.nan), n), _windows(np.where(both, y, np.nan), n)
    dx, dy = wx - np.nanmean(wx, 1, keepdims=True), wy - np.nanmean(wy, 1, keepdims=True)
    sxx, syy = np.nansum(dx * dx, 1), np.nansum(dy * dy, 1)
    pairs = np.maximum(np.isfinite(wx).sum(1), 2)
    flat = (np.sqrt(sxx / (pairs - 1)) <= flat_x) | (np.sqrt(syy / (pairs - 1)) <= 2e-5)
    return np.where(flat, np.nan, np.nansum(dx * dy, 1) / np.sqrt(sxx * syy))


def _quantile(values: np.ndarray, n: int, q: float) -> np.ndarray:
    return np.nanquantile(_windows(values, n), q, axis=1)


def _index(values: np.ndarray, n: int, skip_missing: bool, largest: bool) -> np.ndarray:
    """(Position of the first extreme, oldest = 0) + 1 among what the window holds."""
    out = np.full(len(values), np.nan)
    for t in range(len(values)):
        window = values[max(t - n + 1, 0) : t + 1]
        if skip_missing:
            present = np.flatnonzero(~np.isnan(window))
            if not len(present):
                continue
            window = window[present[0] :]
            out[t] = 1 + (np.nanargmax(window) if largest else np.nanargmin(window))
        else:
            out[t] = 1 + (window.argmax() if largest else window.argmin())
    return out


def _count_mean(condition: pd.Series, present: pd.Series, n: int, skip_missing: bool) -> pd.Series:
    return (condition.where(present) if skip_missing else condition).astype(float).rolling(n, 1).mean()


def alpha158(bars: pd.DataFrame, skip_missing: bool = True) -> pd.DataFrame:
    """All 158 columns of one instrument.

    Parameters
    ----------
    bars : pandas.DataFrame
        One row a calendar session, in order: raw open, high, low, close, volume, amount, factor; NaN
        without a bar.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        return _alpha158(bars, skip_missing)


def _alpha158(bars: pd.DataFrame, skip_missing: bool) -> pd.DataFrame:
    f = bars["factor"]
    o, h, low, c = (bars[name] * f for name in ("open", "high", "low", "close"))
    v, vwap = bars["volume"] / f, bars["amount"] / bars["volume"] * f
    present = c.notna()
    top, bottom, length = np.maximum(o, c), np.minimum(o, c), h - low + EPS
    out: dict[str, pd.Series | np.ndarray] = {
        "KMID": (c - o) / o,
        "KLEN": (h - low) / o,
        "KMID2": (c - o) / length,
        "KUP": (h - top) / o,
        "KUP2": (h - top) / length,
        "KLOW": (bottom - low) / o,
        "KLOW2": (bottom - low) / length,
        "KSFT": (2 * c - h - low) / o,
        "KSFT2": (2 * c - h - low) / length,
        "OPEN0": o / c,
        "HIGH0": h / c,
        "LOW0": low / c,
        "VWAP0": vwap / c,
    }
    before, v_before = c.shift(1), v.shift(1)
    move, v_move = c - before, v - v_before
    log_v = np.log(v + 1).to_numpy()
    log_change = np.log(v / v_before.where(v_before > 0) + 1).to_numpy()
    weighted = ((c / before - 1).abs() * v).to_numpy()
    flat_close = 1e-7 * c.to_numpy() if skip_missing else 2e-5

    def rolling(n: int) -> dict[str, pd.Series | np.ndarray]:
        slope, r_squared, residual = _regression(c, n)
        high_at = _index(h.to_numpy(), n, skip_missing, True)
        low_at = _index(low.to_numpy(), n, skip_missing, False)
        up = move.clip(lower=0).rolling(n, 1).sum()
        down = (-move).clip(lower=0).rolling(n, 1).sum()
        total = move.abs().rolling(n, 1).sum() + EPS
        v_up = v_move.clip(lower=0).rolling(n, 1).sum()
        v_down = (-v_move).clip(lower=0).rolling(n, 1).sum()
        v_total = v_move.abs().rolling(n, 1).sum() + EPS
        rises = _count_mean(c > before, present, n, skip_missing)
        falls = _count_mean(c < before, present, n, skip_missing)
        highest, lowest = h.rolling(n, 1).max(), low.rolling(n, 1).min()
        return {
            "ROC": c.shift(n) / c,
            "MA": np.nanmean(_windows(c.to_numpy(), n), axis=1) / c,
            "STD": _std(c.to_numpy(), n) / c,
            "BETA": slope / c,
            "RSQR": np.where(_std(c.to_numpy(), n) <= flat_close, np.nan, r_squared),
            "RESI": residual / c,
            "MAX": highest / c,
            "MIN": lowest / c,
            "QTLU": _quantile(c.to_numpy(), n, 0.8) / c,
            "QTLD": _quantile(c.to_numpy(), n, 0.2) / c,
            "RANK": c.rolling(n, 1).rank(pct=True),
            "RSV": (c - lowest) / (highest - lowest + EPS),
            "IMAX": high_at / n,
            "IMIN": low_at / n,
            "IMXD": (high_at - low_at) / n,
            "CORR": _correlation(c.to_numpy(), log_v, n, flat_close),
            "CORD": _correlation((c / before).to_numpy(), log_change, n, 2e-5),
            "CNTP": rises,
            "CNTN": falls,
            "CNTD": rises - falls,
            "SUMP": up / total,
            "SUMN": down / total,
            "SUMD": (up - down) / total,
            "VMA": np.nanmean(_windows(v.to_numpy(), n), axis=1) / (v + EPS),
            "VSTD": _std(v.to_numpy(), n) / (v + EPS),
            "WVMA": _std(weighted, n) / (np.nanmean(_windows(weighted, n), axis=1) + EPS),
            "VSUMP": v_up / v_total,
            "VSUMN": v_down / v_total,
            "VSUMD": (v_up - v_down) / v_total,
        }

    columns = {n: rolling(n) for n in WINDOWS}
    out |= {f"{name}{n}": columns[n][name] for name in columns[5] for n in WINDOWS}
    frame = pd.DataFrame({k: np.asarray(x, dtype=float) for k, x in out.items()}, index=bars.index)
    return frame[present].reindex(frame.index) if skip_missing else frame
