"""The simulated perpetual: everything from the seed, possible minutes and books, a pressure as strong as asked."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy.stats import spearmanr

from pipeline.errors import BadInput
from pipeline.features.minutes.compute import minute_features
from pipeline.frames import Hindsight
from pipeline.labels.path_outcomes import path_outcomes
from pipeline.labels.price_plan import PricePlan
from pipeline.simulation.perpetual import PerpetualMarket, simulate_perpetual
from pipeline.simulation.perpetual_oracle import forward_return, rank_correlation
from pipeline.simulation.perpetual_profiles import PERPETUALS, PerpetualFaults, contract_of
from pipeline.tables.binance import BOOK_1M, BOOK_LEVELS, EXCHANGE_INFO, FUNDING_RATE, KLINES_1M
from pipeline.tables.binance_rows import check_klines, minute_gaps
from pipeline.tables.books import level_arrays, minute_books

BTC, ETH, COIN = "BTCUSDT", "ETHUSDT", "DOTUSDT"
TABLES = {"klines": KLINES_1M, "books": BOOK_1M, "funding": FUNDING_RATE}


@pytest.fixture(scope="module")
def tiny() -> PerpetualMarket:
    return simulate_perpetual(PERPETUALS["tiny"])


@pytest.fixture(scope="module")
def three() -> PerpetualMarket:
    """Three symbols, two faults of each kind."""
    faults = PerpetualFaults(outages=2, republished=2, missing_book_days=2, flat_minutes=50)
    values = {"symbols": (BTC, ETH, COIN), "days": 10, "signal": 0.0, "faults": faults}
    return simulate_perpetual(PERPETUALS["tiny"].model_copy(update=values))


@pytest.fixture(scope="module")
def demo() -> PerpetualMarket:
    return simulate_perpetual(PERPETUALS["demo"])


@pytest.fixture(scope="module")
def null() -> PerpetualMarket:
    """Half a year in which nothing is planted."""
    return simulate_perpetual(PERPETUALS["demo"].model_copy(update={"signal": 0.0}))


def feature_inputs(market: PerpetualMarket, start: date, end: date) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Bars, books and funding as the feature room reads them."""
    books = level_arrays(market.books(BTC, start, end))
    spread = pl.col("ask_price").arr.first() / pl.col("bid_price").arr.first() - 1.0
    bars = market.klines(BTC, start, end).select(
        pl.col("symbol").alias("instrument"), pl.col("open_time").dt.replace_time_zone("UTC").alias("minute"),
        "open", "high", "low", "close", "volume", "quote_volume", pl.col("count").alias("trades"), "taker_buy_volume",
    ).join(books.select("minute", (spread * 1e4).alias("spread_bps")), on="minute", how="left", maintain_order="left")
    funding = market.funding(BTC, start, end).select(
        pl.col("symbol").alias("instrument"), pl.col("calc_time").alias("funding_time"),
        pl.col("last_funding_rate").alias("rate"), pl.col("funding_interval_hours").alias("interval_hours"),
    )  # fmt: skip
    return bars, books, funding


@pytest.mark.parametrize("table", TABLES)
def test_equal_profiles_give_equal_tables(tiny: PerpetualMarket, table: str) -> None:
    """Pins randomness from anywhere but the seed."""
    again = PerpetualMarket(tiny.profile, tiny.strength)
    assert_frame_equal(getattr(tiny, table)(BTC), getattr(again, table)(BTC), check_exact=True)
    other = PerpetualMarket(tiny.profile.model_copy(update={"seed": 1}), tiny.strength)
    assert not getattr(tiny, table)(BTC).equals(getattr(other, table)(BTC))


@pytest.mark.parametrize("table", TABLES)
def test_a_day_does_not_depend_on_what_is_asked_with_it_or_before_it(tiny: PerpetualMarket, table: str) -> None:
    """Pins draws that run on from one request to the next: a month made on demand must be the same month."""
    day = tiny.days[4]
    alone = getattr(PerpetualMarket(tiny.profile, tiny.strength), table)(BTC, day, day)
    event = pl.col(str(TABLES[table].event)).dt.date()
    assert alone.height > 0
    assert_frame_equal(getattr(tiny, table)(BTC).filter(event == day), alone, check_exact=True)


