"""Vectors for a runtime that is not ours: rows and what each step of a bundle makes of them, and cases of the manager.

Each step starts from the recorded values of the step before, so that a difference names its own step. What the
steps are is `contract`'s to say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from pipeline.calibration.averaging import average_members
from pipeline.errors import BadInput
from pipeline.fingerprints import canonical_json
from pipeline.frames import require_columns
from pipeline.positions.manager import decide, predicted_edges
from pipeline.positions.manager_spec import ManagerConfig, PlanNumbers
from pipeline.serving.bundle import Bundle
from pipeline.serving.infer import part_scores, prepared
from pipeline.serving.manager_cases import manager_cases
from pipeline.serving.selecting import Decision, ManagerSelector, decisions

FORMAT = 1
LEAST = 32  # vectors there must be
SPREAD, OPENED = 48, 48  # vectors spread evenly over the rows; further ones that open a position, as far as there are
RAW, REST = 1e-5, 1e-9  # tolerances, relative beyond 1
Vector = dict[str, Any]


def conformance(bundle: Bundle, selector: ManagerSelector, rows: pl.DataFrame) -> bytes:
    """`conformance.json`.

    Parameters
    ----------
    bundle : Bundle
    selector : ManagerSelector
        The bundle's.
    rows : DataFrame
        Key and the bundle's features, complete; at least 32 rows.

    Raises
    ------
    BadInput, SchemaError
        Fewer rows, a feature that is missing or absent.
    """
    key, schema = bundle.row_key, bundle.manifest["schema"]
    require_columns(rows, (*key, *schema), "conformance vectors")
    if len(rows) < LEAST:
        raise BadInput(f"a contract is shown on at least {LEAST} rows", len(rows), "hand in a day of features")
    rows = rows.select(*key, *schema).sort(key)
    vectors = _vectors(bundle, selector, rows)
    body = {
        "format": FORMAT,
        "tolerance": {"raw": RAW, "rest": REST, "rule": "|ours - recorded| <= tolerance * max(1, |recorded|)"},
        "rule": "raw is made of features, calibrated of raw, prediction of calibrated, decision of prediction",
        "features": list(schema),
        "heads": [head.name for head in bundle.heads],
        "parts": list(bundle.scorers),
        "vectors": [vectors[i] for i in _chosen(vectors)],
        "managerCases": _cases(),
    }
    return canonical_json(body).encode()


def differences(bundle: Bundle, selector: ManagerSelector, recorded: bytes) -> list[str]:
    """Every value of a `conformance.json` that the bundle does not give again, step by step; empty when it conforms."""
    body = json.loads(recorded)
    found = [
        f"{name} are {body[name]}, the bundle's {own}"
        for name, own in {
            "format": FORMAT,
            "features": list(bundle.manifest["schema"]),
            "heads": [head.name for head in bundle.heads],
            "parts": list(bundle.scorers),
        }.items()
        if body[name] != own
    ]
    if found:
        return found
    return [*_vector_differences(bundle, selector, body["vectors"]), *_case_differences(body["managerCases"])]


def _vectors(bundle: Bundle, selector: ManagerSelector, rows: pl.DataFrame) -> list[Vector]:
    """One per row, in its order."""
    raw = _raw(bundle, rows)
    calibrated = {name: _calibrated(bundle, name, frame) for name, frame in raw.items()}
    predictions = _averaged(bundle, selector, calibrated)
    decided = decisions(selector.decided(predictions))
    parts = {name: _listed(frame, "_head") for name, frame in raw.items()}
    served = {name: _listed(frame, "_pred") for name, frame in calibrated.items()}
    final, features = _listed(predictions, "_pred"), rows.select(bundle.manifest["schema"]).rows()
    return [
        {
            "instrument": rows["instrument"][i],
            "minute": rows["minute"][i].isoformat(),
            "features": list(features[i]),
            "raw": {name: values[i] for name, values in parts.items()},
            "calibrated": {name: values[i] for name, values in served.items()},
            "prediction": final[i],
            "decision": _decision(decided[i]),
        }
        for i in range(len(rows))
    ]


def _chosen(vectors: Sequence[Vector]) -> list[int]:
    """Spread over the rows; and rows that open a position, spread over those."""
    opening = [i for i, vector in enumerate(vectors) if vector["decision"]["plannedRatio"] > 0.0]
    picked = {places[i] for places, most in ((range(len(vectors)), SPREAD), (opening, OPENED))
              for i in np.unique(np.linspace(0, len(places) - 1, most).astype(int)) if len(places)}  # fmt: skip
    return sorted(picked)


def _raw(bundle: Bundle, rows: pl.DataFrame) -> dict[str, pl.DataFrame]:
    standing = rows.select(*bundle.row_key, eligible=pl.lit(True))
    store = prepared(bundle, rows, standing, rows.select(bundle.row_key).clear())
    return {name: raw for name, _, raw in part_scores(bundle, store)}


def _calibrated(bundle: Bundle, part: str, raw: pl.DataFrame) -> pl.DataFrame:
    served = bundle.calibrators[part].apply(raw)
    return served.select(*bundle.row_key, *(f"{head.name}_pred" for head in bundle.heads))


def _averaged(bundle: Bundle, selector: ManagerSelector, calibrated: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    return average_members(list(calibrated.values()), bundle.heads, selector.alpha, bundle.weights)


def _listed(frame: pl.DataFrame, ending: str) -> list[list[float]]:
    return [list(row) for row in frame.select(pl.selectors.ends_with(ending)).iter_rows()]


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "side": decision.side,
        "plannedRatio": decision.planned_ratio,
        "predictedEdgeBps": decision.predicted_edge_bps,
    }


def _vector_differences(bundle: Bundle, selector: ManagerSelector, vectors: Sequence[Vector]) -> Iterator[str]:
    keys = pl.DataFrame(
        {
            "instrument": [vector["instrument"] for vector in vectors],
            "minute": pl.Series([vector["minute"] for vector in vectors]).str.to_datetime("%+", time_unit="us"),
        }
    ).select(pl.col("minute").dt.date().alias("session"), "instrument", "minute")
    heads = [head.name for head in bundle.heads]

    def frame(values: Sequence[Sequence[float]], names: Sequence[str], kind: type[pl.DataType]) -> pl.DataFrame:
        return keys.hstack(pl.DataFrame(values, schema=dict.fromkeys(names, kind), orient="row"))

    recorded = {
        part: {step: [vector[step][part] for vector in vectors] for step in ("raw", "calibrated")}
        for part in bundle.scorers
    }
    raw = _raw(bundle, frame([vector["features"] for vector in vectors], bundle.manifest["schema"], pl.Float32))
    served: dict[str, pl.DataFrame] = {}
    for part, steps in recorded.items():
        yield from _unlike(f"raw {part}", heads, _listed(raw[part], "_head"), steps["raw"], RAW)
        again = _calibrated(bundle, part, frame(steps["raw"], [f"{head}_head" for head in heads], pl.Float32))
        yield from _unlike(f"calibrated {part}", heads, _listed(again, "_pred"), steps["calibrated"], REST)
        served[part] = frame(steps["calibrated"], [f"{head}_pred" for head in heads], pl.Float64)
    predictions = [vector["prediction"] for vector in vectors]
    mean = _listed(_averaged(bundle, selector, served), "_pred")
    yield from _unlike("prediction", heads, mean, predictions, REST)
    decided = decisions(selector.decided(frame(predictions, [f"{head}_pred" for head in heads], pl.Float64)))
    for i, (ours, vector) in enumerate(zip(decided, vectors, strict=True)):
        yield from _unlike_decision(f"vector {i}", _decision(ours), vector["decision"])


def _unlike(
    what: str, heads: Sequence[str], ours: Sequence[Sequence[float]], recorded: Sequence[Sequence[float]], most: float
) -> Iterator[str]:
    """The values beyond the tolerance; a NaN is beyond any."""
    one, other = np.array(ours, np.float64), np.array(recorded, np.float64)
    near = np.abs(one - other) <= most * np.maximum(1.0, np.abs(other))
    for row, column in zip(*np.nonzero(~near), strict=True):
        yield f"vector {row}, {what}, {heads[column]}: recorded {other[row, column]!r}, now {one[row, column]!r}"


def _unlike_decision(what: str, ours: Mapping[str, Any], recorded: Mapping[str, Any]) -> Iterator[str]:
    for name, then in recorded.items():
        now = ours[name]
        numbers = isinstance(now, float) and isinstance(then, int | float)
        if not (abs(now - then) <= REST * max(1.0, abs(then)) if numbers else now == then):
            yield f"{what}, decision, {name}: recorded {then!r}, now {now!r}"


def _cases() -> list[dict[str, Any]]:
    return [
        {
            "name": case.name,
            "row": case.row,
            "positionManager": case.config.contract(),
            "plan": case.plan.model_dump(mode="json", by_alias=True),
            "decision": _decision(_case_decision(case.row, case.config, case.plan)),
        }
        for case in manager_cases()
    ]


def _case_decision(row: Mapping[str, float], config: ManagerConfig, plan: PlanNumbers) -> Decision:
    keyed = pl.DataFrame([{"session": 0, "instrument": "", "minute": 0, **row}])
    (decision,) = decisions(decide(predicted_edges(keyed, plan), config, plan))
    return decision


def _case_differences(cases: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for case in cases:
        config, plan = ManagerConfig.model_validate(case["positionManager"]), PlanNumbers.model_validate(case["plan"])
        ours = _decision(_case_decision(case["row"], config, plan))
        yield from _unlike_decision(f"case {case['name']!r}", ours, case["decision"])
