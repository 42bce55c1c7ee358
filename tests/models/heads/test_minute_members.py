"""Both families of multi-head members on minutes: the laws, replay, bad input, and what scores look like."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest

from pipeline.errors import BadInput, SchemaError
from pipeline.labels.spec import HeadSpec
from pipeline.models.examples import Head
from pipeline.models.heads.outputs import models_of
from pipeline.models.inputs import Inputs
from pipeline.models.members import FittedMember
from pipeline.models.preparing import prepare
from pipeline.models.scoring import load_member
from pipeline.models.spec import MemberSpec
from tests.laws.models import (
    check_probabilities_are_open,
    check_scores_do_not_depend_on_other_sessions,
    check_scores_do_not_depend_on_the_batch,
    check_scores_do_not_see_the_future,
)
from tests.models.heads.small_minutes import (
    FAMILIES,
    FEATURES,
    KEY,
    LINEAR,
    TRAINING,
    TREES,
    SmallMinutes,
    fit,
    small_minutes,
)

MARKET = small_minutes()
SCOPES = dict.fromkeys(FEATURES, "series")
ROOT = Path(__file__).resolve().parents[3]
DIRECTION = [f"direction_{way}_prob_head" for way in ("long", "short", "neutral")]
every_family = pytest.mark.parametrize("spec", FAMILIES, ids=lambda spec: spec.name)


def fit_anew(spec: MemberSpec, market: SmallMinutes = MARKET, training=TRAINING) -> FittedMember:
    with TemporaryDirectory() as folder:
        return fit(spec, market, Path(folder), training)


@cache
def member(place: int) -> FittedMember:
    return fit_anew(FAMILIES[place])


def of(spec: MemberSpec) -> FittedMember:
    return member(FAMILIES.index(spec))


@every_family
def test_laws_of_scores(spec: MemberSpec) -> None:
    """Pins live scores, of one session or one row of any batch, that differ from research's in a bit; look-ahead."""
    scorer = load_member(of(spec).files)
    check_scores_do_not_depend_on_other_sessions(scorer, MARKET.tables, MARKET.days[1:3])
    check_scores_do_not_depend_on_the_batch(scorer, scorer.prepared_inputs(MARKET.prepared))
    check_scores_do_not_see_the_future(scorer, MARKET.tables, MARKET.days[1])
    check_probabilities_are_open(scorer, of(spec).scores)


@every_family
def test_one_live_minute_has_researchs_bits(spec: MemberSpec) -> None:
    """Pins a minute that is scored alone, as a live feed does, to other bits than among its day."""
    scorer = load_member(of(spec).files)
    row = MARKET.features[-7]
    alone = scorer.score(row, row.select(*KEY, eligible=pl.lit(True)), row["session"].to_list())
    assert of(spec).scores.drop("role").join(row.select(KEY), on=KEY, how="semi").equals(alone)


@every_family
def test_scores_are_keyed_by_the_minute(spec: MemberSpec) -> None:
    """Pins a role between the parts of the key, a lost symbol, or scores of purged rows."""
    scores = of(spec).scores
    assert scores.columns[:4] == [*KEY, "role"]
    assert scores.columns[4:] == [f"{head.name}_head" for head in MARKET.heads]
    wanted = MARKET.roles.filter(pl.col("role").is_in(["tune", "test"]))
    assert scores.select(*KEY, "role").equals(wanted)


@every_family
def test_a_softmax_adds_to_one(spec: MemberSpec) -> None:
    """Pins three sigmoids where one choice is asked for, and classes that changed places."""
    probabilities = of(spec).scores.select(DIRECTION).to_numpy().astype(np.float64)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
    for way in ("long", "short"):
        assert of(spec).metrics["test"][f"direction_{way}_prob"]["auc"] > 0.7
    assert of(spec).metrics["test"]["direction"]["accuracy"] > 0.45


@every_family
def test_planted_signals_are_found(spec: MemberSpec) -> None:
    """Pins a head that is fitted on another head's label or on shuffled rows."""
    test = of(spec).metrics["test"]
    assert test["long_entry_prob"]["auc"] > 0.8
    assert test["long_entry_prob"]["brier_ratio"] < 0.95
    assert test["short_expected_net_edge_bps"]["mae_ratio"] < 0.85


@every_family
def test_a_one_class_head_is_its_clipped_prevalence(spec: MemberSpec) -> None:
    """Pins a crash or an invented model where the fit rows hold one class, and a constant that does not say so."""
    name = "liquidity_deterioration_prob"
    assert of(spec).scores[f"{name}_head"].unique().to_list() == [np.float32(1e-6)]
    assert of(spec).metrics["test"][name]["reason"] == "one class only on the fit rows: 0"


@every_family
def test_a_class_that_never_occurs_leaves_a_softmax_of_the_others(spec: MemberSpec) -> None:
    """Pins a market that never stands still: two classes are learned, the third is a constant."""
    labels = MARKET.labels.with_columns(short_target=1 - pl.col("long_target"), neutral_target=pl.lit(0.0, pl.Float32))
    scores = fit_anew(spec, replace(MARKET, labels=labels, heads=MARKET.heads[:3])).scores
    long, short, neutral = scores.select(DIRECTION).to_numpy().astype(np.float64).T
    assert set(neutral) == {np.float32(1e-6)}
    np.testing.assert_allclose(long + short, 1.0, atol=1e-5)
    truth = scores.join(labels, on=KEY, maintain_order="left")["long_target"].to_numpy()
    assert long[truth == 1].mean() > long[truth == 0].mean() + 0.1


