"""Serving against research on the same stored rows, and every refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.errors import BadInput, FoldgateError, IncompleteTables, LookAheadError, SchemaError
from pipeline.fingerprints import hash_bytes
from pipeline.frames import canonical
from pipeline.serving.bundle import Bundle, load_bundle, write_bundle
from pipeline.serving.infer import Inference, infer
from pipeline.serving.parity import KEYS, compare
from pipeline.serving.records import write_selection
from tests.models.small_market import MEMBERS
from tests.serving.small_bundle import bundle_files, bundle_manifest, research, with_policy

KEY = ["session", "instrument"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundles"), bundle_files(), bundle_manifest())


def window(day: date | None = None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Feature and panel rows that scoring a day reads."""
    made = research()
    return made.window(made.market.features, day), made.window(made.panel, day)


def served(bundle: Bundle, day: date | None = None) -> Inference:
    return infer(bundle, *window(day), day or research().day, minutes(day))


def minutes(day: date | None = None) -> pl.DataFrame:
    return research().window(research().market.paths, day)


def frames(made: Inference) -> dict[str, pl.DataFrame]:
    return {name: getattr(made, name) for name in KEYS}


@pytest.mark.parametrize("back", [0, 1, 4])
def test_serving_scores_are_the_bits_of_research(back: int, bundle: Bundle) -> None:
    """Pins a live path that pads, ranks, calibrates or averages in another way than research did."""
    made = research()
    day = made.market.days[-1 - back]
    live = served(bundle, day)
    for name, fitted in made.fitted.items():
        recorded = fitted.scores.filter(pl.col("session") == day).drop("role")
        assert live.scores.filter(pl.col("member") == f"{name}@production").drop("member").equals(recorded), name
    expected = made.predictions.filter(pl.col("session") == day)
    assert live.predictions.select(expected.columns).equals(expected)
    chosen = live.orders.select("session", "rank", "instrument", "weight", "score")
    assert chosen.equals(made.orders.filter(pl.col("session") == day))
    assert live.orders["code"].equals(live.orders["instrument"].rename("code"))


def test_tensor_hashes_are_those_of_the_whole_store(bundle: Bundle) -> None:
    """Pins inputs that differ between four sessions read live and forty read in research."""
    made = research()
    tensors = served(bundle).tensors
    assert tensors["member"].to_list() == sorted(bundle.scorers)
    for name, scorer in bundle.scorers.items():
        whole = scorer.inputs(*made.market.tables[:2], made.market.days[-10:], made.market.paths)
        assert tensors.filter(member=name)["hash"].to_list() == [whole.hashes()[made.day.isoformat()]]


def test_a_bundle_read_back_serves_the_same(bundle: Bundle, tmp_path: Path) -> None:
    """Pins anything that lives in the process that wrote it; and frames that change when they are stored."""
    again = write_bundle(tmp_path, bundle_files(), bundle_manifest())
    for name, frame in frames(served(bundle)).items():
        frame.write_parquet(tmp_path / f"{name}.parquet")
    stored = {name: pl.read_parquet(tmp_path / f"{name}.parquet") for name in KEYS}
    report = compare(stored, frames(served(load_bundle(tmp_path, again.hash))))
    assert report.exact, report.first_difference
    assert report.rows == sum(len(frame) for frame in stored.values())


def test_order_of_rows_does_not_matter(bundle: Bundle) -> None:
    """Pins a score that depends on the order in which months were read."""
    features, panel = (frame.sample(fraction=1.0, shuffle=True, seed=4) for frame in window())
    report = compare(
        frames(served(bundle)),
        frames(infer(bundle, features, panel, research().day, minutes().sample(fraction=1.0, shuffle=True, seed=3))),
    )
    assert report.exact, report.first_difference


