"""The input builder: exact ranks, a normaliser of fit rows only, tensors of their own window."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from pipeline.errors import BadInput, KeyViolation, SchemaError
from pipeline.models.inputs import Inputs, build_inputs, fit_normaliser, inputs_of
from pipeline.models.kernels import centred_ranks
from pipeline.models.normaliser import Normaliser
from pipeline.models.prepared import Prepared, open_prepared
from pipeline.models.preparing import Part, prepare, prepare_folder
from pipeline.models.spec import Layout
from tests.models.small_market import BARS, READS, SmallMarket, small_market

MARKET = small_market()
PREPARED = MARKET.prepared
FIT = PREPARED.session_index < 22
LAYOUT = Layout(window=4, daily=("f1", "market", "f3"), intraday_sessions=2, categories=("f3", "board"))
NORMALISER = fit_normaliser(PREPARED, FIT, LAYOUT)


def whole(store: Prepared = PREPARED) -> Inputs:
    return inputs_of(store, NORMALISER, LAYOUT)


def again(**changed: pl.DataFrame) -> Prepared:
    """The market prepared with some of its tables replaced."""
    return replace(MARKET, **changed).prepared


edgy = st.sampled_from([np.nan, 0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.4e38, -3.4e38])
floats = st.one_of(edgy, st.floats(width=32, allow_infinity=False))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(floats, min_size=0, max_size=9), min_size=1, max_size=5))
def test_ranks_equal_scipy(sessions: list[list[float]]) -> None:
    """Pins wrong ties (-0.0, denormals), wrong missing handling and leaks over session borders."""
    values = np.array([v for day in sessions for v in day], np.float32).reshape(-1, 1)
    starts = np.cumsum([0, *map(len, sessions)]).astype(np.int64)
    out = np.full(values.shape, 7.0, np.float32)
    centred_ranks(np.asfortranarray(values).view(np.uint32), starts, out)
    for low, high in pairwise(starts):
        day = values[low:high, 0].astype(np.float64)
        known = ~np.isnan(day)
        expected = np.zeros(high - low)
        expected[known] = (rankdata(day[known]) - 0.5) / max(known.sum(), 1) - 0.5
        np.testing.assert_array_equal(out[low:high, 0], expected.astype(np.float32))


def test_only_eligible_rows_enter_ranks_and_rows() -> None:
    """Pins ranking against names that may not be scored, and rows out of key order."""
    expected = MARKET.eligible.filter("eligible").select("session", "instrument").sort("session", "instrument")
    assert PREPARED.rows.equals(expected)
    day = MARKET.days[5]
    values = expected.filter(session=day).join(MARKET.features, on=["session", "instrument"], maintain_order="left")[
        "f3"
    ]
    known = values.drop_nulls().to_numpy()
    ranks = np.zeros(len(values), np.float32)
    ranks[values.is_not_null().to_numpy()] = (rankdata(known) - 0.5) / len(known) - 0.5
    np.testing.assert_array_equal(PREPARED.values[PREPARED.session_index == 5, 3], ranks)


def test_input_row_order_does_not_matter() -> None:
    """Pins a builder that trusts the order in which files were read."""
    shuffled = again(
        features=MARKET.features.sample(fraction=1.0, shuffle=True, seed=1),
        eligible=MARKET.eligible.sample(fraction=1.0, shuffle=True, seed=2),
        paths=MARKET.paths.sample(fraction=1.0, shuffle=True, seed=3),
    )
    assert whole(shuffled).hashes() == whole().hashes()


def test_tensors_do_not_depend_on_the_call() -> None:
    """Pins research and live tensors that differ: one session from its own window against the whole store."""
    research = whole().hashes()
    for day in (MARKET.days[0], MARKET.days[2], MARKET.days[17], MARKET.days[-1]):
        at = MARKET.days.index(day)
        recent = pl.col("session").is_between(MARKET.days[max(0, at - 3)], day)
        tables = [frame.filter(recent) for frame in (MARKET.features, MARKET.eligible, MARKET.paths)]
        live = build_inputs(tables[0], tables[1], NORMALISER, [day], LAYOUT, tables[2])
        assert live.hashes() == {day.isoformat(): research[day.isoformat()]}


def test_hashes_see_a_single_changed_value_in_the_window() -> None:
    """Pins parity evidence that would not notice a revised value three sessions ago, or one bar of yesterday."""
    before = whole().hashes()
    revised = pl.col("session") == MARKET.days[10]
    features = MARKET.features.with_columns(pl.when(revised).then(-pl.col("f1")).otherwise(pl.col("f1")).alias("f1"))
    after = whole(again(features=features)).hashes()
    changed = [day for day in before if before[day] != after[day]]
    assert changed == [day.isoformat() for day in MARKET.days[10:14]]
    bars = MARKET.paths["channels"].to_numpy().copy()
    place = MARKET.paths.with_row_index().filter(revised)["index"].to_numpy()
    bars[place, 3] += 1.0
    after = whole(
        again(paths=MARKET.paths.with_columns(channels=pl.Series(bars, dtype=MARKET.paths.dtypes[-1])))
    ).hashes()
    changed = [day for day in before if before[day] != after[day]]
    assert changed == [day.isoformat() for day in MARKET.days[10:12]]


def test_windows_equal_a_plain_lookup() -> None:
    """Pins windows that are shifted by a session, or filled where a name was absent."""
    inputs = whole()
    columns = [PREPARED.schema.index(name) for name in LAYOUT.daily]
    at = {key: i for i, key in enumerate(inputs.rows.iter_rows())}
    windows = inputs.tensors(np.arange(len(inputs)))["daily"]
    for (day, name), row in list(at.items())[::37]:
        here = MARKET.days.index(day)
        for step in range(4):
            past = here - 3 + step
            found = at.get((MARKET.days[past], name)) if past >= 0 else None
            expected = np.zeros(4, np.float32) if found is None else np.append(inputs.x[found, columns], np.float32(1))
            np.testing.assert_array_equal(windows[row, step], expected)


def test_normaliser_reads_fit_rows_only_and_survives_json() -> None:
    """Pins a normaliser that has seen test sessions, or whose bits change on the way through the bundle."""
    later = pl.col("session") >= MARKET.days[22]
    changed = MARKET.features.with_columns(
        pl.when(later).then(99.0).otherwise(pl.col("market")).cast(pl.Float32).alias("market")
    )
    bars = MARKET.paths["channels"].to_numpy().copy()
    bars[(MARKET.paths["session"] >= MARKET.days[22]).to_numpy()] = 77.0
    paths = MARKET.paths.with_columns(channels=pl.Series(bars, dtype=MARKET.paths.dtypes[-1]))
    boards = MARKET.eligible.with_columns(board=pl.when(later).then(pl.lit("new")).otherwise("board"))
    assert fit_normaliser(again(features=changed, eligible=boards, paths=paths), FIT, LAYOUT) == NORMALISER
    assert Normaliser.from_json(NORMALISER.to_json()) == NORMALISER
    column = whole().x[FIT, PREPARED.schema.index("market")]
    assert abs(column.mean()) < 1e-5
    assert abs(column.std() - 1.0) < 1e-5


def test_market_features_are_clipped_and_switched_off_when_constant() -> None:
    """Pins an outlier of a live day that runs through the net, and a division by a zero deviation."""
    flat = MARKET.features.with_columns(
        pl.when(pl.col("session") < MARKET.days[22]).then(0.1).otherwise(1e6).cast(pl.Float32).alias("market")
    )
    off = again(features=flat)
    assert not inputs_of(off, fit_normaliser(off, FIT), Layout()).x[:, off.schema.index("market")].any()
    wild = MARKET.features.with_columns(pl.lit(1e30, pl.Float32).alias("market"))
    inputs = whole(again(features=wild))
    assert (inputs.x[:, PREPARED.schema.index("market")] == 5.0).all()


def test_missing_and_constant_features_are_zero() -> None:
    """Pins NaN in a tensor, and a rank invented among equals."""
    features = MARKET.features.with_columns(
        pl.lit(None, pl.Float32).alias("f0"),
        pl.lit(2.5, pl.Float32).alias("f1"),
        pl.lit(float("nan"), pl.Float32).alias("market"),
    )
    prepared = again(features=features)
    inputs = inputs_of(prepared, fit_normaliser(prepared, FIT), Layout())
    assert not inputs.x[:, [0, 1, 6]].any()
    assert np.isfinite(inputs.x).all()


def test_three_names_and_rows_without_features() -> None:
    """Pins a thin session, and an eligible name that the features stage never saw."""
    day, names = date(2024, 5, 6), ["a", "b", "c"]
    eligible = pl.DataFrame({"session": [day] * 3, "instrument": names, "eligible": [True] * 3})
    features = pl.DataFrame(
        {"session": [day] * 2, "instrument": names[:2], "f": [2.0, 1.0]}, schema_overrides={"f": pl.Float32}
    )
    prepared = prepare(features, eligible, {"f": "instrument"})
    np.testing.assert_array_equal(prepared.values[:, 0], np.float32([0.25, -0.25, 0.0]))


def _with_bar(market: SmallMarket, value: float) -> pl.DataFrame:
    bars = market.paths["channels"].to_numpy().copy()
    bars[:, len(READS.channels) + 5] = value
    return market.paths.with_columns(channels=pl.Series(bars, dtype=market.paths.dtypes[-1]))


def _with_fewer_bars(market: SmallMarket) -> pl.DataFrame:
    bars = market.paths["channels"].to_numpy()[:, : (BARS - 1) * len(READS.channels)]
    return market.paths.with_columns(channels=pl.Series(bars, dtype=pl.Array(pl.Float32, bars.shape[1])))


@pytest.mark.parametrize(
    ("break_it", "error", "named"),
    [
        (
            lambda m: replace(m, features=m.features.with_columns(pl.lit(float("inf"), pl.Float32).alias("f2"))),
            BadInput,
            "f2",
        ),
        (
            lambda m: replace(m, features=m.features.with_columns(pl.col("f2").cast(pl.Float64))),
            SchemaError,
            "f2",
        ),
        (lambda m: replace(m, scopes=m.scopes | {"f2": "planet"}), BadInput, "planet"),
        (lambda m: replace(m, features=pl.concat([m.features, m.features[:1]])), KeyViolation, "000000.SZ"),
        (lambda m: replace(m, eligible=pl.concat([m.eligible, m.eligible[:1]])), KeyViolation, "000000.SZ"),
        (lambda m: replace(m, eligible=m.eligible.drop("eligible")), SchemaError, "eligible"),
        (lambda m: replace(m, eligible=m.eligible.drop("board")), SchemaError, "board"),
        (lambda m: replace(m, paths=_with_bar(m, float("inf"))), BadInput, "realised_volatility of bar 1, 0000"),
        (lambda m: replace(m, paths=pl.concat([m.paths, m.paths[:1]])), KeyViolation, "0000"),
        (lambda m: replace(m, paths=_with_fewer_bars(m)), SchemaError, "8 bars x 8 channels"),
    ],
)
def test_bad_features_are_named(break_it, error, named) -> None:
    """Pins silent NaN tensors, doubled rows and mistyped columns."""
    bad = break_it(MARKET)
    with pytest.raises(error, match=named):
        prepare(bad.features, bad.eligible, bad.scopes, READS, bad.paths)


def test_schema_mismatch_unknown_session_and_unknown_sequence_feature() -> None:
    """Pins scoring with the columns of another bundle, and a request beyond the store."""
    renamed = MARKET.features.rename({"f2": "g2"})
    with pytest.raises(SchemaError, match=r"missing \['f2'\], unexpected \['g2'\]"):
        build_inputs(renamed, MARKET.eligible, NORMALISER, MARKET.days[:1])
    with pytest.raises(BadInput, match="2030-01-01"):
        build_inputs(MARKET.features, MARKET.eligible, NORMALISER, [date(2030, 1, 1)])
    with pytest.raises(SchemaError, match="nowhere"):
        inputs_of(PREPARED, NORMALISER, Layout(window=4, daily=("nowhere",))).tensors(np.arange(1))
    with pytest.raises(BadInput, match="fit rows"):
        fit_normaliser(PREPARED, np.zeros(len(PREPARED.values), bool))


def test_minute_bars_equal_a_plain_lookup() -> None:
    """Pins bars of another day or name or with another channel's terms, and absent ones that are not 0."""
    inputs = whole()
    bars = inputs.tensors(np.arange(len(inputs)))["bars"]
    at = {key: i for i, key in enumerate(inputs.rows.iter_rows())}
    stored = {key: np.array(values, np.float32) for *key, values in MARKET.paths.iter_rows() for key in [tuple(key)]}
    mean, scale = (np.array(v, np.float32) for v in (NORMALISER.channel_mean, NORMALISER.channel_scale))
    for (day, name), row in list(at.items())[::41]:
        for step in range(2):
            past = MARKET.days.index(day) - 1 + step
            key = (MARKET.days[past], name) if past >= 0 else None
            raw = stored.get(key, np.full(BARS * 8, np.nan, np.float32)) if key in at else np.full(BARS * 8, np.nan)
            raw = np.asarray(raw, np.float32).reshape(BARS, 8)
            expected = np.nan_to_num(np.clip((raw - mean) / scale, -5, 5))
            np.testing.assert_array_equal(bars[row, step, :, :-1], expected)
            np.testing.assert_array_equal(bars[row, step, :, -1], (~np.isnan(raw)).any(axis=1))


