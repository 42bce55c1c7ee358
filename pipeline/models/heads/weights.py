"""Linear heads read from a graph's initialisers, for whoever has no runtime."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from pipeline.errors import BadInput, SchemaError


def linear_head(model: bytes, head: str, features: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`<head>_W` float64 [F, K] and `<head>_B` float64 [K], over raw features.

    A softmax has K columns, in the order of its fields; any other head has one.

    Parameters
    ----------
    model : bytes
        A graph of `export.heads_graph`.
    features : int
        F, of the model's card.

    Raises
    ------
    BadInput
        No such head.
    SchemaError
        Another width.
    """
    held = {tensor.name: tensor for tensor in onnx.load_from_string(model).graph.initializer}
    wanted = (f"{head}_W", f"{head}_B")
    if not set(wanted) <= set(held):
        known = sorted(name.removesuffix("_W") for name in held if name.endswith("_W"))
        raise BadInput("a head is in its model", head, f"one of {known}")
    weights, bias = (numpy_helper.to_array(held[name]) for name in wanted)
    if weights.shape != (features, len(bias)):
        observed = f"{head}: {weights.shape}, bias {bias.shape}, {features} features"
        raise SchemaError("a head's weights are [features, outputs]", observed, "read it with its own card")
    return weights, bias