def test_a_changed_feature_is_traced_to_its_cell(bundle: Bundle) -> None:
    """Pins the whole chain of parity: one feature of one name, and everything that followed from it."""
    features, panel = window()
    name = served(bundle).orders["instrument"][0]
    row = (pl.col("session") == research().day) & (pl.col("instrument") == name)
    revised = features.with_columns(f0=pl.when(row).then(pl.lit(-9.0, pl.Float32)).otherwise("f0"))
    report = compare(frames(served(bundle)), frames(infer(bundle, revised, panel, research().day, minutes())))
    assert report.first_difference is not None
    assert report.first_difference[:3] == ("features", name, "f0")
    different = dict(report.to_frame(research().day).select("asset", "exact").iter_rows())
    assert different == {"panel": True, "paths": True} | dict.fromkeys(
        [k for k in KEYS if k not in ("panel", "paths")], False
    )


def test_a_changed_minute_is_traced_to_its_bar(bundle: Bundle) -> None:
    """Pins a revised minute bar that parity reports as "tensors differ", or only scores that read it notice."""
    features, panel = window()
    name = panel.filter(pl.col("eligible") & (pl.col("session") == research().day))["instrument"].sort()[0]
    paths = minutes().filter(~((pl.col("instrument") == name) & (pl.col("session") == research().day)))
    bars = np.zeros((1, 64), np.float32)
    own = panel.filter((pl.col("instrument") == name) & (pl.col("session") == research().day)).select(
        "session", "instrument"
    )
    live, again = (
        pl.concat([paths, own.with_columns(channels=pl.Series(values, dtype=paths.schema["channels"]))])
        for values in (bars, bars + np.eye(1, 64, 17, dtype=np.float32))
    )
    made = [frames(infer(bundle, features, panel, research().day, side)) for side in (live, again)]
    report = compare(*made)
    assert report.first_difference is not None
    assert report.first_difference[:3] == ("paths", name, "amount_share_02")
    exact = dict(report.to_frame(research().day).select("asset", "exact").iter_rows())
    assert not exact["tensors"]
    assert not exact["scores"]


def test_minutes_of_tomorrow_are_refused(bundle: Bundle) -> None:
    """Pins bars that a decision could not have seen."""
    features, panel = window()
    late = minutes()[:1].with_columns(session=pl.lit(research().day) + pl.duration(days=1))
    with pytest.raises(LookAheadError, match="paths rows of"):
        infer(bundle, features, panel, research().day, pl.concat([minutes(), late]))


def test_parts_are_averaged_in_the_ensembles_order(bundle: Bundle) -> None:
    """Pins float sums over parts in the order of their files: another order, other bits."""
    assert list(bundle.scorers) == [f"{spec.name}@production" for spec in MEMBERS]
    assert list(bundle.calibrators) == list(bundle.scorers)


def test_scores_are_stored_as_they_were_served(bundle: Bundle) -> None:
    """Pins a score of -0.0: storing turns it into 0.0, and parity would never be exact again."""
    negative = Bundle(bundle.hash, bundle.manifest, bundle.files)
    scorer = negative.scorers["linear@production"]
    negative.scorers["linear@production"] = replace(
        scorer, predict=lambda inputs: np.full((len(inputs), 4), -0.0, np.float32)
    )
    for name, frame in frames(served(negative)).items():
        assert frame.equals(canonical(frame, KEYS[name])), name
        values = frame.select(pl.selectors.float()).fill_null(1.0)
        assert not np.signbit(values.to_numpy()[values.to_numpy() == 0.0]).any(), name


def test_what_is_recorded(bundle: Bundle, tmp_path: Path) -> None:
    """Pins a record that differs from the orders, and a rerun that is not idempotent."""
    for _ in range(2):
        path = write_selection(tmp_path, served(bundle).selection(research().day, bundle.hash))
    record = pl.read_csv(path)
    orders = served(bundle).orders
    for column in ("rank", "code", "instrument", "weight", "score", "board", "industry"):
        assert record[column].to_list() == orders[column].to_list(), column
    assert record["bundle"].unique().to_list() == [bundle.hash]


