"""How the heads of a member make models: a file each, its fields in order, and the blocks that are solved together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import BadInput
from pipeline.fingerprints import canonical_json, hash_json
from pipeline.models.examples import PROBABILITY_EDGE, Head

ONLY_MODEL = "model"  # the model of heads that name none
CARD_FORMAT = 1

BlockKind = Literal["softmax", "logistic", "linear"]


@dataclass(frozen=True)
class Block:
    """One head, or the heads of one softmax; some of them may be constants.

    Parameters
    ----------
    name : str
        Of the softmax, or of the head.
    """

    name: str
    kind: BlockKind
    heads: tuple[Head, ...]

    @property
    def learned(self) -> tuple[Head, ...]:
        return tuple(head for head in self.heads if head.learned)

    @property
    def fields(self) -> list[str]:
        return [head.name for head in self.heads]


def models_of(heads: Sequence[Head]) -> dict[str, tuple[Block, ...]]:
    """Model -> its blocks, both in the order of their first heads.

    Raises
    ------
    BadInput
        A softmax of one head, over two models, or named as a head.
    """
    models: dict[str, dict[str, list[Head]]] = {}
    for head in heads:
        blocks = models.setdefault(head.model or ONLY_MODEL, {})
        blocks.setdefault(head.softmax or head.name, []).append(head)
    _require_groups(heads)
    return {
        model: tuple(Block(name, _kind(members[0]), tuple(members)) for name, members in blocks.items())
        for model, blocks in models.items()
    }


def _kind(head: Head) -> BlockKind:
    if head.softmax:
        return "softmax"
    return "logistic" if head.kind == "probability" else "linear"


def _require_groups(heads: Sequence[Head]) -> None:
    names, remedy = {head.name for head in heads}, "correct the study's labels"
    for group in dict.fromkeys(head.softmax for head in heads if head.softmax):
        members = [head for head in heads if head.softmax == group]
        models = sorted({head.model for head in members})
        if len(members) < 2 or len(models) > 1:
            observed = f"{group}: {len(members)} heads, models {models}"
            raise BadInput("a softmax has two heads or more, in one model", observed, remedy)
        if group in names:
            raise BadInput("a softmax is not named as a head", group, remedy)


def onnx_file(model: str) -> str:
    return f"{model}.onnx"


def card_file(model: str) -> str:
    return f"{model}.json"


@dataclass(frozen=True)
class ModelCard:
    """What `<model>.json` says, in camelCase: a runtime without Python reads it beside the graph.

    Parameters
    ----------
    model : str
    features, fields : tuple of str
        Input column i is `features[i]`, already in its own unit; `prediction[i]` is `fields[i]`.
    batch : int
    heads : tuple of dict
        Per block `name`, `kind`, `fields`, its initialisers `weights` and `bias`, and `constants`: field -> reason.
    """

    model: str
    features: tuple[str, ...]
    fields: tuple[str, ...]
    batch: int
    heads: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, model: str, blocks: Sequence[Block], features: Sequence[str], batch: int) -> ModelCard:
        heads = tuple(
            {
                "name": block.name,
                "kind": block.kind,
                "fields": block.fields,
                "weights": f"{block.name}_W",
                "bias": f"{block.name}_B",
                "constants": {head.name: head.reason for head in block.heads if not head.learned},
            }
            for block in blocks
        )
        fields = tuple(name for block in blocks for name in block.fields)
        return cls(model, tuple(features), fields, batch, heads)

    def to_json(self) -> bytes:
        return canonical_json(
            {
                "format": CARD_FORMAT,
                "model": self.model,
                "file": onnx_file(self.model),
                "input": "x",
                "output": "prediction",
                "batch": self.batch,
                "features": list(self.features),
                "featureOrderHash": hash_json(list(self.features)),
                "fields": list(self.fields),
                "probabilityEdge": PROBABILITY_EDGE,
                "heads": list(self.heads),
            }
        ).encode()

    @classmethod
    def from_json(cls, data: bytes) -> ModelCard:
        """The card; another format, or an order hash that is not its features', is an error."""
        raw = json.loads(data)
        if raw.get("format") != CARD_FORMAT:
            raise BadInput(f"a model's card has format {CARD_FORMAT}", raw.get("format"), "refit the member")
        if raw["featureOrderHash"] != hash_json(raw["features"]):
            rule = "a model's order hash is that of its features"
            raise BadInput(rule, raw["featureOrderHash"], "fetch the artifact again")
        return cls(raw["model"], tuple(raw["features"]), tuple(raw["fields"]), raw["batch"], tuple(raw["heads"]))