@every_family
def test_unseen_rows_leave_no_trace(spec: MemberSpec) -> None:
    """Pins weights, trees or their number that change with purged, tune or test rows."""
    unseen = pl.col("minute") > MARKET.roles.filter(role="fit")["minute"].max()
    names = [c for c, t in MARKET.labels.schema.items() if t == pl.Float32]
    shifted = {"long_target": "short_target", "short_target": "long_target"}
    labels = MARKET.labels.with_columns(
        pl.when(unseen).then(pl.col(shifted.get(c, c)) if c in shifted else c).otherwise(c).alias(c) for c in names
    ).with_columns(pl.when(unseen).then(-3 * pl.col(c)).otherwise(c).alias(c) for c in names if c.endswith("edge_bps"))
    features = MARKET.features.with_columns(
        pl.when(unseen).then(pl.lit(-3) * pl.col(c)).otherwise(c).cast(pl.Float32).alias(c) for c in FEATURES
    )
    assert fit_anew(spec, replace(MARKET, labels=labels, features=features)).files == of(spec).files


def other_process(folder: Path) -> None:
    for spec in FAMILIES:
        for name, data in fit_anew(spec, small_minutes()).files.items():
            (folder / f"{spec.name}.{name}").write_bytes(data)


def test_same_bytes_in_another_process(tmp_path: Path) -> None:
    """Pins unseeded draws, hash-ordered names and thread-dependent sums in a model file."""
    code = (
        "import sys, pathlib, tests.models.heads.test_minute_members as t; t.other_process(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True)
    for spec in FAMILIES:
        for name, data in of(spec).files.items():
            assert (tmp_path / f"{spec.name}.{name}").read_bytes() == data, name


@every_family
def test_a_missing_feature_is_refused_by_name(spec: MemberSpec) -> None:
    """Pins a missing value that a graph would turn into NaN, and trees into a confident number."""
    place = {"fit": 3, "served": len(MARKET.features) - 3}
    with_row = MARKET.features.with_row_index("row")
    holed = {
        where: with_row.with_columns(f2=pl.when(pl.col("row") == row).then(None).otherwise("f2")).drop("row")
        for where, row in place.items()
    }
    with pytest.raises(BadInput, match=r"f2': 1"):
        fit_anew(spec, replace(MARKET, features=holed["fit"]))
    with pytest.raises(BadInput, match=r"complete and finite.*f2': 1"):
        load_member(of(spec).files).score(holed["served"], MARKET.standing, MARKET.days[-1:])


@every_family
def test_inputs_in_another_order_are_refused(spec: MemberSpec) -> None:
    """Pins columns that changed places between fit and service: every number would still look like one."""
    scorer = load_member(of(spec).files)
    swapped = prepare(MARKET.features.select(*KEY, *reversed(FEATURES)), MARKET.standing, SCOPES)
    with pytest.raises(SchemaError, match="in the order of"):
        scorer.predict(Inputs(swapped, scorer.normaliser, scorer.card.layout, np.arange(3)))


def test_trees_are_purged_by_the_spans_of_labels() -> None:
    """Pins early stopping on rows that overlap what the trees grew on, and a silent fit without spans."""
    rows = of(TREES).notes["heads"]["long_entry_prob"]
    fit_rows = MARKET.roles.filter(role="fit")
    stopping = fit_rows.filter(pl.col("minute") >= fit_rows["minute"].sort()[int(len(fit_rows) * 0.85)])
    # the gap of the night lies elsewhere: 45 minutes of two symbols look past the first stopping decision
    assert rows["stopping_rows"] == len(stopping)
    assert rows["grown_rows"] == len(fit_rows) - len(stopping) - 2 * 44
    with pytest.raises(BadInput, match="label_start and label_end"):
        fit_anew(TREES, replace(MARKET, labels=MARKET.labels.drop("label_end")))


def test_labels_of_a_softmax_are_one_hot() -> None:
    """Pins two sides that win at once, half a row of labels, and groups that no model can serve."""
    both = MARKET.labels.with_columns(short_target=pl.lit(1.0, pl.Float32))
    with pytest.raises(BadInput, match="one-hot"):
        fit_anew(LINEAR, replace(MARKET, labels=both))
    half = MARKET.labels.with_columns(short_target=pl.lit(None, pl.Float32))
    with pytest.raises(BadInput, match="one-hot"):
        fit_anew(LINEAR, replace(MARKET, labels=half))
    none = MARKET.labels.with_columns(
        pl.lit(None, pl.Float32).alias(f"{w}_target") for w in ("long", "short", "neutral")
    )
    with pytest.raises(BadInput, match="labels on its fit rows"):
        fit_anew(LINEAR, replace(MARKET, labels=none))
    with pytest.raises(ValueError, match="made of probability heads"):
        HeadSpec(name="a", kind="regression", softmax="g")


def test_a_softmax_belongs_to_one_model() -> None:
    """Pins a choice of one class, one that is spread over two files, and weights that share a name."""
    first = Head("a", "probability", 0.5, model="m", softmax="g")
    for heads in (
        (first,),
        (first, Head("b", "probability", 0.5, model="n", softmax="g")),
    ):
        with pytest.raises(BadInput, match="two heads or more, in one model"):
            models_of(heads)
    with pytest.raises(BadInput, match="not named as a head"):
        models_of((first, Head("g", "probability", 0.5, model="m", softmax="g")))