Damage = Callable[[pl.DataFrame, pl.DataFrame], tuple[pl.DataFrame, pl.DataFrame]]
LAST = pl.col("session") == pl.col("session").max()
REFUSALS: dict[str, tuple[Damage, type[FoldgateError], str]] = {
    "reordered schema": (
        lambda f, p: (f.select(*KEY, "f1", "f0", *f.columns[4:]), p), SchemaError, "column 0: .'f1'. given"),
    "absent feature": (lambda f, p: (f.drop("market"), p), SchemaError, r"column 6: \[\] given, .'market'."),
    "extra feature": (lambda f, p: (f.with_columns(new=pl.lit(0.0, pl.Float32)), p), SchemaError, "column 7: .'new'."),
    "wider feature": (lambda f, p: (f.with_columns(pl.col("f0").cast(pl.Float64)), p), SchemaError, "Float32"),
    "panel without tags": (lambda f, p: (f, p.drop("industry")), SchemaError, "industry"),
    "tomorrow's panel": (
        lambda f, p: (f, p.with_columns(pl.col("session") + timedelta(days=1))), LookAheadError, "panel rows of"),
    "tomorrow's features": (
        lambda f, p: (f.with_columns(pl.col("session") + timedelta(days=1)), p), LookAheadError, "features rows of"),
    "session without panel": (lambda f, p: (f, p.filter(~LAST)), IncompleteTables, "3 sessions"),
    "gap in the window": (
        lambda f, p: (f, p.filter(pl.col("session") != p["session"].min())), IncompleteTables, "3 sessions"),
    "no panel": (lambda f, p: (f, p.clear()), IncompleteTables, "0 sessions"),
    "session without features": (lambda f, p: (f.filter(~LAST), p), IncompleteTables, "lack one"),
    "one name without features": (
        lambda f, p: (f.join(p.filter(LAST, "eligible")[:1], on=KEY, how="anti"), p), IncompleteTables, "1 lack one"),
    "infinite feature": (
        lambda f, p: (f.with_columns(f0=pl.lit(float("inf"), pl.Float32)), p), BadInput, "infinite"),
    "no eligible name": (
        lambda f, p: (f, p.with_columns(eligible=pl.col("eligible") & ~LAST)), BadInput, "0 of 30 listed"),
    "nine eligible names": (
        lambda f, p: (f, p.with_columns(eligible=pl.when(LAST).then(pl.col("instrument") <= "000008.SZ")
                                        .otherwise("eligible"))), BadInput, "9 of 30 listed"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case: str, bundle: Bundle) -> None:
    """Pins each input that research never saw and that would nevertheless give a plausible list."""
    damage, error, observed = REFUSALS[case]
    features, panel = damage(*window())
    with pytest.raises(error, match=observed):
        infer(bundle, features, panel, research().day, minutes())


def other_policy(root: Path, **changes: object) -> Bundle:
    return write_bundle(root, with_policy(bundle_files(), **changes), bundle_manifest())


def test_filters_that_refuse_every_name_are_a_refusal(tmp_path: Path) -> None:
    """Pins an empty list recorded as a selection."""
    with pytest.raises(BadInput, match=r"none of \d+ passes"):
        served(other_policy(tmp_path, max_buy_block=1e-9))


def test_filters_may_leave_fewer_names_as_in_research(tmp_path: Path) -> None:
    """Pins a live selector that fills up with names the policy refused; the rest of the cash stays idle."""
    made = served(other_policy(tmp_path, max_fragility_rank=0.15))
    assert 0 < len(made.orders) < 10
    assert made.orders["weight"].unique().to_list() == [0.1]


def test_untrained_weights_cannot_be_packed(tmp_path: Path) -> None:
    """Pins weights of another training under the first one's record."""
    files = bundle_files()
    files["members/linear@production/model.onnx"] = files["members/multi_path@production/model.onnx"]
    with pytest.raises(FoldgateError, match=hash_bytes(files["members/linear@production/model.onnx"])):
        write_bundle(tmp_path, files, bundle_manifest())
