"""Information coefficients and quantile returns of scores and factors. No orders, no costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numba import njit, prange

from pipeline.backtests.market import Market
from pipeline.errors import BadInput
from pipeline.frames import ordered_mean, require_columns, require_unique, row_key


@dataclass(frozen=True)
class InformationCoefficients:
    """Per-session results.

    Parameters
    ----------
    ic : pl.DataFrame
        session, horizon, pairs, rank_ic (Spearman, ties averaged; null under two pairs or for a constant
        side).
    quantiles : pl.DataFrame
        session, horizon, quantile (1 holds the lowest factors), count, mean_return (null for an empty
        quantile).
    """

    ic: pl.DataFrame
    quantiles: pl.DataFrame


def information_coefficients(
    factor: pl.DataFrame, returns: pl.DataFrame, quantiles: int = 5
) -> InformationCoefficients:
    """Rank IC and quantile mean returns of a factor at every horizon.

    Parameters
    ----------
    factor : pl.DataFrame
        session, instrument, factor.
    returns : pl.DataFrame
        session, instrument, and one column of forward returns per horizon (any names).
    quantiles : int
        Bins of equal count per session, cut as `pandas.qcut` does; equal cuts leave a bin empty. A value exactly
        on an edge belongs below it (pandas' float edges put it above now and then).

    Notes
    -----
    A row counts at a horizon when its factor and that horizon's return are both finite; bins are cut over the
    session's finite factors, whatever their returns.
    """
    key = ["session", "instrument"]
    require_columns(factor, [*key, "factor"], "information_coefficients")
    require_columns(returns, key, "information_coefficients")
    horizons = [c for c in returns.columns if c not in key]
    if not horizons or quantiles < 2:
        raise BadInput("at least one horizon and two quantiles", f"{horizons}, {quantiles}", "add a return column")
    factor = _in_key_order(factor.select(*key, "factor"), key, "factor")
    rows = _beside(factor, _in_key_order(returns, key, "returns"), key)
    days, starts = _groups(rows, ["session"])
    values = np.ascontiguousarray(rows.select(pl.col(horizons).cast(pl.Float64)).to_numpy().T)
    pairs, rank_ic, counts, means = _session_statistics(starts, _floats(rows, "factor"), values, quantiles)
    n, names = len(days), pl.Series(horizons)
    ic = days.select(pl.all().repeat_by(len(horizons)).explode(empty_as_null=True)).with_columns(
        horizon=names.gather(np.tile(np.arange(len(horizons)), n)),
        pairs=pl.Series(pairs.ravel()),
        rank_ic=pl.Series(rank_ic.ravel()).fill_nan(None),
    )
    bins = len(horizons) * quantiles
    by_quantile = days.select(pl.all().repeat_by(bins).explode(empty_as_null=True)).with_columns(
        horizon=names.gather(np.tile(np.repeat(np.arange(len(horizons)), quantiles), n)),
        quantile=pl.Series(np.tile(np.arange(1, quantiles + 1), n * len(horizons)), dtype=pl.Int16),
        count=pl.Series(counts.ravel()),
        mean_return=pl.Series(means.ravel()).fill_nan(None),
    )
    return InformationCoefficients(ic, by_quantile)


def rank_ic(predictions: pl.DataFrame, labels: pl.DataFrame, score: str = "score", truth: str = "ret") -> pl.DataFrame:
    """Rank IC of a score against the realised return, per session (and per split where there is one).

    Parameters
    ----------
    predictions : pl.DataFrame
        [split,] the key of the study's rows and the score.
    labels : pl.DataFrame
        The key and the truth; null where there is none.

    Returns
    -------
    pl.DataFrame
        [split,] session, pairs, rank_ic in key order.
    """
    key = list(row_key(predictions))
    group = [*(["split"] if "split" in predictions.columns else []), "session"]
    require_columns(predictions, [*key, score], "rank_ic")
    within = [*group, *key[1:]]
    scores = _in_key_order(predictions.select(*within, score=pl.col(score)), within, "predictions")
    rows = _beside(scores, _in_key_order(labels.select(*key, truth=pl.col(truth)), key, "labels"), key)
    groups, starts = _groups(rows, group)
    pairs, values, _, _ = _session_statistics(starts, _floats(rows, "score"), _floats(rows, "truth").reshape(1, -1), 1)
    return groups.with_columns(pairs=pl.Series(pairs[:, 0]), rank_ic=pl.Series(values[:, 0]).fill_nan(None))


def pooled_rank_ic(
    predictions: pl.DataFrame, labels: pl.DataFrame, score: str = "score", truth: str = "ret"
) -> pl.DataFrame:
    """What each session adds to the rank correlation over all rows of its split: for series, not for cross-sections.

    Ranks within a day would compare a minute with the path that led to it: on a random walk "it fell, so it will rise"
    has a rank IC within the day (+0.05 after 60 minutes, +0.11 after 240), and none over all days.

    Parameters
    ----------
    predictions, labels
        As for `rank_ic`.

    Returns
    -------
    pl.DataFrame
        [split,] session, pairs, rank_ic: the mean over the session's pairs of the product of both standardised ranks;
        weighted by `pairs`, the sessions of a split average to its Spearman correlation. Null where a side is constant.
    """
    key = list(row_key(predictions))
    split = ["split"] if "split" in predictions.columns else []
    require_columns(predictions, [*key, score], "pooled_rank_ic")
    rows = predictions.select(*split, *key, score=pl.col(score).cast(pl.Float64)).join(
        labels.select(*key, truth=pl.col(truth).cast(pl.Float64)), on=key, how="inner"
    )
    known = rows.filter(pl.col("score").is_finite(), pl.col("truth").is_finite()).sort(*split, *key)
    ranks = [pl.col(name).rank("average") for name in ("score", "truth")]
    if split:
        ranks = [rank.over("split") for rank in ranks]
    ranked = known.with_columns(ranks)
    parts = ranked.partition_by("split", maintain_order=True) if split else [ranked]
    return pl.concat(_contributions(part, [*split, "session"]) for part in parts)


def _contributions(ranked: pl.DataFrame, group: list[str]) -> pl.DataFrame:
    a, b = (ranked[name].to_numpy() - ranked[name].to_numpy().mean() for name in ("score", "truth"))
    scale = a.std() * b.std()
    product = a * b / scale if scale > 0.0 else np.full(len(a), np.nan)
    by_session = ranked.select(group).with_columns(product=pl.Series(product)).group_by(group, maintain_order=True)
    made = by_session.agg(pairs=pl.len().cast(pl.Int64), rank_ic=ordered_mean(pl.col("product")))
    return made.with_columns(pl.col("rank_ic").fill_nan(None))


def ic_summary(ic: pl.DataFrame, by: Sequence[str] = ()) -> pl.DataFrame:
    """[by,] sessions, mean, std (sample), icir (mean / std, not annualised), share of positive sessions."""
    value = pl.col("rank_ic")
    wanted = {
        "sessions": value.count(),
        "mean": ordered_mean(value),
        "std": value.std(ddof=1),
        "icir": ordered_mean(value) / value.std(ddof=1),
        "positive": (value > 0).mean(),
    }
    return ic.group_by(list(by)).agg(**wanted).sort(list(by)) if by else ic.select(**wanted)


def forward_returns(market: Market, horizons: Sequence[int]) -> pl.DataFrame:
    """Adjusted close to adjusted close over each number of sessions.

    Returns
    -------
    pl.DataFrame
        session, instrument, `<h>_sessions` columns in key order; null where either close is missing. Sessions
        are the calendar's, so a suspension does not stretch a horizon.
    """
    if not horizons or min(horizons) < 1:
        raise BadInput("horizons are sessions from 1 up", list(horizons), "pass at least one")
    shape = market.close.T.shape
    columns = {
        "session": pl.Series(np.repeat(market.sessions, shape[1])).cast(pl.Date),
        "instrument": pl.Series(market.instruments).gather(np.tile(np.arange(shape[1]), shape[0])),
    }
    for h in horizons:
        change = np.full(shape, np.nan)
        change[: max(shape[0] - h, 0)] = (market.close[:, h:] / market.close[:, : max(shape[0] - h, 0)] - 1).T
        columns[f"{h}_sessions"] = pl.Series(change.ravel()).fill_nan(None)
    return pl.DataFrame(columns)


def _in_key_order(frame: pl.DataFrame, key: list[str], what: str) -> pl.DataFrame:
    """The frame sorted by its unique key; stored tables already are, and seeing that is ten times cheaper."""
    ascending = pl.lit(False)
    for column in reversed(key):
        now, before = pl.col(column), pl.col(column).shift(1)
        ascending = (now > before) | ((now == before) & ascending)
    if frame.select(ascending.slice(1).all()).item() and not frame.select(key).null_count().sum_horizontal()[0]:
        return frame
    require_unique(frame, key, what)
    return frame.sort(key)


def _beside(rows: pl.DataFrame, others: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    """Rows with the others' columns of the same key, in the order of the rows."""
    if rows.select(key).equals(others.select(key)):
        return rows.hstack(others.drop(key))
    return rows.join(others, on=key, how="left", maintain_order="left")


def _floats(rows: pl.DataFrame, column: str) -> np.ndarray:
    return rows[column].cast(pl.Float64).to_numpy()


def _groups(rows: pl.DataFrame, by: list[str]) -> tuple[pl.DataFrame, np.ndarray]:
    """Distinct keys of sorted rows, and where each starts (with the end appended)."""
    sizes = rows.group_by(by, maintain_order=True).len("rows")
    return sizes.drop("rows"), np.concatenate([[0], np.cumsum(sizes["rows"].to_numpy())]).astype(np.int64)


@njit(cache=True)
def _average_ranks(values: np.ndarray, order: np.ndarray, keep: np.ndarray, ranks: np.ndarray) -> int:
    """Ranks (from 1, ties averaged) of the kept values, written at their positions; how many were kept."""
    n, i, done = len(order), 0, 0
    while i < n:
        end, tied = i, 0
        while end < n and values[order[end]] == values[order[i]]:
            tied += keep[order[end]]
            end += 1
        if end == i:  # NaN sorts last and equals nothing
            break
        for j in range(i, end):
            ranks[order[j]] = done + (tied + 1) / 2.0
        done += tied
        i = end
    return done


@njit(cache=True)
def _correlation(a: np.ndarray, b: np.ndarray, keep: np.ndarray, n: int) -> float:
    """Pearson's correlation of kept ranks; both have the mean (n + 1) / 2, so the sums are exact."""
    centre = (n + 1) / 2.0
    ab, aa, bb = 0.0, 0.0, 0.0
    for i in range(len(a)):
        if keep[i]:
            x, y = a[i] - centre, b[i] - centre
            ab += x * y
            aa += x * x
            bb += y * y
    return ab / np.sqrt(aa * bb) if aa > 0.0 and bb > 0.0 else np.nan


@njit(cache=True)
def _quantile_bins(values: np.ndarray, order: np.ndarray, n_bins: int) -> np.ndarray:
    """Bin of each finite value, -1 for others.

    The j-th of the linearly interpolated quantiles lies at place (n - 1) j / bins of the sorted values and a
    bin is closed on its right, so the value at the place rounded down decides: integers, no rounding error.
    """
    finite = 0
    while finite < len(order) and np.isfinite(values[order[finite]]):
        finite += 1
    bins = np.full(len(values), -1, np.int64)
    at = 0
    for j in range(1, n_bins + 1):
        while at < finite and values[order[at]] <= values[order[(finite - 1) * j // n_bins]]:
            bins[order[at]] = j - 1
            at += 1
    return bins


@njit(cache=True)
def _one_session(
    factor: np.ndarray,
    returns: np.ndarray,
    pairs: np.ndarray,
    ics: np.ndarray,
    counts: np.ndarray,
    means: np.ndarray,
) -> None:
    """Writes one group's results; the factor is sorted once for all horizons."""
    n, n_bins = len(factor), counts.shape[1]
    scores = factor.copy()
    for i in range(n):
        if not np.isfinite(scores[i]):
            scores[i] = np.nan
    order = np.argsort(scores)
    bins = _quantile_bins(scores, order, n_bins)
    score_ranks, return_ranks = np.empty(n), np.empty(n)
    keep, sums = np.empty(n, np.bool_), np.empty(n_bins)
    for h in range(len(returns)):
        realised = returns[h]
        sums[:] = 0.0
        for i in range(n):
            keep[i] = bins[i] >= 0 and np.isfinite(realised[i])
            if keep[i]:
                sums[bins[i]] += realised[i]
                counts[h, bins[i]] += 1
        pairs[h] = _average_ranks(scores, order, keep, score_ranks)
        _average_ranks(realised, np.argsort(realised), keep, return_ranks)
        ics[h] = _correlation(score_ranks, return_ranks, keep, pairs[h])
        for q in range(n_bins):
            if counts[h, q]:
                means[h, q] = sums[q] / counts[h, q]


@njit(parallel=True, cache=True)
def _every_session(
    starts: np.ndarray,
    factor: np.ndarray,
    returns: np.ndarray,
    pairs: np.ndarray,
    ics: np.ndarray,
    counts: np.ndarray,
    means: np.ndarray,
) -> None:
    for g in prange(len(starts) - 1):
        rows = slice(starts[g], starts[g + 1])
        _one_session(factor[rows], returns[:, rows], pairs[g], ics[g], counts[g], means[g])


def _session_statistics(
    starts: np.ndarray, factor: np.ndarray, returns: np.ndarray, n_bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs and rank IC [groups, horizons]; counts and mean returns [groups, horizons, bins]."""
    shape = (len(starts) - 1, len(returns))
    pairs, ics = np.zeros(shape, np.int64), np.full(shape, np.nan)
    counts, means = np.zeros((*shape, n_bins), np.int64), np.full((*shape, n_bins), np.nan)
    _every_session(starts, factor, returns, pairs, ics, counts, means)
    return pairs, ics, counts, means
