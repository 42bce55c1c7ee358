"""What the multi-path net meets in bad data: absent, dead, thin or unseen input is scored, broken input is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.errors import BadInput, FoldgateError, SchemaError
from pipeline.models.batches import require_batch
from pipeline.models.members import FittedMember, fit_member
from pipeline.models.normaliser import Normaliser
from pipeline.models.prepared import Prepared
from pipeline.models.scoring import MEMBER_FILE, NORMALISER_FILE, load_member
from pipeline.models.spec import MultiPathNetSpec, TowerSpec
from pipeline.studies import STUDIES
from resources.environments import overridden
from tests.models.small_market import HEADS, KEY, MEMBERS, TRAINING, SmallMarket, small_market

MARKET = small_market()
NET = MEMBERS[2].model_copy(update={"epochs": 1})
DAY, EARLIER = MARKET.days[35], MARKET.days[4]  # one is tested, the other fitted on
CHANNELS = MARKET.paths.schema["channels"]
STUDY = next(iter(STUDIES.values()))


def fit(
    market: SmallMarket = MARKET,
    spec: Any = NET,
    heads: Any = HEADS,
    prepared: Prepared | None = None,
    folder: Path | None = None,
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> FittedMember:
    store = market.prepared if prepared is None else prepared
    with TemporaryDirectory() as scratch:
        return fit_member(
            spec,
            TRAINING,
            heads,
            store,
            market.labels,
            market.roles,
            workdir=folder or Path(scratch),
            progress=progress,
        )


@cache
def fitted() -> FittedMember:
    return fit()


def scored(market: SmallMarket, member: FittedMember | None = None) -> pl.DataFrame:
    """Finite scores of the tested day."""
    scorer = load_member((member or fitted()).files)
    scores = scorer.score(market.features, market.eligible, [DAY], market.paths)
    assert np.isfinite(scores.select(pl.selectors.ends_with("_head")).to_numpy()).all()
    assert len(scores) > 0
    return scores


def on(day: Any, then: Any, column: str) -> pl.Expr:
    return pl.when(pl.col("session") == day).then(then).otherwise(pl.col(column)).alias(column)


def with_channels(change: Callable[[np.ndarray], None]) -> pl.DataFrame:
    """The paths with their `[rows, bars, channels]` changed in place."""
    bars = MARKET.paths["channels"].to_numpy().reshape(len(MARKET.paths), 8, 8).copy()
    change(bars)
    return MARKET.paths.with_columns(channels=pl.Series(bars.reshape(len(bars), -1), dtype=CHANNELS))


def test_three_names_train_and_are_scored() -> None:
    """Pins a correlation, a rank or a batch that needs more names than a thin session has."""
    place = pl.col("instrument").rank("dense").over("session")
    thin = pl.when(pl.col("session").is_in([DAY, EARLIER])).then(place <= 3).otherwise("eligible")
    market = replace(MARKET, eligible=MARKET.eligible.with_columns(eligible=thin))
    member = fit(market)
    assert len(scored(market, member)) == 3
    assert member.scores.filter(session=DAY).height == 3


def test_every_kind_of_absent_minutes_is_the_same_absent_day() -> None:
    """Pins a day without bars that is scored as a flat one, or otherwise than a day that the vendor never sent."""
    today = (MARKET.paths["session"] == DAY).to_numpy()

    def silence(bars: np.ndarray) -> None:
        bars[today] = np.nan

    empty = replace(MARKET, paths=with_channels(silence))
    unsent = replace(MARKET, paths=MARKET.paths.filter(pl.col("session") != DAY))
    scorer = load_member(fitted().files)
    tensors = [scorer.inputs(m.features, m.eligible, [DAY], m.paths) for m in (empty, unsent)]
    assert tensors[0].hashes() == tensors[1].hashes()
    assert not tensors[0].tensors(np.arange(len(tensors[0])))["bars"][:, -1].any()
    assert scored(empty).equals(scored(unsent))
    silent = scored(replace(MARKET, paths=MARKET.paths.clear()))
    assert silent["rank_head"].n_unique() == len(silent)
    assert (scored(MARKET)["rank_head"] != scored(unsent)["rank_head"]).mean() > 0.8  # some had no bar anyway


def test_a_category_never_seen_scores_like_a_missing_one() -> None:
    """Pins a new board that takes another one's embedding, or an index beyond the table."""
    star, boards = pl.col("board") == "star", {}
    for name, value in {"unseen": pl.lit("a new board"), "missing": pl.lit(None, pl.String)}.items():
        board = pl.when(star & (pl.col("session") == DAY)).then(value).otherwise("board")
        boards[name] = scored(replace(MARKET, eligible=MARKET.eligible.with_columns(board=board)))
    assert boards["unseen"].equals(boards["missing"])
    known = scored(MARKET)
    moved = known.join(MARKET.eligible.filter(star), on=KEY, how="semi", maintain_order="left")["instrument"]
    differs = known.filter(known["rank_head"] != boards["unseen"]["rank_head"])["instrument"]
    assert set(differs) == set(moved)