def test_symbols_do_not_depend_on_each_other(three: PerpetualMarket) -> None:
    """Pins draws by position: a symbol more, or in another order, must change nothing of the others."""
    fewer = PerpetualMarket(three.profile.model_copy(update={"symbols": (COIN, ETH)}), three.strength)
    for table in TABLES:
        assert_frame_equal(getattr(fewer, table)(ETH), getattr(three, table)(ETH), check_exact=True)
    moves = [np.diff(np.log(three.klines(s)["close"].to_numpy()[:3_000])) for s in (BTC, ETH, COIN)]
    assert np.abs(np.corrcoef(moves) - np.eye(3)).max() < 0.1


@pytest.mark.parametrize("symbol", [BTC, ETH, COIN])
def test_candles_are_possible_and_on_their_grid(three: PerpetualMarket, symbol: str) -> None:
    """Pins bars that no exchange could print; the client's own checks run too."""
    rows, grid = three.klines(symbol), contract_of(symbol)
    check_klines(rows.drop("published_at"))
    low, high = rows["low"], rows["high"]
    assert ((low <= rows["open"]) & (rows["open"] <= high) & (low <= rows["close"]) & (rows["close"] <= high)).all()
    assert (rows["taker_buy_volume"] <= rows["volume"]).all()
    assert ((rows["quote_volume"] >= rows["volume"] * low * (1 - 1e-9) - 1e-5)
            & (rows["quote_volume"] <= rows["volume"] * high * (1 + 1e-9) + 1e-5)).all()
    for name, unit in [("open", grid.ticks), ("close", grid.ticks), ("high", grid.ticks), ("volume", grid.steps)]:
        values = rows[name].to_numpy() * unit
        assert np.abs(values - np.round(values)).max() < 1e-4, name
    assert (rows["published_at"].dt.replace_time_zone(None) > rows["close_time"]).all()


@pytest.mark.parametrize("symbol", [BTC, ETH, COIN])
def test_books_are_uncrossed_sorted_and_bracket_the_close(three: PerpetualMarket, symbol: str) -> None:
    """Pins books that the import would drop or cut, and quotes that lie beside the last trade."""
    books = three.books(symbol)
    kept, counts = minute_books(books.drop("symbol", "minute", "published_at"), symbol)
    assert counts.faultless
    assert_frame_equal(kept, books.drop("published_at"), check_exact=True)
    levels = level_arrays(books)
    bid, ask = levels["bid_price"].to_numpy(), levels["ask_price"].to_numpy()
    assert bid.shape[1] == BOOK_LEVELS
    assert (np.diff(bid) < 0).all()
    assert (np.diff(ask) > 0).all()
    close = three.klines(symbol).join(books.select(pl.col("minute").alias("open_time")), on="open_time")["close"]
    assert (bid[:, 0] <= close.to_numpy()).all()
    assert (close.to_numpy() <= ask[:, 0]).all()


def test_funding_switches_its_interval_and_its_stamps_come_late(tiny: PerpetualMarket) -> None:
    """Pins an interval that a reader could assume, and stamps without the jitter that real ones have."""
    rows = tiny.funding(BTC)
    hours = rows["calc_time"].diff().dt.total_hours()
    assert (hours.drop_nulls() == rows["funding_interval_hours"][1:]).all()
    assert set(rows["funding_interval_hours"]) == {8, 4}
    assert (rows["funding_interval_hours"].diff().drop_nulls() != 0).sum() == 1
    late = (rows["published_at"].dt.replace_time_zone(None) - rows["calc_time"]).dt.total_milliseconds()
    assert late.min() >= 0  # type: ignore[operator]
    assert 3 <= late.max() <= tiny.profile.faults.funding_jitter_ms  # type: ignore[operator]
    assert [tiny.funding_hours(rows["published_at"][i]) for i in (0, -1)] == [8, 4]


