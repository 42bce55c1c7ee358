"""What a bundle's prediction is a mean of: fits of members, their places in the bundle, their weights."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

from pipeline.calibration.weights import EnsembleWeights
from pipeline.errors import BadInput
from pipeline.fingerprints import canonical_json

WEIGHT_TOLERANCE = 1e-9  # a sum of some hundred float64 weights


@dataclass(frozen=True)
class Part:
    """One fit of one member, and its share of the prediction; fits of all splits may stand side by side."""

    member: str
    split: str
    weight: float

    @property
    def name(self) -> str:
        """Its folder in a bundle, and its name in the tables of inference."""
        return f"{self.member}@{self.split}"

    def file(self, name: str) -> str:
        """A file of its training, as it is called in a bundle."""
        return f"members/{self.name}/{name}"

    @property
    def calibrators(self) -> str:
        """Its calibrators' file."""
        return f"calibrators/{self.name}.json"


def ensemble_file(parts: Sequence[Part], chosen: Mapping[str, EnsembleWeights]) -> bytes:
    """`ensemble.json`: the parts in the order in which they are averaged, and how each split's weights were chosen."""
    recorded = {split: json.loads(weights.to_json()) for split, weights in chosen.items()}
    return canonical_json({"parts": [asdict(part) for part in parts], "chosen": recorded}).encode()


def read_parts(data: bytes) -> tuple[Part, ...]:
    """The parts of an `ensemble.json`, in order."""
    return tuple(Part(**part) for part in json.loads(data)["parts"])


def require_mean(parts: Sequence[Part], trained: Collection[str]) -> None:
    """Every trained part is averaged, once, and the weights make a mean."""
    names, weights = [part.name for part in parts], [part.weight for part in parts]
    if len(set(names)) != len(names) or set(names) != set(trained):
        observed = f"parts {names}, trained {sorted(trained)}"
        raise BadInput("the parts of an ensemble are what was trained for it, each once", observed, "pack it again")
    if not (all(weight >= 0.0 for weight in weights) and abs(sum(weights) - 1.0) <= WEIGHT_TOLERANCE):
        raise BadInput("the weights of an ensemble are not negative and sum to 1", weights, "choose them on tune")