def test_constant_inputs_are_switched_off() -> None:
    """Pins a division by a deviation of 0, and a constant of the fit rows that later moves and is multiplied."""

    def market(constant: float, later: float) -> SmallMarket:
        moved = pl.when(pl.col("session") >= DAY).then(later).otherwise(constant).cast(pl.Float32)
        features = MARKET.features.with_columns(market=moved, f1=moved)
        late = (MARKET.paths["session"] >= DAY).to_numpy()

        def flatten(bars: np.ndarray) -> None:
            bars[..., 3] = np.where(np.isnan(bars[..., 3]), np.nan, np.where(late, later, constant)[:, None])

        return replace(MARKET, features=features, paths=with_channels(flatten))

    member = fit(market(0.1, 0.1))
    normaliser = load_member(member.files).normaliser
    assert normaliser.scale == (0.0,)
    assert [i for i, scale in enumerate(normaliser.channel_scale) if scale == 0.0] == [3]
    assert scored(market(0.1, 0.1), member).equals(scored(market(0.1, 1e6), member))


def test_minutes_only_after_the_fit_rows_are_refused() -> None:
    """Pins a path that is fitted on nothing and then reads bars with made-up terms."""
    late = replace(MARKET, paths=MARKET.paths.filter(pl.col("session") >= MARKET.days[30]))
    with pytest.raises(BadInput, match="minute bars on its fit rows"):
        fit(late)


def _broken_store() -> dict[str, Any]:
    values = MARKET.prepared.values.copy()
    values[MARKET.prepared.rows_of([EARLIER])[2], 1] = np.nan
    return {"prepared": replace(MARKET.prepared, values=values)}


def _infinite(table: str, column: str, value: float) -> dict[str, Any]:
    frame = getattr(MARKET, table).with_columns(on(EARLIER, pl.lit(value, pl.Float32), column))
    return {"market": replace(MARKET, **{table: frame})}


def _infinite_bar() -> dict[str, Any]:
    def spoil(bars: np.ndarray) -> None:
        bars[50, 2, 3] = -np.inf

    return {"market": replace(MARKET, paths=with_channels(spoil))}


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (lambda: _infinite("features", "f2", np.inf), "infinite values in .'f2'"),
        (lambda: _infinite("features", "f3", -np.inf), "infinite values in .'f3'"),  # an embedded one
        (lambda: _infinite("features", "market", -np.inf), "infinite values in .'market'"),
        (lambda: _infinite("labels", "fragility", -np.inf), "infinite values in .'fragility'"),
        (lambda: _infinite("labels", "q", 0.5), "probability head q are 0 or 1"),
        (_infinite_bar, r"high_low_range of bar 2, 0000\d\d.SZ on 2024-01"),
        (_broken_store, rf"x\[\d+, 1\] is nan on {EARLIER}"),
    ],
)
def test_what_is_not_finite_is_named_before_any_weight(
    broken: Callable[[], dict[str, Any]], named: str, tmp_path: Path
) -> None:
    """Pins a NaN loss after an hour, or an infinity clipped to a believable number."""
    told: list[str] = []
    with pytest.raises(BadInput, match=named):
        fit(**broken(), folder=tmp_path, progress=lambda what, share: told.append(what))
    assert not told
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"x": np.zeros((3, 2))}, SchemaError, "x: float64 of 3 rows"),
        ({"codes": np.zeros((3, 1), np.float32)}, SchemaError, "codes: float32"),
        ({"x": np.zeros((2, 2), np.float32)}, SchemaError, "x: float32 of 2 rows, 3 targets"),
        ({"bars": np.full((3, 1, 2, 2), np.nan, np.float32)}, BadInput, r"bars\[0, 0, 0, 0\] is nan on today"),
        ({"targets": np.full((3, 1), -np.inf, np.float32)}, BadInput, "infinite on today"),
    ],
)
def test_a_batch_that_breaks_its_contract_is_named(
    change: dict[str, np.ndarray], error: type[FoldgateError], named: str
) -> None:
    """Pins the last door before the weights: types, row counts, values."""
    whole = {"x": np.zeros((3, 2), np.float32), "bars": np.zeros((3, 1, 2, 2), np.float32),
             "codes": np.zeros((3, 1), np.int64), "targets": np.full((3, 1), np.nan, np.float32)}  # fmt: skip
    require_batch({name: whole[name] for name in ("x", "bars", "codes")}, whole["targets"], "today")
    whole |= change
    with pytest.raises(error, match=named):
        require_batch({name: whole[name] for name in ("x", "bars", "codes")}, whole["targets"], "today")


