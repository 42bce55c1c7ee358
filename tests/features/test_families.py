"""The smaller families against plain pandas, and numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest

from pipeline.features.compute import compute
from pipeline.features.plan import FAMILIES, plan
from tests.features.panels import Market, market

PLAN = plan([name for name in FAMILIES if name not in ("alpha158", "intraday")])


@pytest.fixture(scope="module")
def plain() -> Market:
    m = market(n_instruments=13, n_sessions=100, seed=4, gaps=0.15)
    return Market(m.panel, m.patches.clear(), m.intraday)


@pytest.fixture(scope="module")
def found(plain) -> pd.DataFrame:
    return compute(plain.as_of, plain.patches, plain.intraday, PLAN, plain.sessions).to_pandas()


@pytest.fixture(scope="module")
def panel(plain) -> pd.DataFrame:
    return plain.panel.to_pandas()


def by_instrument(panel: pd.DataFrame, formula) -> pd.Series:
    """A formula on each instrument's own sessions, put back in row order."""
    parts = [formula(own.sort_values("session")) for _, own in panel.groupby("instrument")]
    return pd.concat(parts).reindex(panel.index)


def same(found: pd.Series, expected) -> None:
    np.testing.assert_allclose(found.to_numpy(float), np.asarray(expected, float), rtol=2e-6, atol=1e-9)


def adjusted(own: pd.DataFrame) -> pd.Series:
    return own["close"] * own["factor"]


def change(n: int):
    return lambda own: adjusted(own) / adjusted(own).shift(n) - 1


@pytest.mark.parametrize("n", [1, 5, 20, 60])
def test_returns_reach_exactly_n_sessions_back(n, found, panel):
    """Pins an off-by-one: missing when either end has no bar."""
    same(found[f"return_{n}"], by_instrument(panel, change(n)))


