"""Alpha158 in one backward walk per bar.

Formulas: qlib `contrib/data/loader.py` `Alpha158DL`; operators: qlib `data/ops.py`.

Numbers agree with qlib's on any history without missing bars, warm-up included. A *bar* is present when
open, high, low, close, volume and factor are. Where the window holds missing bars, ours differs on purpose:

- a session without a bar has no values (qlib gives counts, sums and correlations of the bars before it);
- missing bars are skipped: CNT* are means over the bars present (qlib counts a missing bar as "did not
  rise"); IMAX, IMIN and IMXD never point at one, and count from the oldest bar present;
- `Ref(x, 1)` stays the session before: the first bar after a suspension is neither up nor down.

qlib calls a standard deviation below 2e-5 zero, on the price level; ours does on log volume and on ratios,
and on close below 1e-7 of the newest close, so that a value does not change with the price scale.

Sums are taken of differences from the newest bar: the variance stays within 6e-8 of the two-pass one.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

WINDOWS = (5, 10, 20, 30, 60)
_LENGTHS = np.array(WINDOWS)
_LONGEST = WINDOWS[-1]
_EPS = 1e-12  # qlib's
_FLAT_CLOSE = 1e-7  # of the newest close; one tick of 0.01 in 60 bars of a 2,000 CNY stock is 6e-7
_FLAT = 2e-5  # qlib's
_FIRST_ROLLING = 13


@njit(cache=True, parallel=True, error_model="numpy")
def alpha158(
    open_: np.ndarray,
    high: np.ndarray,
    low: np.ndarray,
    close: np.ndarray,
    volume: np.ndarray,
    amount: np.ndarray,
    factor: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    first: int,
    out: np.ndarray,
) -> None:
    """Fill `out` float32 `[158, n_histories, n_sessions - first]` for `[start, stop)` of each history.

    Inputs are raw float64 `[n_histories, n_sessions]`: CNY, shares, CNY, NaN where absent.
    """
    for h in prange(len(start)):
        if start[h] >= stop[h]:
            continue
        series = _bar_series(open_[h], high[h], low[h], close[h], volume[h], factor[h])
        ordered = np.empty((len(WINDOWS), _LONGEST))
        held = np.zeros(len(WINDOWS), np.int64)
        begin = max(start[h] - _LONGEST + 1, 0)
        for t in range(begin, stop[h]):
            _slide(ordered, held, series[0], t, begin)
            if t < start[h]:
                continue
            if math.isnan(series[0, t]):
                out[:, h, t - first] = np.nan
            else:
                _day(
                    open_[h, t],
                    high[h, t],
                    low[h, t],
                    close[h, t],
                    volume[h, t],
                    amount[h, t],
                    out[:, h, t - first],
                )
                _walk(series, t, ordered, held, out[:, h, t - first])


@njit(cache=True, error_model="numpy")
def _bar_series(
    open_: np.ndarray,
    high: np.ndarray,
    low: np.ndarray,
    close: np.ndarray,
    volume: np.ndarray,
    factor: np.ndarray,
) -> np.ndarray:
    """`[8, n_sessions]`: adjusted close, high, low, volume; log volume, return, log change, volume moved."""
    s = np.full((8, len(close)), np.nan)
    for t in range(len(close)):
        if math.isnan(open_[t] + high[t] + low[t] + close[t] + volume[t] + factor[t]):
            continue
        s[0, t], s[1, t], s[2, t] = close[t] * factor[t], high[t] * factor[t], low[t] * factor[t]
        s[3, t] = volume[t] / factor[t]
        s[4, t] = math.log(s[3, t] + 1.0)
        if t > 0 and not math.isnan(s[0, t - 1]):
            s[5, t] = s[0, t] / s[0, t - 1] - 1.0
            s[7, t] = abs(s[5, t]) * s[3, t]
            if s[3, t - 1] > 0:
                s[6, t] = math.log(s[3, t] / s[3, t - 1] + 1.0)
    return s


@njit(cache=True, error_model="numpy")
def _slide(ordered: np.ndarray, held: np.ndarray, close: np.ndarray, t: int, begin: int) -> None:
    """Move the sorted closes of every window on to `t`, the first being `begin`; exact, so it may slide."""
    for w in range(len(_LENGTHS)):
        gone = t - _LENGTHS[w]
        values, n = ordered[w], held[w]
        if gone >= begin and not math.isnan(close[gone]):
            for j in range(np.searchsorted(values[:n], close[gone]), n - 1):
                values[j] = values[j + 1]
            n -= 1
        if not math.isnan(close[t]):
            j = n
            while j > 0 and values[j - 1] > close[t]:
                values[j] = values[j - 1]
                j -= 1
            values[j] = close[t]
            n += 1
        held[w] = n


@njit(cache=True, error_model="numpy")
def _quantile(values: np.ndarray, n: int, q: float) -> float:
    """Linear interpolation between the sorted values."""
    at = q * (n - 1)
    i = int(at)
    if i + 1 >= n:
        return values[n - 1]
    return values[i] + (values[i + 1] - values[i]) * (at - i)


@njit(cache=True, error_model="numpy")
def _day(o: float, h: float, low: float, c: float, volume: float, amount: float, out: np.ndarray) -> None:
    """K-bar and price columns; the factor cancels."""
    length, top, bottom = h - low, max(o, c), min(o, c)
    out[0], out[1], out[2] = (c - o) / o, length / o, (c - o) / (length + _EPS)
    out[3], out[4] = (h - top) / o, (h - top) / (length + _EPS)
    out[5], out[6] = (bottom - low) / o, (bottom - low) / (length + _EPS)
    out[7], out[8] = (2 * c - h - low) / o, (2 * c - h - low) / (length + _EPS)
    out[9], out[10], out[11] = o / c, h / c, low / c
    out[12] = amount / volume / c if volume > 0 else np.nan


@njit(cache=True, error_model="numpy")
def _correlation(n: int, sx: float, sy: float, sxx: float, syy: float, sxy: float, flat: float) -> float:
    """Pearson; NaN where a standard deviation is about zero (`flat` for x, qlib's bound for y)."""
    if n < 2:
        return np.nan
    vx, vy = sxx - sx * sx / n, syy - sy * sy / n
    if vx <= flat * flat * (n - 1) or vy <= _FLAT * _FLAT * (n - 1):
        return np.nan
    return (sxy - sx * sy / n) / math.sqrt(vx * vy)


@njit(cache=True, error_model="numpy")
def _deviation(n: int, total: float, squares: float) -> float:
    """Standard deviation (ddof 1) from sums of differences."""
    return math.sqrt(max(squares - total * total / n, 0.0) / (n - 1)) if n > 1 else np.nan


@njit(cache=True, error_model="numpy")
def _walk(s: np.ndarray, t: int, ordered: np.ndarray, held: np.ndarray, out: np.ndarray) -> None:
    """From bar `t` back through the longest window, harvesting each shorter one on the way.

    One long function on purpose: its 35 sums stay in registers.
    """
    close, high, low, volume, log_volume, ret, log_change, weighted = (
        s[0],
        s[1],
        s[2],
        s[3],
        s[4],
        s[5],
        s[6],
        s[7],
    )
    inverse, v_now, l_now = 1.0 / close[t], volume[t], log_volume[t]
    n = less = equal = up = down = pairs = changes = 0
    oldest = highest_at = lowest_at = 0
    highest, lowest = -np.inf, np.inf
    sx = sxx = sd = sdd = sxd = sl = sll = sdl = sv = svv = 0.0
    rise = fall = v_rise = v_fall = 0.0
    r0 = c0 = sr = srr = sc = scc = src = 0.0
    w0 = sw = sww = 0.0
    k = 0
    for w in range(len(_LENGTHS)):
        length = _LENGTHS[w]
        while k < length and k <= t:
            j, x = t - k, -float(k)
            k += 1
            if math.isnan(close[j]):
                continue
            n += 1
            oldest = t - j
            d, lv, dv = (close[j] - close[t]) * inverse, log_volume[j] - l_now, volume[j] - v_now
            sx += x
            sxx += x * x
            sd += d
            sdd += d * d
            sxd += x * d
            sl += lv
            sll += lv * lv
            sdl += d * lv
            sv += dv
            svv += dv * dv
            less += close[j] < close[t]
            equal += close[j] == close[t]
            if high[j] >= highest:
                highest, highest_at = high[j], oldest
            if low[j] <= lowest:
                lowest, lowest_at = low[j], oldest
            if math.isnan(ret[j]):
                continue
            move, v_move = (close[j] - close[j - 1]) * inverse, volume[j] - volume[j - 1]
            up += move > 0
            down += move < 0
            rise += max(move, 0.0)
            fall += max(-move, 0.0)
            v_rise += max(v_move, 0.0)
            v_fall += max(-v_move, 0.0)
            if pairs == 0:
                w0 = weighted[j]
            pairs += 1
            sw += weighted[j] - w0
            sww += (weighted[j] - w0) ** 2
            if math.isnan(log_change[j]):
                continue
            if changes == 0:
                r0, c0 = ret[j], log_change[j]
            changes += 1
            dr, dc = ret[j] - r0, log_change[j] - c0
            sr += dr
            sc += dc
            srr += dr * dr
            scc += dc * dc
            src += dr * dc
        f = _FIRST_ROLLING + w
        top, bottom = highest * inverse, lowest * inverse
        out[f] = close[t - length] * inverse if t >= length else np.nan
        out[f + 5] = 1.0 + sd / n
        out[f + 10] = _deviation(n, sd, sdd)
        vx, vd, cov = sxx - sx * sx / n, sdd - sd * sd / n, sxd - sx * sd / n
        slope = cov / vx if n > 1 else np.nan
        out[f + 15] = slope
        flat = n < 2 or vd <= _FLAT_CLOSE * _FLAT_CLOSE * (n - 1)
        out[f + 20] = np.nan if flat else cov * cov / (vx * vd)
        out[f + 25] = slope * sx / n - sd / n
        out[f + 30], out[f + 35] = top, bottom
        out[f + 40] = _quantile(ordered[w], held[w], 0.8) * inverse
        out[f + 45] = _quantile(ordered[w], held[w], 0.2) * inverse
        out[f + 50] = (less + 0.5 * (equal + 1)) / n
        out[f + 55] = (1.0 - bottom) / (top - bottom + _EPS)
        i_max, i_min = oldest - highest_at + 1, oldest - lowest_at + 1
        out[f + 60], out[f + 65], out[f + 70] = i_max / length, i_min / length, (i_max - i_min) / length
        out[f + 75] = _correlation(n, sd, sl, sdd, sll, sdl, _FLAT_CLOSE)
        out[f + 80] = _correlation(changes, sr, sc, srr, scc, src, _FLAT)
        out[f + 85], out[f + 90], out[f + 95] = up / n, down / n, (up - down) / n
        out[f + 115] = (v_now + sv / n) / (v_now + _EPS)
        out[f + 120] = _deviation(n, sv, svv) / (v_now + _EPS)
        if pairs == 0:
            for g in (100, 105, 110, 125, 130, 135, 140):
                out[f + g] = np.nan
            continue
        moved, v_moved = rise + fall + _EPS, v_rise + v_fall + _EPS
        out[f + 100], out[f + 105], out[f + 110] = rise / moved, fall / moved, (rise - fall) / moved
        out[f + 125] = _deviation(pairs, sw, sww) / (w0 + sw / pairs + _EPS)
        out[f + 130], out[f + 135], out[f + 140] = (
            v_rise / v_moved,
            v_fall / v_moved,
            (v_rise - v_fall) / v_moved,
        )