@cache
def narrower() -> FittedMember:
    """A member of a study that lacks one feature, one head and one session of the window."""
    features = MARKET.features.drop("f5")
    spec = NET.model_copy(update={"daily": NET.daily.model_copy(update={"window": 3})})
    scopes = {name: scope for name, scope in MARKET.scopes.items() if name != "f5"}
    return fit(replace(MARKET, features=features, scopes=scopes), spec, HEADS[:-1])


def _card(**changes: Any) -> dict[str, bytes]:
    return {MEMBER_FILE: json.dumps(json.loads(fitted().files[MEMBER_FILE]) | changes).encode()}


def _fewer_bars() -> dict[str, bytes]:
    normaliser = Normaliser.from_json(fitted().files[NORMALISER_FILE])
    return {NORMALISER_FILE: replace(normaliser, bars=4).to_json()}


@pytest.mark.parametrize(
    ("swapped", "error", "named"),
    [
        (lambda: {NORMALISER_FILE: narrower().files[NORMALISER_FILE]}, SchemaError, r"unexpected \['f5'\]"),
        (lambda: {MEMBER_FILE: narrower().files[MEMBER_FILE]}, SchemaError, r"'daily': \(64, 3, 3\).*\(64, 4, 3\)"),
        (lambda: _card(heads=json.loads(narrower().files[MEMBER_FILE])["heads"]), SchemaError, r"4 for \['rank'"),
        (lambda: _card(serving_batch=32), SchemaError, r"'x': \(32, 7\).*'x': \(64, 7\)"),
        (lambda: _card(format=1), BadInput, "observed: 1"),
        (_fewer_bars, SchemaError, "4 bars x 8 channels"),
    ],
    ids=["normaliser", "card", "heads", "batch", "format", "bars"],
)
def test_files_of_another_member_are_refused(
    swapped: Callable[[], dict[str, bytes]], error: type[FoldgateError], named: str
) -> None:
    """Pins scores of a graph that was fed another member's tensors, and the runtime's own words about dimensions."""
    with pytest.raises(error, match=named):
        load_member(fitted().files | swapped()).score(MARKET.features, MARKET.eligible, [DAY], MARKET.paths)


def test_a_normaliser_that_fits_the_tables_but_not_the_graph_is_refused() -> None:
    """Pins the swap that the table's own check cannot see: both are of the narrower study, the graph is not."""
    files = fitted().files | {NORMALISER_FILE: narrower().files[NORMALISER_FILE]}
    with pytest.raises(SchemaError, match=r"'x': \(64, 6\).*'x': \(64, 7\)"):
        load_member(files).score(MARKET.features.drop("f5"), MARKET.eligible, [DAY], MARKET.paths)


def test_a_member_without_its_graph_is_refused() -> None:
    """Pins a KeyError where a file was lost."""
    with pytest.raises(BadInput, match=r"absent: model\.onnx"):
        load_member({name: data for name, data in fitted().files.items() if name != "model.onnx"})