def test_channel_terms_are_those_of_the_fit_rows() -> None:
    """Pins a channel standardised by test rows, by rows that are not eligible, or by missing bars counted as 0."""
    rows = PREPARED.rows.with_columns(fit=pl.Series(FIT)).filter("fit").join(MARKET.paths, on=["session", "instrument"])
    values = rows["channels"].to_numpy().reshape(-1, 8).astype(np.float64)
    np.testing.assert_allclose(NORMALISER.channel_mean, np.nanmean(values, axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(NORMALISER.channel_scale, np.nanstd(values, axis=0), rtol=1e-5)


def test_a_category_never_seen_is_unknown_and_says_nothing_else() -> None:
    """Pins a board that opens after training and takes another one's embedding, or stops the day's scores."""
    later = pl.col("session") >= MARKET.days[30]
    boards = MARKET.eligible.with_columns(
        board=pl.when(later & (pl.col("board") == "star")).then(pl.lit("a new board")).otherwise("board")
    )
    before, after = whole().tensors(np.arange(len(PREPARED)))["codes"], None
    store = again(eligible=boards)
    after = whole(store).tensors(np.arange(len(store)))["codes"]
    moved = (PREPARED.session_index >= 30) & (
        MARKET.prepared.rows.join(MARKET.eligible, on=["session", "instrument"], how="left", maintain_order="left")[
            "board"
        ]
        == "star"
    ).to_numpy()
    assert moved.any()
    assert (after[moved, 1] == 0).all()
    assert (before[:, 1] > 0).all()
    np.testing.assert_array_equal(after[~moved], before[~moved])
    np.testing.assert_array_equal(after[:, 0], before[:, 0])


def test_a_folder_holds_the_same_store(tmp_path) -> None:
    """Pins mapped arrays of a whole market that differ from those in memory, however it is cut into parts."""
    cuts = [MARKET.days[0], MARKET.days[13], MARKET.days[14], MARKET.days[29]]
    parts = [
        Part(
            *(
                frame.filter(pl.col("session").is_between(low, high, closed="left"))
                for frame in (MARKET.features, MARKET.eligible, MARKET.paths)
            )
        )
        for low, high in pairwise([*cuts, date(2030, 1, 1)])
    ]
    prepare_folder(tmp_path, parts, MARKET.scopes, READS)
    mapped = open_prepared(tmp_path, "some identity")
    assert isinstance(mapped.bars, np.memmap)
    assert fit_normaliser(mapped, FIT, LAYOUT) == NORMALISER
    assert whole(mapped).hashes() == whole().hashes()
    mapped.release()
    assert whole(mapped).hashes() == whole().hashes()
    with pytest.raises(BadInput, match="follow each other"):
        prepare_folder(tmp_path, reversed(parts), MARKET.scopes, READS)
    (tmp_path / "bars").write_bytes(b"torn")
    with pytest.raises(BadInput, match="bars: 4 of"):
        open_prepared(tmp_path, "some identity")


def test_a_day_of_minutes_of_another_shape_is_refused_at_scoring() -> None:
    """Pins a market that changed from 48 to 16 bars and is read with the terms of the old ones."""
    other = prepare(MARKET.features, MARKET.eligible, MARKET.scopes, READS._replace(bars=BARS // 2), None)
    with pytest.raises(SchemaError, match="8 a session"):
        whole(other).tensors(np.arange(3))
    silent = MARKET.paths.filter(pl.col("session") >= MARKET.days[30])
    with pytest.raises(BadInput, match="minute bars on its fit rows"):
        fit_normaliser(again(paths=silent), FIT, LAYOUT)
