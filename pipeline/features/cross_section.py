"""Where an instrument stands among the names eligible on its decision day; null for the others."""

from __future__ import annotations

import numpy as np

from pipeline.features.history import History
from pipeline.features.kernels import group_moments, percentiles
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
    )


def _compute(history: History) -> np.ndarray:
    use, starts = history.eligible, history.row_starts
    industry = history.rows["industry"].fill_null("").rank("dense").to_numpy().astype(np.int64) - 1
    n_industries = int(industry.max(initial=-1)) + 1
    changes = [history.change(n) for n in _WINDOWS]
    ranked = [history.lagged(column) for column in _RANKED.values()]
    columns = [*percentiles(np.stack(ranked + changes), use, starts)]
    groups = [group_moments(change, use, industry, n_industries, starts) for change in changes]
    columns += [change - mean for change, (mean, _) in zip(changes, groups, strict=True)]
    columns.append(np.where(np.isnan(changes[0]), np.nan, groups[0][1]))
    return np.where(use, np.stack(columns), np.nan).astype(np.float32)


FAMILY = Family("cross_section", _features(), _compute)