def test_tables_have_the_vendors_columns_and_keys(three: PerpetualMarket) -> None:
    """Pins a column or type that the vendor does not sell."""
    for table, spec in TABLES.items():
        rows = pl.concat([getattr(three, table)(symbol) for symbol in sorted(three.profile.symbols)])
        assert rows.columns == [*spec.names, "published_at"]
        assert rows.drop("published_at").schema == spec.schema
        spec.check(rows.drop("published_at"))
    contracts = three.exchange_info()
    EXCHANGE_INFO.check(contracts.drop("published_at"))
    assert contracts["tick_size"].to_list() == [0.1, 0.001, 0.01]


def test_faults_are_where_the_market_says(three: PerpetualMarket) -> None:
    """Pins faults that are counted and not there: gaps, flat rows, missing days of books."""
    said = three.faults.group_by("symbol", "kind").len()
    assert said.height == 9
    assert set(said["len"]) == {2}
    for symbol in three.profile.symbols:
        own = three.faults.filter(pl.col("symbol") == symbol)
        gaps = minute_gaps(three.klines(symbol), three.days[0], three.days[-1])
        outages = own.filter(pl.col("kind") == "outage")
        assert sorted(gaps["first_missing"].dt.date()) == sorted(outages["day"])
        assert set(gaps["minutes"]) == {80}
        bookless = set(own.filter(pl.col("kind") == "bookless")["day"])
        assert set(three.days) - set(three.books(symbol)["minute"].dt.date()) == bookless
        flat = three.klines(symbol).filter(pl.col("volume") == 0)
        assert 40 <= flat.height <= 50
        assert (flat["high"] == flat["low"]).all()
        assert flat.select((pl.col("count") == 0) & (pl.col("taker_buy_volume") == 0)).to_series().all()


def test_minutes_move_like_those_of_a_perpetual(null: PerpetualMarket) -> None:
    """Pins a market in which barriers of 12 and 8 bps mean something else: real BTCUSDT minutes of 2023 have
    volatility 5.9 bps, kurtosis 135, |return| correlated by 0.41 / 0.31 / 0.19 after 1 / 5 / 60 minutes, and taker
    imbalance of deviation 0.40, correlated by 0.38 with the minute's own return and by 0.02 with the next."""
    rows = null.klines(BTC)
    moves = np.diff(np.log(rows["close"].to_numpy())) * 1e4
    size = np.abs(moves)
    assert 6.0 < moves.std() < 8.0
    assert np.mean(moves**4) / moves.var() ** 2 > 20
    after = [float(np.corrcoef(size[lag:], size[:-lag])[0, 1]) for lag in (1, 5, 60, 1440)]
    assert after == sorted(after, reverse=True)
    assert after[0] > 0.2
    assert after[-1] > 0.05
    assert abs(np.corrcoef(moves[1:], moves[:-1])[0, 1]) < 0.02
    taker = (2 * rows["taker_buy_volume"] / rows["volume"] - 1).fill_nan(0.0).to_numpy()
    assert 0.35 < taker.std() < 0.45
    assert 0.25 < np.corrcoef(taker[1:], moves)[0, 1] < 0.45
    hour = rows["open_time"].dt.hour().to_numpy()[1:]
    assert size[hour == 14].mean() > 1.5 * size[hour == 3].mean()


def test_planted_rank_correlation_is_the_profiles(demo: PerpetualMarket) -> None:
    """Pins a signal stronger or weaker than the profile says, by which every power figure would be wrong; measured
    with another program over the oracle's rows."""
    assert demo.oracle_rank_ic == pytest.approx(demo.profile.signal, abs=0.0015)
    rows = demo.oracle.drop_nulls()
    assert spearmanr(rows["signal"], rows["forward_return_bps"]).statistic == pytest.approx(demo.oracle_rank_ic)


def test_a_short_market_is_planted_like_a_long_one(tiny: PerpetualMarket, demo: PerpetualMarket) -> None:
    """Pins a strength that makes up for the luck of six days; that luck has a deviation of 0.06 between seeds."""
    longer = simulate_perpetual(demo.profile.model_copy(update={"signal": tiny.profile.signal,
                                                                "faults": tiny.profile.faults}))
    assert tiny.strength == longer.strength
    assert tiny.oracle_rank_ic == pytest.approx(tiny.profile.signal, abs=0.12)


