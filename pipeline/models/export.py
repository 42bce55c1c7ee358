"""Fitted models as ONNX bytes with a fixed batch: the serving form. Nothing is trained or scored here."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pipeline.models.examples import PROBABILITY_EDGE

OPSET = 20
IR_VERSION = 10
LOGIT_EDGE = float(np.log((1.0 - PROBABILITY_EDGE) / PROBABILITY_EDGE))


def linear_graph(
    weights: NDArray[np.float32], bias: NDArray[np.float32], probability: Sequence[bool], batch: int
) -> bytes:
    """`heads = x @ weights + bias`, through a sigmoid in the probability columns.

    Parameters
    ----------
    weights : float32 [F, H]
    bias : float32 [H]
    probability : sequence of bool [H]
    batch : int
        Rows per call; the graph accepts no other number.
    """
    constants = {
        "weights": weights,
        "bias": bias,
        "low": np.float32(-LOGIT_EDGE),
        "high": np.float32(LOGIT_EDGE),
        "probability": np.asarray(probability, bool)[None, :],
    }
    nodes = [
        helper.make_node("Gemm", ["x", "weights", "bias"], ["linear"]),
        helper.make_node("Clip", ["linear", "low", "high"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["risen"]),
        helper.make_node("Where", ["probability", "risen", "linear"], ["heads"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, weights.shape[0]])],
        [helper.make_tensor_value_info("heads", TensorProto.FLOAT, [batch, weights.shape[1]])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return _bytes(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION))


def network_graph(network: torch.nn.Module, example: tuple[torch.Tensor, ...], names: Sequence[str]) -> bytes:
    """A torch module in evaluation mode as one self-contained ONNX file.

    Parameters
    ----------
    network : Module
        Takes the tensors of `example`, gives [batch, H] served values.
    example : tuple of Tensor
        Zeros of the exact shapes; these become the only shapes that the graph accepts.
    names : sequence of str
        Input names, in the module's order.
    """
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)  # warns on every call that torchvision is absent, which we do not use
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network.eval(),
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(names),
                output_names=["heads"],
                verbose=False,
            )
    finally:
        exporter.setLevel(level)
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    return _bytes(program.model_proto)


def _bytes(model: onnx.ModelProto) -> bytes:
    """Deterministic bytes without the exporter's traces, which hold file paths of the training machine."""
    del model.metadata_props[:]
    model.doc_string = ""
    graph = model.graph
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
