"""A reader of a minute bundle that knows its contract and nothing of the code: numpy, JSON and ONNX initialisers."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper


class ContractReader:
    """`contract.json` and the files that it names; linear models only."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.contract: dict[str, Any] = json.loads(files["contract.json"])
        self.heads = [head["name"] for head in self.contract["heads"]]
        self.weights: dict[str, dict[str, np.ndarray]] = {}
        for part in self.contract["parts"]:
            for model in part["models"]:
                assert model["type"] == "onnx"
                data = files[model["file"]]
                assert hashlib.sha256(data).hexdigest() == model["sha256"]
                held = onnx.load_from_string(data).graph.initializer
                self.weights[model["file"]] = {tensor.name: numpy_helper.to_array(tensor) for tensor in held}

    def raw(self, part: dict[str, Any], x: list[float]) -> list[float]:
        found: dict[str, float] = {}
        for model in part["models"]:
            held = self.weights[model["file"]]
            prediction: list[float] = []
            for block in model["blocks"]:
                linear = np.float32(np.float64(x) @ held[block["weights"]] + held[block["bias"]]).astype(np.float64)
                prediction += self._risen(block["kind"], linear).tolist()
            found |= dict(zip(model["fields"], prediction, strict=True))
        found |= part["constants"]
        return [found[head] for head in self.heads]

    def _risen(self, kind: str, linear: np.ndarray) -> np.ndarray:
        if kind == "linear":
            return linear
        risen = np.exp(linear - linear.max()) if kind == "softmax" else 1 / (1 + np.exp(-linear))
        edge = self.contract["probabilityEdge"]
        return np.clip(risen / risen.sum() if kind == "softmax" else risen, edge, 1 - edge)

    def calibrated(self, part: dict[str, Any], raw: list[float]) -> list[float]:
        named = {head["name"]: head for head in part["calibrators"]["heads"]}
        return [self._mapped(named[head], p) for head, p in zip(self.heads, raw, strict=True)]

    @staticmethod
    def _mapped(head: dict[str, Any], p: float) -> float:
        if head["method"] == "identity":
            return p
        if head["method"] == "isotonic":
            return float(np.interp(p, head["at"], head["value"]))
        inside = min(max(p, 1e-6), 1 - 1e-6)
        z = np.log(inside / (1 - inside))
        z = head["slope"] * z + head["intercept"] if head["method"] == "platt" else z / head["temperature"]
        return float(1 / (1 + np.exp(-z)))

    def prediction(self, calibrated: dict[str, list[float]]) -> list[float]:
        total = sum(part["weight"] for part in self.contract["parts"])
        parts = [part["weight"] * np.array(calibrated[part["name"]]) for part in self.contract["parts"]]
        return (np.sum(parts, axis=0) / total).tolist()

    def decision(self, prediction: list[float]) -> dict[str, Any]:
        row = dict(zip(self.heads, prediction, strict=True))
        return decision(row, self.contract["positionManager"], self.contract["pricePlanContext"])


def decision(row: dict[str, float], manager: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    """As `contract.json` words it, one `if` at a time."""
    loss = plan["stopDistanceBps"] + plan["costBps"]
    risk = min(max(row["market_risk_prob"], 0.0), 1.0)
    direction = {side: min(max(row[f"direction_{side}_prob"], 0.0), 1.0) for side in ("long", "short")}
    best: tuple[float, str, float, float] | None = None
    for side in ("long", "short"):
        p = min(max(row[f"{side}_entry_prob"], 0.0), 1.0)
        edge = p * (plan["targetDistanceBps"] - plan["costBps"]) - (1 - p) * loss
        if plan["entryTargetMethod"] != "PRICE_PLAN_OUTCOME_V1":
            edge = row[f"{side}_expected_net_edge_bps"]
        bounds, gates = manager["open"][side], manager["open"]
        passes = (
            direction[side] > bounds["minDirectionProb"]
            and abs(direction["long"] - direction["short"]) > gates["minDirectionMargin"]
            and p > bounds["minEntryProb"]
            and risk < gates["maxMarketRisk"]
            and edge > bounds["minEdgeBps"]
        )
        confidence = direction[side] * p * (1 - risk)
        value = max(edge, 0.0) * confidence
        if passes and (best is None or value > best[0]):
            best = (value, side, edge, confidence)
    if best is None:
        return {"side": None, "plannedRatio": 0.0, "predictedEdgeBps": None}
    _, side, edge, confidence = best
    sizing = manager["sizing"]
    caps = ("maxSingleLegRatio", "maxTotalPositionRatio", "maxLiquidityUsageRatio")
    cap = min(*(sizing[name] for name in caps), sizing["maxLossPerTradeBps"] / loss)
    ratio = 0.0
    if cap >= sizing["minInitialRatio"] and edge >= sizing["minEdgeBps"]:
        raw = sizing["baseRatio"] * edge / max(loss, 1.0) * confidence
        ratio = min(max(raw, sizing["minInitialRatio"]), cap)
    return {"side": side.upper(), "plannedRatio": ratio, "predictedEdgeBps": edge}