def test_the_oracles_return_is_that_of_the_published_closes(tiny: PerpetualMarket) -> None:
    """Pins an oracle that pays over minutes which nobody could trade, or across an outage."""
    closes = tiny.klines(BTC).select(pl.col("open_time").dt.replace_time_zone("UTC").alias("minute"), "close")
    horizon = tiny.profile.horizon
    later = closes.select(pl.col("minute") - pl.duration(minutes=horizon), pl.col("close").alias("then"))
    joined = tiny.oracle.join(closes, on="minute").join(later, on="minute", how="left")
    expected = (joined["then"] / joined["close"] - 1.0) * 1e4
    known = joined["forward_return_bps"].is_not_null()
    assert joined.height == tiny.oracle.height
    assert np.allclose(expected.filter(known), joined["forward_return_bps"].filter(known))
    # Missing: the last 45 minutes, and the 45 before the outage.
    assert (~known).sum() == 2 * horizon
    assert expected.filter(~known).null_count() == 2 * horizon


def test_nothing_planted_nothing_found(null: PerpetualMarket) -> None:
    """Pins a null market in which the past predicts: flow, depth and momentum must leave no trade behind.

    The rank correlation of one persistent feature over half a year has a deviation of about 0.015 between seeds.
    """
    assert null.strength == 0.0
    assert abs(null.oracle_rank_ic) < 0.045
    start, end = null.days[20], null.days[79]
    features = minute_features(*feature_inputs(null, start, end))
    rows = features.join(null.oracle, on=["session", "instrument", "minute"])
    names = ["ret_1m_bps", "ret_15m_bps", "taker_imbalance_1m", "taker_imbalance_5m", "depth_imbalance_l1",
             "depth_imbalance_l20", "ofi_l1_1m", "mlofi_l20_5m", "book_microprice_basis_bps"]
    found = {name: _rank_ic(rows, name, "forward_return_bps") for name in names}
    assert max(abs(value) for value in found.values()) < 0.08, found
    # The very next minute has 45 times as many independent returns.
    nearer = rows.with_columns((pl.col("ret_1m_bps").shift(-1)).alias("next"))
    found = {name: _rank_ic(nearer, name, "next") for name in names}
    assert max(abs(value) for value in found.values()) < 0.015, found


def test_the_pressure_can_be_read_from_order_flow(demo: PerpetualMarket) -> None:
    """Pins a signal that no honest feature could find: takers, depth and order-flow imbalance all tell of it."""
    features = minute_features(*feature_inputs(demo, demo.days[60], demo.days[89]))
    rows = features.join(demo.oracle, on=["session", "instrument", "minute"])
    seen = {name: _rank_ic(rows, name, "signal") for name in
            ("taker_imbalance_1m", "taker_imbalance_15m", "depth_imbalance_l20", "ofi_l1_15m", "mlofi_l20_5m")}
    assert seen["depth_imbalance_l20"] > 0.5, seen
    assert seen["taker_imbalance_15m"] > 0.6, seen
    assert seen["taker_imbalance_1m"] > 0.3, seen
    assert seen["ofi_l1_15m"] > 0.2, seen
    assert seen["mlofi_l20_5m"] > 0.15, seen


def test_the_pressure_pays_after_the_close_and_within_the_horizon(demo: PerpetualMarket) -> None:
    """Pins a drift inside the minute that tells of it, where nobody could earn it, or one that outlasts its horizon."""
    rows = demo.klines(BTC).select(pl.col("open_time").dt.replace_time_zone("UTC").alias("minute"), "close")
    joined = demo.oracle.join(rows, on="minute")
    strong = joined["signal"].abs() > 2.5
    direction = joined["signal"].sign()

    def gained(first: int, last: int) -> float:
        move = (joined["close"].shift(-last) / joined["close"].shift(-first) - 1.0) * 1e4 * direction
        return float(move.filter(strong).mean() or 0.0)  # type: ignore[arg-type]

    assert gained(0, 15) > 3 * abs(gained(150, 165))
    assert gained(0, 15) > gained(15, 30) > gained(30, 45) > 0


