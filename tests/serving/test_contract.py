"""The contract: another reader gets the same numbers from it, and no change of a bundle escapes its vectors."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.calibration.calibrators import fit_calibrators
from pipeline.calibration.spec import CalibrationSpec
from pipeline.errors import BadInput, SchemaError
from pipeline.fingerprints import canonical_json
from pipeline.serving.bundle import Bundle, load_bundle, write_bundle
from pipeline.serving.contract import check_conformance, contract_files
from pipeline.serving.parts import Part
from tests.oracles.contract_reader import ContractReader, decision
from tests.serving.small_bundle import bundle_files, bundle_manifest
from tests.serving.small_minute_bundle import KEY, PARTS, minute_files, minute_manifest, minute_research

LINEAR = (Part(PARTS[0].member, "production", 1.0),)
TWICE = (Part(PARTS[0].member, "a", 0.75), Part(PARTS[0].member, "b", 0.25))


def rows() -> pl.DataFrame:
    return minute_research().of_day(minute_research().features)


@cache
def packed(parts: tuple[Part, ...] = PARTS) -> Bundle:
    """With its contract."""
    files, manifest = minute_files(parts), minute_manifest(parts)
    return Bundle("", manifest, files | contract_files(files, manifest, rows))


def vectors(bundle: Bundle) -> dict[str, Any]:
    return json.loads(bundle.files["conformance.json"])


def near(ours: list[float], recorded: list[float], most: float) -> bool:
    return bool(np.all(np.abs(np.subtract(ours, recorded)) <= most * np.maximum(1.0, np.abs(recorded))))


@pytest.mark.parametrize("parts", [LINEAR, TWICE], ids=["one part", "two fits of one member"])
def test_another_reader_reproduces_every_vector(parts: tuple[Part, ...]) -> None:
    """Pins a contract that leaves something out: this reader imports nothing of ours and has no ONNX runtime."""
    bundle = packed(parts)
    reader, body = ContractReader(bundle.files), vectors(bundle)
    assert len(body["vectors"]) >= 32
    for vector in body["vectors"]:
        for part in reader.contract["parts"]:
            name = part["name"]
            assert near(reader.raw(part, vector["features"]), vector["raw"][name], 1e-5)
            assert near(reader.calibrated(part, vector["raw"][name]), vector["calibrated"][name], 1e-9)
        assert near(reader.prediction(vector["calibrated"]), vector["prediction"], 1e-9)
        assert_decided(reader.decision(vector["prediction"]), vector["decision"])


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_another_reader_calibrates_by_other_methods(method: str) -> None:
    """Pins parameters under another name or formula than the contract's words."""
    made = minute_research()
    tune = made.fitted[LINEAR[0].member].scores.filter(pl.col("role") == "tune")
    spec = CalibrationSpec(methods=(method,), min_positives=10)
    fitted = fit_calibrators(tune, made.market.labels, made.market.heads, spec)
    files = minute_files(LINEAR) | {LINEAR[0].calibrators: fitted.to_json()}
    reader = ContractReader(files | contract_files(files, minute_manifest(LINEAR), rows))
    (part,) = reader.contract["parts"]
    assert method in {head["method"] for head in part["calibrators"]["heads"]}
    scored = fitted.apply(tune).select(f"{head}_pred" for head in reader.heads).rows()
    raw = tune.select(f"{head}_head" for head in reader.heads).rows()
    for i in range(0, len(raw), 100):
        assert near(reader.calibrated(part, list(raw[i])), list(scored[i]), 1e-9)


def test_another_reader_decides_the_cases() -> None:
    """Pins thresholds that a strict comparison lets through, ties, caps and switched-off sides elsewhere."""
    for case in vectors(packed())["managerCases"]:
        assert_decided(decision(case["row"], case["positionManager"], case["plan"]), case["decision"])


def assert_decided(ours: dict[str, Any], recorded: dict[str, Any]) -> None:
    assert ours["side"] == recorded["side"]
    assert near([ours["plannedRatio"]], [recorded["plannedRatio"]], 1e-9)
    edges = ours["predictedEdgeBps"], recorded["predictedEdgeBps"]
    assert edges == (None, None) or near([edges[0]], [edges[1]], 1e-9)


@pytest.mark.parametrize(
    ("name", "side", "ratio"),
    [
        ("direction equal to its threshold", None, 0.0),
        ("both pass and are worth the same: LONG", "LONG", 6 / 10 * 0.5 * 0.75 * 0.75),
        ("both pass and are worth nothing: LONG", "LONG", 0.05),
        ("both pass, SHORT is worth more", "SHORT", 0.2),
        ("LONG switched off", None, 0.0),
        ("cap under the minimum: no trade", "LONG", 0.0),
        ("size cut by the loss per trade", "LONG", 0.125),
        ("size between its bounds", "LONG", 0.5 * 5 / 10 * 0.75 * 0.75 * 0.75),
        ("edge of the model where the entry target is an opportunity", "LONG", 4 / 10 * 0.75 * 0.75 * 0.75),
        ("edge under the sizing's minimum: no trade", "LONG", 0.0),
    ],
)
def test_cases_by_hand(name: str, side: str | None, ratio: float) -> None:
    """Pins expectations that are whatever the code says."""
    (case,) = [case for case in vectors(packed())["managerCases"] if case["name"] == name]
    assert case["decision"]["side"] == side
    assert case["decision"]["plannedRatio"] == pytest.approx(ratio, abs=1e-12)


def test_vectors_open_and_do_not_open() -> None:
    """Pins vectors that show one outcome only."""
    ratios = [vector["decision"]["plannedRatio"] for vector in vectors(packed())["vectors"]]
    assert min(ratios) == 0.0
    assert max(ratios) > 0.0