@pytest.mark.parametrize("n", [1, 5, 20])
def test_night_and_day_add_up(n, found, panel):
    """Pins the split: nights use the adjusted previous close, days only the bar, both over half the window
    at least."""

    def night(own):
        step = np.log(own["open"] * own["factor"] / adjusted(own).shift(1))
        return step.rolling(n, min_periods=(n + 1) // 2).sum().where(own["close"].notna())

    def day(own):
        step = np.log(own["close"] / own["open"])
        return step.rolling(n, min_periods=(n + 1) // 2).sum().where(own["close"].notna())

    same(found[f"overnight_return_{n}"], by_instrument(panel, night))
    same(found[f"intraday_return_{n}"], by_instrument(panel, day))


@pytest.mark.parametrize("n", [5, 20, 60])
def test_realised_volatility_is_the_root_mean_square(n, found, panel):
    """Pins a demeaned or annualised volatility, or one over too few steps."""

    def volatility(own):
        step = np.log(adjusted(own) / adjusted(own).shift(1)) ** 2
        return np.sqrt(step.rolling(n, min_periods=(n + 1) // 2).mean()).where(own["close"].notna())

    same(found[f"realised_volatility_{n}"], by_instrument(panel, volatility))


def test_drawdown_liquidity_and_turnover(found, panel):
    """Pins the walk's other accumulators, each against one pandas expression."""

    def drawdown(own):
        def deepest(window):
            held = window[~np.isnan(window)]
            return np.min(held / np.maximum.accumulate(held) - 1) if len(held) else np.nan

        value = adjusted(own).rolling(20, min_periods=10).apply(deepest, raw=True)
        return value.where(own["close"].notna())

    def amihud(own):
        step = change(1)(own).abs() / own["amount"] * 1e6
        return step.rolling(20, min_periods=10).mean().where(own["close"].notna())

    def expansion(own):
        short, long = own["amount"].rolling(5, 3).mean(), own["amount"].rolling(20, 10).mean()
        return (short / long).where(own["close"].notna())

    def turnover(own):
        return own["turnover"].rolling(20, 10).mean().where(own["close"].notna())

    for name, formula in (("max_drawdown_20", drawdown), ("amihud_20", amihud), ("amount_expansion_5",
    expansion),
                          ("turnover_20", turnover)):  # fmt: skip
        same(found[name], by_instrument(panel, formula))


def test_recovery_of_the_deepest_fall(found, panel):
    """Pins a trough before its peak, and another fall than the deepest: what the close has regained of it."""

    def recovery(own):
        def regained(window):
            held = window[~np.isnan(window)]
            peaks = np.maximum.accumulate(held)
            trough = int(np.argmin(held / peaks))
            if held[trough] == peaks[trough]:
                return 1.0
            return min((held[-1] - held[trough]) / (peaks[trough] - held[trough]), 1.0)

        return adjusted(own).rolling(20, min_periods=10).apply(regained, raw=True).where(own["close"].notna())

    same(found["drawdown_recovery_20"], by_instrument(panel, recovery))
    assert (found["drawdown_recovery_20"] == 0).any()
    assert found["drawdown_recovery_20"].between(0, 1).where(found["drawdown_recovery_20"].notna(), True).all()


def test_streak_of_closes_in_one_direction(found, panel):
    """Pins a streak that survives a turn, an unchanged close or a missing bar, or passes its window."""

    def streak(own):
        step = np.sign(adjusted(own).diff())
        runs = step.groupby((step != step.shift()).cumsum()).cumcount() + 1
        return step * runs.clip(upper=10)

    same(found["close_streak_10"], by_instrument(panel, streak))
    assert found["close_streak_10"].max() == 10
    assert found["close_streak_10"].min() <= -4


def test_upper_shadow_weighs_by_amount(found, panel):
    """Pins a plain mean of shadows, and a one-price bar counted as missing instead of as no shadow."""

    def shadow(own):
        length = own["high"] - own["low"]
        share = ((own["high"] - own[["open", "close"]].max(axis=1)) / length).where(length > 0, 0.0)
        weighed = (share * own["amount"]).rolling(5, 3).sum() / own["amount"].rolling(5, 3).sum()
        return weighed.where(own["close"].notna())

    same(found["upper_shadow_5"], by_instrument(panel, shadow))


@pytest.mark.parametrize("side", ["up", "down"])
def test_one_price_sessions_and_the_place_between_the_limits(side, found, panel):
    """Pins a session counted that opened elsewhere, or that traded at one price off the limit."""

    def one_price(own):
        hit = ((own["close"] - own[f"{side}_limit"]).abs() < 0.005) & (own["high"] == own["low"])
        return hit.astype(float).rolling(20, 1).sum().where(own["close"].notna())

    same(found[f"limit_{side}_one_price_20"], by_instrument(panel, one_price))
    assert found[f"limit_{side}_one_price_20"].max() >= 2
    place = (panel["close"] - panel["down_limit"]) / (panel["up_limit"] - panel["down_limit"])
    same(found["limit_position"], place)


def test_limit_ups_that_opened_below_are_counted_once_the_next_bar_is_there(found, panel):
    """Pins a share over sessions instead of over limit-up closes, and one that looks at the session after today."""

    def share(own):
        close, limit = own["close"].to_numpy(), own["up_limit"].to_numpy()
        opened_below = (own["open"] < own["pre_close"] - 0.005).to_numpy()
        out = np.full(len(own), np.nan)
        for t in range(len(own)):
            if np.isnan(close[t]):
                continue
            fates = []
            for j in range(max(t - 19, 0), t):
                later = [k for k in range(j + 1, t + 1) if not np.isnan(close[k])]
                if abs(close[j] - limit[j]) < 0.005 and later:
                    fates.append(opened_below[later[0]])
            out[t] = np.mean(fates) if fates else np.nan
        return pd.Series(out, own.index)

    same(found["limit_up_opened_below_20"], by_instrument(panel, share))
    assert found["limit_up_opened_below_20"].between(0.2, 0.8).any()
    assert found["limit_up_opened_below_20"].isna().any()


@pytest.mark.parametrize("n", [1, 5, 20])
def test_limit_and_suspension_counts(n, found, panel):
    """Pins crowding at the limit: half a tick of tolerance, touches by the high, suspended days counted as
    no touch."""

    def count(price, limit):
        def formula(own):
            hit = ((own[price] - own[limit]).abs() < 0.005).astype(float)
            return hit.rolling(n, 1).sum().where(own["close"].notna())

        return formula

    assert found["limit_up_closes_20"].max() >= 5
    same(found[f"limit_up_closes_{n}"], by_instrument(panel, count("close", "up_limit")))
    same(found[f"limit_down_closes_{n}"], by_instrument(panel, count("close", "down_limit")))
    same(found[f"limit_up_touches_{n}"], by_instrument(panel, count("high", "up_limit")))
    same(found[f"limit_down_touches_{n}"], by_instrument(panel, count("low", "down_limit")))
    same(
        found["suspended_sessions_20"],
        by_instrument(panel, lambda own: own["suspended"].rolling(20, 1).sum()),
    )
    same(
        found["bars_60"],
        by_instrument(panel, lambda own: own["close"].notna().astype(float).rolling(60, 1).sum()),
    )


def test_limit_up_streak_counts_backwards_from_today(found, panel):
    """Pins a streak that survives a day off the limit or passes its window."""

    def streak(own):
        hit = (own["close"] - own["up_limit"]).abs() < 0.005
        run = hit.groupby((~hit).cumsum()).cumsum().clip(upper=10)
        return run.astype(float).where(own["close"].notna())

    assert found["limit_up_streak_10"].max() == 10
    same(found["limit_up_streak_10"], by_instrument(panel, streak))


@pytest.mark.parametrize("size", ["small", "medium", "large", "extra_large"])
@pytest.mark.parametrize("n", [1, 5, 20])
def test_flow_imbalance_is_sum_over_sum(size, n, found, panel):
    """Pins a mean of ratios in place of the ratio of sums, and a swapped order size."""

    def imbalance(own):
        needed = (n + 1) // 2
        return own[f"flow_{size}"].rolling(n, needed).sum() / own["flow_gross"].rolling(n, needed).sum()

    same(found[f"flow_{size}_{n}"], by_instrument(panel, imbalance))


def test_context_says_what_the_row_says(found, panel):
    """Pins flags: one board at most, age in sessions, valuation flags only where the value is absent."""
    for board in ("main", "chinext", "star", "bse"):
        same(found[f"board_{board}"], panel["board"] == board)
    same(found["listing_age_log"], np.log1p(panel["listing_age"]))
    same(found["listed_under_60"], panel["listing_age"] < 60)
    same(found["is_st"], panel["is_st"])
    same(found["pe_ttm_missing"], panel["pe_ttm"].isna())


def test_cross_section_ranks_eligible_rows_only(found, panel):
    """Pins ranks that include names nobody may buy: average ties, (0, 1], null for the others."""
    eligible = panel[panel["eligible"]]
    ranked = {"market_cap_percentile": "total_mv", "amount_percentile": "amount", "pe_percentile": "pe_ttm"}
    for name, column in ranked.items():
        same(found[name], eligible.groupby("session")[column].rank(pct=True).reindex(panel.index))
    moves = by_instrument(panel, change(5))[panel["eligible"]]
    same(found["return_percentile_5"], moves.groupby(eligible["session"]).rank(pct=True).reindex(panel.index))


def test_buckets_are_deciles_of_the_eligible_names(found, panel):
    """Pins buckets over all names, of one day's amount, from 1 to 10, or that put a tenth of the names at a border."""
    eligible = panel["eligible"]
    amount = by_instrument(panel, lambda own: own["amount"].rolling(20, 10).mean())
    for name, values in (("liquidity_bucket", amount), ("size_bucket", panel["circ_mv"])):
        rank = values[eligible].groupby(panel["session"][eligible]).rank()
        names = values[eligible].groupby(panel["session"][eligible]).transform("count")
        expected = pd.Series(-((-10 * rank) // names) - 1, panel.index)
        same(found[name], expected.reindex(panel.index))
        assert set(found[name].dropna()) <= set(range(10))
        assert {0.0, 9.0} <= set(found[name])


def test_a_bucket_is_a_tenth_of_the_names():
    """Pins deciles of unequal size: of 40 names, all eligible, four each, the smallest in bucket 0."""
    m = market(n_instruments=40, n_sessions=2, gaps=0.0)
    panel = m.panel.with_columns(eligible=pl.lit(True), circ_mv=pl.int_range(pl.len()).cast(pl.Float64) + 1.0)
    one = compute(Market(panel, m.patches, m.intraday).as_of, m.patches.clear(), m.intraday, PLAN, m.sessions[-1:])
    assert one["size_bucket"].to_list() == [float(i // 4) for i in range(40)]
    assert one["liquidity_bucket"].null_count() == 40


@pytest.mark.parametrize("n", [1, 5, 20])
def test_industry_relative_return(n, found, panel):
    """Pins an industry mean over all names, or over another session."""
    moves = by_instrument(panel, change(n)).where(panel["eligible"])
    groups = moves.groupby([panel["session"], panel["industry"]])
    same(found[f"industry_relative_return_{n}"], moves - groups.transform("mean"))
    if n == 1:
        same(found["industry_size"], groups.transform("count").where(moves.notna()))


def test_regime_is_one_number_a_session(found, panel):
    """Pins the market state: means and shares over eligible names, broadcast to every row."""
    session, use = panel["session"], panel["eligible"]

    def over(values, how):
        return values.where(use).groupby(session).transform(how)

    for n in (1, 5):
        moves = by_instrument(panel, change(n))
        same(found[f"market_return_{n}"], over(moves, "mean"))
        same(found[f"dispersion_{n}"], over(moves, "std"))
        same(found[f"breadth_{n}"], over((moves > 0).astype(float).where(moves.notna()), "mean"))
    same(found["market_turnover"], over(panel["turnover"], "mean"))
    at_limit = (
        ((panel["close"] - panel["up_limit"]).abs() < 0.005).astype(float).where(panel["close"].notna())
    )
    same(found["limit_up_share"], over(at_limit, "mean"))
    same(found["risk_appetite"], found["limit_up_share"] - found["limit_down_share"])
    moves, size = by_instrument(panel, change(5)), by_instrument(panel, lambda own: own["circ_mv"].shift(5))
    rank = size.where(use).groupby(session).rank(pct=True)
    same(
        found["style_size_5"], over(moves.where(rank <= 0.3), "mean") - over(moves.where(rank > 0.7), "mean")
    )


def test_market_volatility_follows_todays_names(found, panel):
    """Pins the basket: the daily mean returns of the last 20 sessions of the names eligible today."""
    daily = by_instrument(panel, change(1))
    wide = daily.groupby([panel["session"], panel["instrument"]]).first().unstack()
    for day in wide.index[[30, 60, 99]]:
        rows = (panel["session"] == day).to_numpy()
        names = panel["instrument"][rows & panel["eligible"].to_numpy()]
        expected = wide.loc[:day, names].tail(20).mean(axis=1).std()
        assert found["market_volatility_20"][rows].to_numpy() == pytest.approx(expected, rel=1e-6)


def test_two_names_by_hand():
    """Pins the whole path with numbers a reader can check: 10 -> 11 -> 12.1 with a split, and 20 -> 19 ->
    19."""
    m = market(n_instruments=4, n_sessions=3, gaps=0.0)
    ours = pl.col("instrument").is_in(["600001.SH", "600002.SH"])
    base = m.panel.filter(ours).with_columns(
        close=pl.Series([10.0, 20.0, 11.0, 19.0, 6.05, 19.0]),
        factor=pl.Series([1.0, 1.0, 1.0, 1.0, 2.0, 1.0]),
        industry=pl.lit("one"), eligible=pl.lit(True),
    )  # fmt: skip
    last = compute(
        Market(base, m.patches, m.intraday).as_of, m.patches.clear(), m.intraday, PLAN, [m.sessions[-1]]
    )
    assert last["return_1"].to_list() == pytest.approx([0.1, 0.0], abs=1e-7)
    assert last["industry_relative_return_1"].to_list() == pytest.approx([0.05, -0.05], abs=1e-7)
    assert last["breadth_1"].to_list() == [0.5, 0.5]
    assert last["market_return_1"].to_list() == pytest.approx([0.05, 0.05], abs=1e-7)
