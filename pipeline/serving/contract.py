"""The contract of a bundle that decides by the minute: all that a runtime without Python needs, in camelCase JSON.

    contract.json               features in order, models, calibrators, weights, price plan, position manager, formulas
    price_plan_context.json     the plan as it travels; the same as one Parquet row
    position_manager.json       the manager's configuration
    conformance.json            vectors; see `conformance`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from pipeline.errors import BadInput, SchemaError
from pipeline.features.minutes.schema import select
from pipeline.fingerprints import canonical_json, hash_bytes, hash_json
from pipeline.labels.price_plan import context_bytes
from pipeline.models.examples import PROBABILITY_EDGE
from pipeline.models.heads.outputs import ONLY_MODEL, ModelCard, card_file, models_of, onnx_file
from pipeline.models.scoring import MEMBER_FILE, Card
from pipeline.serving.bundle import Bundle
from pipeline.serving.conformance import conformance, differences
from pipeline.serving.parts import Part
from pipeline.serving.selecting import ManagerSelector

FORMAT = 1
CONTRACT, CONFORMANCE = "contract.json", "conformance.json"
PLAN, PLAN_TABLE, MANAGER = "price_plan_context.json", "price_plan_context.parquet", "position_manager.json"

CALIBRATION = {
    "identity": "p",
    "platt": "sigmoid(slope * logit(p) + intercept)",
    "temperature": "sigmoid(logit(p) / temperature)",
    "isotonic": "linear between the knots (at, value), both ascending; constant beyond the first and the last",
    "logit": "ln(q / (1 - q)), q = p kept inside [1e-6, 1 - 1e-6]",
    "sigmoid": "1 / (1 + exp(-z))",
}
SCORING = {
    "input": "raw features as they are declared, float32, in order; every one finite, or the row is not scored",
    "linear": "x @ weights + bias in float64, then float32",
    "logistic": "sigmoid of linear, kept inside [probabilityEdge, 1 - probabilityEdge]",
    "softmax": "softmax over the block's linear outputs, each kept inside [probabilityEdge, 1 - probabilityEdge]",
    "constants": "a head named here is this number, whatever its model gives",
    "ensemble": "per head the sum over parts of weight * calibrated, in the parts' order, over the sum of weights",
}
EDGES = {
    "ENTRY_PROBABILITY_PAYOFF": "p * (targetDistanceBps - costBps) + (1 - p) * -(stopDistanceBps + costBps), "
    "p = <side>_entry_prob",
    "MODEL_ACTUAL_PLAN_EDGE": "<side>_expected_net_edge_bps",
}
DECIDING = {
    "probabilities": "direction_long_prob, direction_short_prob, <side>_entry_prob and market_risk_prob, "
    "clipped to [0, 1] first; a missing one is an error",
    "gates": [
        "direction_<side>_prob > open.<side>.minDirectionProb",
        "|direction_long_prob - direction_short_prob| > open.minDirectionMargin",
        "<side>_entry_prob > open.<side>.minEntryProb",
        "market_risk_prob < open.maxMarketRisk",
        "edge > open.<side>.minEdgeBps",
    ],
    "side": "the side that passes every gate; where both do, the higher max(edge, 0) * direction_<side>_prob * "
    "<side>_entry_prob * (1 - market_risk_prob), LONG on a tie; null where none does",
    "loss": "stopDistanceBps + costBps",
    "cap": "least of sizing.maxSingleLegRatio, sizing.maxTotalPositionRatio, sizing.maxLiquidityUsageRatio, "
    "sizing.maxLossPerTradeBps / loss",
    "plannedRatio": "0 where edge < sizing.minEdgeBps or cap < sizing.minInitialRatio or there is no side; else "
    "sizing.baseRatio / max(loss, 1) * edge * direction_<side>_prob * <side>_entry_prob * (1 - market_risk_prob), "
    "kept inside [sizing.minInitialRatio, cap]; a ratio of 0 is no trade",
    "predictedEdgeBps": "edge of the side; null without one",
    "entry": "at the close of the decision minute",
    "barriers": "LONG: entry * (1 + targetDistanceBps / 1e4), entry * (1 - stopDistanceBps / 1e4); "
    "SHORT: entry * (1 - targetDistanceBps / 1e4), entry * (1 + stopDistanceBps / 1e4)",
    "overlap": "a symbol holds one position; the next may be entered at its exit and add.cooldownMinutes, not before",
}


def contract_files(
    files: Mapping[str, bytes], manifest: Mapping[str, Any], rows: Callable[[], pl.DataFrame]
) -> dict[str, bytes]:
    """The further files of a bundle that decides by the minute; none of any other.

    Parameters
    ----------
    files, manifest : mapping
        As they are given to `write_bundle`.
    rows : callable
        Gives features of at least 32 minutes: key and schema, every value finite; some spread of market states is
        best. Called only where there is a contract.

    Raises
    ------
    SchemaError
        The schema is not in the order of the features' own, or not that of a model.
    BadInput
        Too few rows, or incomplete ones.
    """
    bundle = Bundle("", dict(manifest), dict(files))
    chosen = bundle.selector
    if not isinstance(chosen, ManagerSelector):
        return {}
    stated = _plan_and_manager(chosen)
    stated[CONFORMANCE] = conformance(bundle, chosen, rows())
    return stated | {CONTRACT: _contract(bundle, chosen, stated)}


def check_conformance(bundle: Bundle) -> list[str]:
    """What a bundle's contract says otherwise than the bundle does; empty when it conforms or needs none.

    Raw heads are compared to 1e-5, all that follows to 1e-9, each step from the recorded values of the one before.
    """
    chosen = bundle.selector
    if not isinstance(chosen, ManagerSelector):
        return []
    absent = [
        f"{name}: absent" for name in (CONTRACT, CONFORMANCE, PLAN, PLAN_TABLE, MANAGER) if name not in bundle.files
    ]
    if absent:
        return absent
    stated = _plan_and_manager(chosen) | {CONFORMANCE: bundle.files[CONFORMANCE]}
    again = stated | {CONTRACT: _contract(bundle, chosen, stated)}
    other = [f"{name}: not what the bundle's parts say" for name, data in again.items() if bundle.files[name] != data]
    return other + differences(bundle, chosen, bundle.files[CONFORMANCE])


def _plan_and_manager(chosen: ManagerSelector) -> dict[str, bytes]:
    return {
        PLAN: context_bytes(chosen.plan, ".json"),
        PLAN_TABLE: context_bytes(chosen.plan, ".parquet"),
        MANAGER: canonical_json(chosen.policy.contract()).encode(),
    }


def _contract(bundle: Bundle, chosen: ManagerSelector, stated: Mapping[str, bytes]) -> bytes:
    body = {
        "format": FORMAT,
        "study": bundle.manifest["study"],
        "features": _features(bundle),
        "heads": [{"name": head.name, "kind": head.kind, "model": head.model} for head in bundle.heads],
        "probabilityEdge": PROBABILITY_EDGE,
        "scoring": SCORING,
        "parts": [_part(bundle, part) for part in bundle.parts],
        "calibration": CALIBRATION,
        "pricePlanContext": chosen.context,
        "positionManager": chosen.policy.contract(),
        "edgeMethod": chosen.numbers.edge_method,
        "edge": EDGES[chosen.numbers.edge_method],
        "decision": DECIDING,
        "versions": _versions(bundle, chosen),
        "files": {name: hash_bytes(data) for name, data in stated.items()},
    }
    return canonical_json(body).encode()


def _features(bundle: Bundle) -> dict[str, Any]:
    schema, digest = bundle.manifest["schema"], bundle.manifest["schema_hash"]
    known = select(schema)
    if [feature.name for feature in known] != list(schema) or digest != hash_json(schema):
        rule = "a bundle's features are in the order of the schema of minutes, and its hash is theirs"
        raise SchemaError(rule, f"{schema[:3]}…, {digest}", "build the manifest from the study's plan")
    columns = [{"position": i, **asdict(feature)} for i, feature in enumerate(known)]
    return {"type": "float32", "orderHash": digest, "columns": columns}


def _part(bundle: Bundle, part: Part) -> dict[str, Any]:
    """A fit of a member: its models, constants, calibrators and weight."""
    files = bundle.part_files(part)
    card = Card.from_json(files[MEMBER_FILE])
    learned = tuple(head for head in card.heads if head.learned)
    models = dict.fromkeys(head.model or ONLY_MODEL for head in learned)
    calibrators = bundle.calibrators[part.name].heads
    return {
        "name": part.name,
        "family": card.family,
        "weight": part.weight,
        "models": [_model(part, files, card, model) for model in models],
        "constants": {head.name: float(np.float32(head.baseline)) for head in card.heads if not head.learned},
        "calibrators": {
            **_named(part.calibrators, bundle.files[part.calibrators]),
            "heads": [
                {"name": head.name, "method": head.method, **_numbers(head.method, head.parameters)}
                for head in calibrators
            ],
        },
    }


def _model(part: Part, files: Mapping[str, bytes], card: Card, model: str) -> dict[str, Any]:
    if card_file(model) in files:
        known = ModelCard.from_json(files[card_file(model)])
        return {
            "model": model,
            "type": "onnx",
            **_named(part.file(onnx_file(model)), files[onnx_file(model)]),
            "input": {"name": "x", "shape": [known.batch, len(known.features)], "type": "float32"},
            "output": {"name": "prediction", "shape": [known.batch, len(known.fields)], "type": "float32"},
            "fields": list(known.fields),
            "blocks": [{k: v for k, v in block.items() if k != "constants"} for block in known.heads],
        }
    blocks = models_of(tuple(head for head in card.heads if head.learned))[model]
    named = {block.name: f"{block.name}.lightgbm.txt" for block in blocks}
    absent = [name for name in named.values() if name not in files]
    if absent:
        raise BadInput("a contract describes models in ONNX and LightGBM's text", f"{part.name} without {absent}",
                       "leave the member out of the ensemble")
    return {
        "model": model,
        "type": "lightgbm_text",
        "blocks": [
            {
                "name": block.name,
                "kind": block.kind,
                "fields": block.fields,
                **_named(part.file(named[block.name]), files[named[block.name]]),
            }
            for block in blocks
        ],
    }


def _named(file: str, data: bytes) -> dict[str, str]:
    return {"file": file, "sha256": hash_bytes(data)}


def _numbers(method: str, parameters: Mapping[str, list[float]]) -> dict[str, Any]:
    """Knots as lists, anything else as plain numbers."""
    return {name: values if method == "isotonic" else values[0] for name, values in parameters.items()}


def _versions(bundle: Bundle, chosen: ManagerSelector) -> dict[str, Any]:
    labels, config = bundle.study["labels"], chosen.policy
    digests = {name: hash_bytes(data) for name, data in bundle.files.items()}

    def together(folder: str) -> str:
        return hash_json({name: digest for name, digest in digests.items() if name.startswith(f"{folder}/")})

    return {
        "features": bundle.manifest["schema_hash"],
        "labels": {"version": labels["bounds"]["version"], "hash": hash_json(labels)},
        "splits": {"hash": hash_json(bundle.study["folds"]), "evaluation": bundle.manifest["lineage"]["evaluation"]},
        "pricePlan": chosen.plan.price_plan_hash,
        "models": together("members"),
        "calibrators": together("calibrators"),
        "positionManager": {
            "version": config.version,
            "configHash": config.config_hash(),
            "thresholdHash": config.threshold_hash(),
        },
    }