def test_the_best_minutes_earn_more_than_they_cost(demo: PerpetualMarket, null: PerpetualMarket) -> None:
    """Pins a demo in which even the oracle could not trade: with 12 / 8 over 45 minutes the best hundredth of minutes,
    with the dynamic default the best twentieth; without a plant nothing does."""
    fixed, dynamic = PricePlan(), PricePlan(entry_plan_method="DYNAMIC_TRAILING_V1")
    assert _net(demo, fixed, 0.01) > 0.5
    assert _net(demo, dynamic, 0.05) > 0.5
    assert _net(null, fixed, 0.01) < -5.0
    assert _net(null, dynamic, 0.05) < -5.0


def _net(market: PerpetualMarket, plan: PricePlan, share: float) -> float:
    """Mean net edge in bps of the plan over the share of minutes with the highest and with the lowest signal."""
    bars = market.klines(BTC).select(
        pl.col("open_time").dt.date().alias("session"), pl.col("symbol").alias("instrument"),
        pl.col("open_time").dt.replace_time_zone("UTC").alias("minute"), "high", "low", "close",
        pl.lit(None, dtype=pl.Float64).alias("spread_bps"),
    )
    rows = path_outcomes(Hindsight(bars), plan).join(market.oracle, on=["session", "instrument", "minute"])
    signal = rows["signal"].to_numpy()
    low, high = np.quantile(signal, [share, 1 - share])
    gross = [rows["long_gross_edge_bps"].to_numpy()[signal >= high],
             rows["short_gross_edge_bps"].to_numpy()[signal <= low]]
    return float(np.concatenate(gross).mean()) - plan.cost_bps


def _rank_ic(rows: pl.DataFrame, a: str, b: str) -> float:
    pair = rows.select(a, b).drop_nulls()
    assert pair.height > 10_000
    return float(spearmanr(pair[a], pair[b]).statistic)


@pytest.mark.parametrize("seed", range(3))
def test_ranks_and_forward_returns_equal_slow_ones(seed: int) -> None:
    """Pins ties, NaN and gaps in the oracle's own arithmetic."""
    rng = np.random.default_rng(seed)
    close = rng.integers(5, 12, 80).astype(float)
    sold = rng.random(80) > 0.03
    got = forward_return(close, sold, 4)
    for t in range(80):
        whole = t + 4 < 80 and sold[t : t + 5].all()
        assert np.isnan(got[t]) != whole
        if whole:
            assert got[t] == pytest.approx((close[t + 4] / close[t] - 1) * 1e4)
    signal, there = rng.integers(0, 6, 80).astype(float), np.isfinite(got)
    assert rank_correlation(signal, got) == pytest.approx(spearmanr(signal[there], got[there]).statistic)


@pytest.mark.parametrize(("change", "rule"), [
    ({"symbols": ("BTCUSDT", "BTCUSDT")}, "distinct"),
    ({"symbols": ("../../etc",)}, "USDT"),
    ({"faults": {"outages": 4}}, "day of its own"),
])
def test_bad_profiles_are_told(change: dict[str, object], rule: str) -> None:
    """Pins symbols that become paths, and faults that fall on one another."""
    profile = PERPETUALS["tiny"]
    with pytest.raises(BadInput, match=rule):
        type(profile).model_validate(profile.model_dump() | change)


def test_unreachable_targets_and_unknown_symbols_are_told(tiny: PerpetualMarket) -> None:
    """Pins a market that plants less than asked without a word."""
    with pytest.raises(BadInput, match="reachable"):
        simulate_perpetual(tiny.profile.model_copy(update={"signal": 0.59}))
    with pytest.raises(BadInput, match="simulated"):
        tiny.klines("LUNAUSDT")
    assert tiny.klines(BTC, tiny.days[-1] + timedelta(days=3), tiny.days[-1] + timedelta(days=9)).is_empty()
