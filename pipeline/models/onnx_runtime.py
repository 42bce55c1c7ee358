"""ONNX graphs under onnxruntime: one thread, one fixed batch, so that a row's bits are its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pipeline.models.examples import Head
from pipeline.models.family import Predict
from pipeline.models.inputs import Inputs

PROVIDERS = ("CPUExecutionProvider",)
THREADS = 1
FILE = "model.onnx"


def load(files: Mapping[str, bytes], heads: tuple[Head, ...], batch: int) -> Predict:
    """The serving form of every family that is exported as one graph."""
    return load_graph(files[FILE], batch)


def load_graph(model: bytes, batch: int) -> Predict:
    """A graph of inputs `x` and, if it wants windows, `sequence`, to `heads`.

    Every call is padded with zero rows to `batch`: without that 234 of 512 rows differed between batch sizes.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(model, options, providers=list(PROVIDERS))
    buffers = {node.name: np.zeros((batch, *node.shape[1:]), np.float32) for node in session.get_inputs()}
    width = session.get_outputs()[0].shape[1]

    def predict(inputs: Inputs) -> NDArray[np.float32]:
        out = np.empty((len(inputs), width), np.float32)
        for start in range(0, len(inputs), batch):
            index = np.arange(start, min(start + batch, len(inputs)))
            _fill(buffers, inputs, index)
            out[index] = session.run(None, buffers)[0][: len(index)]
        return out

    return predict


def _fill(buffers: dict[str, NDArray[np.float32]], inputs: Inputs, index: NDArray[np.int64]) -> None:
    for name, buffer in buffers.items():
        buffer[: len(index)] = inputs.x[index] if name == "x" else inputs.windows(index)
        buffer[len(index) :] = 0.0