def masked(sessions: slice, *heads: str) -> SmallMarket:
    hidden = pl.col("session").is_in(MARKET.days[sessions])
    labels = MARKET.labels.with_columns(
        pl.when(hidden).then(None).otherwise(pl.col(name)).alias(name) for name in heads
    )
    return replace(MARKET, labels=labels)


def test_a_head_without_truth_on_some_sessions_still_learns() -> None:
    """Pins a NaN mean over no names, in the loss of a fit session or of a tune one."""
    market = masked(slice(0, 12), "rank", "fragility")
    tune = masked(slice(24, 28), "q", "buy_block")
    labels = market.labels.select(*KEY, "rank", "fragility").hstack(tune.labels.select("q", "buy_block"))
    member = fit(replace(MARKET, labels=labels), NET.model_copy(update={"epochs": 3, "uncertainty_weighting": True}))
    scored(MARKET, member)
    assert member.curves.select(pl.all().is_finite().all()).row(0) == (True,) * 4
    assert member.metrics["test"]["rank"]["rank_ic"] > 0.3


def test_a_session_without_any_truth_moves_no_weight() -> None:
    """Pins momentum and decay that step on sessions from which nothing is learned."""
    features = MARKET.features.drop("market")
    scopes = {name: scope for name, scope in MARKET.scopes.items() if name != "market"}
    spec = MultiPathNetSpec(towers=(TowerSpec(name="flow", features=("f0", "f1")),), film=(), hidden=8, epochs=2)
    blank = masked(slice(5, 15), *(head.name for head in HEADS))
    unused = pl.when(pl.col("session").is_in(MARKET.days[5:15])).then(pl.lit("unused")).otherwise("role")
    left_out = replace(MARKET, roles=MARKET.roles.with_columns(role=unused))
    members = [fit(replace(m, features=features, scopes=scopes), spec) for m in (blank, left_out)]
    assert members[0].files == members[1].files
    assert members[0].curves.equals(members[1].curves)


def test_nothing_but_pairs_is_nothing_to_learn_a_rank_from() -> None:
    """Pins a net that is served with the weights it was born with."""
    place = pl.col("instrument").rank("dense").over("session")
    pairs = MARKET.labels.with_columns(rank=pl.when(place <= 2).then(pl.col("rank")))
    with pytest.raises(BadInput, match=r"three names for a rank; observed: none of 22 fit sessions"):
        fit(replace(MARKET, labels=pairs), heads=HEADS[:1])


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"tables": [use.model_dump() for use in STUDY.tables if use.table != "stk_mins"]}, "no table stk_mins"),
        ({"features": [f for f in STUDY.features if f != "flow"]}, r"makes \['flow_extra_large_1'"),
        ({"members.2.execution": ["amihud_20", "tomorrow"]}, r"makes \['tomorrow'\]"),
        ({"members.2.daily.features": ["return_0"]}, r"makes \['return_0'\]"),
        ({"members.2.regime": ["market_return_1", "return_1"]}, r"multi_path: {'return_1': 'instrument'}"),
        ({"members.2.towers": [{"name": "venue", "categories": ["board", "venue"]}]}, r"no category \['venue'\]"),
        ({"features": ["alpha158", "tarot"]}, "tarot"),
    ],
)
def test_a_study_whose_net_reads_what_it_does_not_make_is_refused(overrides: dict[str, Any], named: str) -> None:
    """Pins a typing error that stops the first split, hours after the run began."""
    with pytest.raises(BadInput, match=named):
        overridden(STUDY, overrides)


def test_a_net_that_reads_less_needs_less() -> None:
    """Pins a check that refuses a lawful study: no minutes where no member reads them, every category of the panel."""
    tables = [use.model_dump() for use in STUDY.tables if use.table != "stk_mins"]
    towers = [{"name": "all", "categories": ["board", "industry", "is_st", "limit_up_closes_5"]}]
    study = overridden(STUDY, {"tables": tables, "members.2.intraday": None, "members.2.towers": towers})
    assert study.members[2].layout.categories == ("board", "industry", "is_st", "limit_up_closes_5")
    assert overridden(
        STUDY, {"members": [{"family": "linear"}], "features": ["returns"], "tables": tables}
    ).features == ("returns",)