def test_every_file_is_named_with_its_hash() -> None:
    """Pins a reader that takes yesterday's model for today's contract; and the features' order and units."""
    bundle = packed()
    contract = json.loads(bundle.files["contract.json"])
    named = [model for part in contract["parts"] for model in part["models"] if "file" in model]
    named += [block for part in contract["parts"] for model in part["models"] if "file" not in model
              for block in model["blocks"]]  # fmt: skip
    named += [part["calibrators"] for part in contract["parts"]]
    stated = {each["file"]: each["sha256"] for each in named} | contract["files"]
    assert stated == {name: hashlib.sha256(bundle.files[name]).hexdigest() for name in stated}
    unnamed = {name.rpartition("/")[2] for name in bundle.files if name not in stated}
    cards = {f"{model}.json" for model in ("direction", "entry", "continue", "exit", "risk")}
    own = {"member.json", "normaliser.json", "study.json", "policy.json", "ensemble.json", "contract.json"}
    assert unnamed == cards | own
    columns = contract["features"]["columns"]
    assert [column["name"] for column in columns] == bundle.manifest["schema"]
    assert all(column["unit"] and column["formula"] and column["window"] >= 1 for column in columns)


def test_plan_and_manager_stand_beside() -> None:
    """Pins a JSON and a Parquet form of the plan that go apart, and snake case in what others read."""
    bundle = packed()
    plan = json.loads(bundle.files["price_plan_context.json"])
    assert pl.read_parquet(io.BytesIO(bundle.files["price_plan_context.parquet"])).row(0, named=True) == plan
    contract = json.loads(bundle.files["contract.json"])
    assert contract["pricePlanContext"] == plan
    manager = json.loads(bundle.files["position_manager.json"])
    assert contract["positionManager"] == manager
    assert manager["open"]["long"]["minDirectionProb"] == bundle.policy.open.long.min_direction_prob
    assert contract["versions"]["positionManager"]["configHash"] == bundle.policy.config_hash()


def test_a_written_bundle_conforms(tmp_path: Path) -> None:
    """Pins names that a bundle refuses, and a contract that depends on what is added when it is written."""
    bundle = packed()
    written = write_bundle(tmp_path, bundle.files, bundle.manifest)
    assert check_conformance(load_bundle(tmp_path, written.hash)) == []


def edited(name: str, change: Callable[[Any], Any]) -> Bundle:
    bundle = packed()
    body = json.loads(bundle.files[name])
    change(body)
    return Bundle("", bundle.manifest, bundle.files | {name: canonical_json(body).encode()})


def test_any_edited_vector_is_named() -> None:
    """Pins a check that compares a step with itself."""
    part = PARTS[1].name
    head = vectors(packed())["heads"].index("long_entry_prob")

    def off(step: str, by: float) -> Bundle:
        def change(body: Any) -> None:
            values = body["vectors"][3][step]
            (values if step == "prediction" else values[part])[head] += by

        return edited("conformance.json", change)

    for step, by in (("raw", 2e-5), ("calibrated", 2e-9), ("prediction", 2e-9)):
        found = [line for line in check_conformance(off(step, by)) if not line.startswith("contract.json")]
        assert f"vector 3, {step}" in found[0], step
        assert "long_entry_prob" in found[0]
    assert not [line for line in check_conformance(off("raw", 1e-6)) if "vector 3, raw" in line]
    other = edited("conformance.json", lambda body: body["managerCases"][0]["decision"].update(side="SHORT"))
    assert check_conformance(other)[-1] == "case 'opens LONG', decision, side: recorded 'SHORT', now 'LONG'"


def test_another_model_does_not_conform() -> None:
    """Pins weights that were exchanged under an old contract."""
    bundle = packed()
    name = PARTS[0].name
    scorer = bundle.scorers[name]
    other = Bundle("", bundle.manifest, bundle.files)
    other.scorers[name] = replace(scorer, predict=lambda inputs: scorer.predict(inputs) + np.float32(1e-3))
    found = check_conformance(other)
    assert found[0].startswith(f"vector 0, raw {name}, direction_long_prob")


@pytest.mark.parametrize("name", ["contract.json", "price_plan_context.json", "position_manager.json"])
def test_an_edited_statement_does_not_conform(name: str) -> None:
    """Pins a plan or a threshold that others trade by and we do not."""
    assert check_conformance(edited(name, lambda body: body.update(added=1))) == [
        f"{name}: not what the bundle's parts say"
    ]


def test_an_absent_statement_is_named() -> None:
    """Pins a bundle without a contract that passes for one with."""
    files = minute_files()
    assert len(check_conformance(Bundle("", minute_manifest(), files))) == 5


def test_a_bundle_of_sessions_has_no_contract() -> None:
    """Pins rows that are read for nothing, and files that nobody checks."""

    def read() -> pl.DataFrame:
        raise AssertionError

    assert contract_files(bundle_files(), bundle_manifest(), read) == {}
    assert check_conformance(Bundle("", bundle_manifest(), bundle_files())) == []


def test_refusals() -> None:
    """Pins a contract on too little, on holes, or on features in another order than their schema's."""
    files, manifest = minute_files(), minute_manifest()
    with pytest.raises(BadInput, match="at least 32 rows"):
        contract_files(files, manifest, lambda: rows()[:31])
    holed = rows().with_columns(pl.lit(None, pl.Float32).alias(manifest["schema"][2]))
    with pytest.raises(BadInput, match="complete and finite"):
        contract_files(files, manifest, lambda: holed)
    with pytest.raises(SchemaError, match=manifest["schema"][0]):
        contract_files(files, manifest, lambda: rows().select(KEY))
    with pytest.raises(SchemaError, match="order of the schema of minutes"):
        contract_files(files, manifest | {"schema_hash": "0"}, rows)
