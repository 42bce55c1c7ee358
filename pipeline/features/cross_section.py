"""Where an instrument stands among the names eligible on its decision day; null for the others."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from pipeline.features.history import History
from pipeline.features.kernels import group_moments, percentiles
from pipeline.features.returns import enough
from pipeline.features.spec import Family, Feature

_RANKED = {
    "market_cap_percentile": "total_mv",
    "float_cap_percentile": "circ_mv",
    "amount_percentile": "amount",
    "turnover_percentile": "turnover",
    "pb_percentile": "pb",
    "pe_percentile": "pe_ttm",
    "ps_percentile": "ps_ttm",
    "dividend_yield_percentile": "dividend_yield_pct",
}
_WINDOWS = (1, 5, 20)
_LIQUIDITY = 20


def _features() -> tuple[Feature, ...]:
    def one(
        name: str, inputs: tuple[str, ...], lookback: int, min_bars: int, unit: str, meaning: str
    ) -> Feature:
        return Feature(name, "cross_section", inputs, lookback, min_bars, "cross_section", unit, meaning)

    return (
        *(
            one(name, (column,), 1, 0, "percentile", f"average-tie rank of {column} over count, in (0, 1]")
            for name, column in _RANKED.items()
        ),
        *(
            one(
                f"return_percentile_{n}",
                ("close", "factor"),
                n + 1,
                2,
                "percentile",
                f"rank of the {n}-session return",
            )
            for n in _WINDOWS
        ),
        *(
            one(
                f"industry_relative_return_{n}",
                ("close", "factor", "industry"),
                n + 1,
                2,
                "fraction",
                f"{n}-session return minus the mean of its industry",
            )
            for n in _WINDOWS
        ),
        one(
            "industry_size",
            ("close", "factor", "industry"),
            2,
            2,
            "names",
            "names of its industry that have a 1-session return",
        ),
        one(
            "liquidity_bucket",
            ("amount",),
            _LIQUIDITY,
            enough(_LIQUIDITY),
            "decile",
            "decile of the mean amount of 20 sessions, 0 (least) to 9",
        ),
        one("size_bucket", ("circ_mv",), 1, 0, "decile", "decile of circ_mv, 0 (smallest) to 9"),
    )


@njit(cache=True, parallel=True, error_model="numpy")
def _mean_amount(amount: np.ndarray, history: np.ndarray, position: np.ndarray) -> np.ndarray:
    """float64 `[n_rows]`: mean positive amount of 20 sessions, NaN with fewer than half of them."""
    out = np.full(len(history), np.nan)
    for r in prange(len(history)):
        bars, total = 0, 0.0
        for t in range(max(position[r] - _LIQUIDITY + 1, 0), position[r] + 1):
            if amount[history[r], t] > 0:
                bars += 1
                total += amount[history[r], t]
        if bars >= (_LIQUIDITY + 1) // 2:
            out[r] = total / bars
    return out


def _decile(percentile: np.ndarray) -> np.ndarray:
    """0..9 from a rank over count in (0, 1]: (0, 0.1] is 0."""
    return np.ceil(10.0 * percentile) - 1.0


def _compute(history: History) -> np.ndarray:
    use, starts = history.eligible, history.row_starts
    industry = history.rows["industry"].fill_null("").rank("dense").to_numpy().astype(np.int64) - 1
    n_industries = int(industry.max(initial=-1)) + 1
    changes = [history.change(n) for n in _WINDOWS]
    ranked = [history.lagged(column) for column in _RANKED.values()]
    liquidity = _mean_amount(history.values["amount"], history.row_history, history.row_position)
    *columns, liquid = percentiles(np.stack([*ranked, *changes, liquidity]), use, starts)
    size = columns[list(_RANKED).index("float_cap_percentile")]
    groups = [group_moments(change, use, industry, n_industries, starts) for change in changes]
    columns += [change - mean for change, (mean, _) in zip(changes, groups, strict=True)]
    columns.append(np.where(np.isnan(changes[0]), np.nan, groups[0][1]))
    columns += [_decile(liquid), _decile(size)]
    return np.where(use, np.stack(columns), np.nan).astype(np.float32)


FAMILY = Family("cross_section", _features(), _compute)
