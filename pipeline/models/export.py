"""Fitted models as ONNX bytes with a fixed batch: the serving form. Nothing is trained or scored here."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

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


class LinearBlock(NamedTuple):
    """Heads that are solved together.

    Parameters
    ----------
    name : str
        Its initialisers are `<name>_W` and `<name>_B`.
    kind : str
        `softmax` over its outputs, `logistic`, or `linear`.
    weights : float64 [F, K]
    bias : float64 [K]
    """

    name: str
    kind: str
    weights: NDArray[np.float64]
    bias: NDArray[np.float64]


def heads_graph(blocks: Sequence[LinearBlock], batch: int) -> bytes:
    """`prediction = [block outputs, side by side]`, probabilities kept inside (1e-6, 1 - 1e-6).

    The runtime joins the blocks' initialisers once, when it loads: one matrix product serves them all. It sums in
    float64: raw features lie many deviations from zero, and float32 lost half of the allowed 1e-5 on real minutes.
    """
    constants: dict[str, NDArray[Any]] = {
        "low": np.array(PROBABILITY_EDGE, np.float32),
        "high": np.array(1.0 - PROBABILITY_EDGE, np.float32),
        "widths": np.array([len(block.bias) for block in blocks], np.int64),
    }
    for block in blocks:
        constants |= {f"{block.name}_W": block.weights, f"{block.name}_B": block.bias}
    names = [block.name for block in blocks]
    nodes = [
        helper.make_node("Concat", [f"{name}_W" for name in names], ["weights"], axis=1),
        helper.make_node("Concat", [f"{name}_B" for name in names], ["bias"], axis=0),
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("Gemm", ["wide", "weights", "bias"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["linear"], to=TensorProto.FLOAT),
        helper.make_node("Split", ["linear", "widths"], [f"{name}_linear" for name in names], axis=1),
    ]
    for block in blocks:
        nodes += _activation(block)
    outputs = [f"{block.name}_linear" if block.kind == "linear" else f"{block.name}_inside" for block in blocks]
    nodes.append(helper.make_node("Concat", outputs, ["prediction"], axis=1))
    fields, features = sum(len(block.bias) for block in blocks), len(blocks[0].weights)
    graph = helper.make_graph(
        nodes,
        "heads",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, features])],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [batch, fields])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return _bytes(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION))


def _activation(block: LinearBlock) -> list[onnx.NodeProto]:
    linear, risen, inside = (f"{block.name}_{stage}" for stage in ("linear", "risen", "inside"))
    if block.kind == "linear":
        return []
    rise = (
        helper.make_node("Softmax", [linear], [risen], axis=1)
        if block.kind == "softmax"
        else helper.make_node("Sigmoid", [linear], [risen])
    )
    return [rise, helper.make_node("Clip", [risen, "low", "high"], [inside])]


_TRACED: dict[tuple[object, ...], onnx.ModelProto] = {}


def network_graph(network: torch.nn.Module, example: tuple[torch.Tensor, ...], names: Sequence[str]) -> bytes:
    """A torch module in evaluation mode as one self-contained ONNX file.

    Tracing costs about 1 s, and the splits of a study differ in weights alone: each architecture is traced once with
    its weights as inputs, which every call then binds to its own.

    Parameters
    ----------
    network : Module
        Takes the tensors of `example`, gives [batch, H] served values. Its `repr` must tell its architecture.
    example : tuple of Tensor
        Zeros of the exact shapes; these become the only shapes that the graph accepts.
    names : sequence of str
        Input names, in the module's order.
    """
    state = {name.replace(".", "_"): value for name, value in network.state_dict().items()}
    shapes = tuple(tuple(part.shape) for part in example)
    key = (repr(network), shapes, tuple(names), tuple(state))
    if key not in _TRACED:
        _TRACED[key] = _trace(network.eval(), example, names, tuple(state))
    model = onnx.ModelProto()
    model.CopyFrom(_TRACED[key])
    inputs = [value for value in model.graph.input if value.name not in state]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.graph.initializer.extend(numpy_helper.from_array(value.numpy(), name) for name, value in state.items())
    return _bytes(model)


class _Unbound(torch.nn.Module):
    """A module whose weights are arguments. It holds the real one in a list, so that it owns no weights itself."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.held, self.names = [network], list(network.state_dict())

    def forward(self, inputs: tuple[torch.Tensor, ...], *state: torch.Tensor) -> torch.Tensor:
        bound = dict(zip(self.names, state, strict=True))
        return torch.as_tensor(torch.func.functional_call(self.held[0], bound, tuple(inputs)))


def _trace(
    network: torch.nn.Module, example: tuple[torch.Tensor, ...], names: Sequence[str], state: Sequence[str]
) -> onnx.ModelProto:
    """The graph of an architecture, its weights among the inputs."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)  # warns on every call that torchvision is absent, which we do not use
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Unbound(network).eval(),
                (example, *network.state_dict().values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=[*names, *state],
                output_names=["heads"],
                verbose=False,
            )
    finally:
        exporter.setLevel(level)
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    return program.model_proto


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
