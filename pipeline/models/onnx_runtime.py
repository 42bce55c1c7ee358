"""ONNX graphs under onnxruntime: one thread, one fixed batch, so that a row's bits are its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pipeline.errors import BadInput, SchemaError
from pipeline.models.examples import Head
from pipeline.models.family import Predict
from pipeline.models.inputs import Inputs, Tensors

PROVIDERS = ("CPUExecutionProvider",)
THREADS = 1
FILE = "model.onnx"
GATHERED = 16  # batches gathered at once: a gathering call costs as much as 64 rows' values


def load(files: Mapping[str, bytes], heads: tuple[Head, ...], batch: int) -> Predict:
    """The serving form of every family that is exported as one graph."""
    if FILE not in files:
        raise BadInput("a member is whole", f"absent: {FILE}", "fetch the artifact again")
    return load_graph(files[FILE], batch)


def load_graph(model: bytes, batch: int) -> Predict:
    """A graph whose inputs are named as in `Inputs.tensors`, to `heads`.

    Every call is padded with zero rows to `batch`: without that 234 of 512 rows differed between batch sizes.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(model, options, providers=list(PROVIDERS))
    shapes = {node.name: tuple(node.shape) for node in session.get_inputs()}
    width = session.get_outputs()[0].shape[1]

    def predict(inputs: Inputs) -> NDArray[np.float32]:
        out = np.empty((len(inputs), width), np.float32)
        for start in range(0, len(inputs), batch * GATHERED):
            index = np.arange(start, min(start + batch * GATHERED, len(inputs)))
            tensors = inputs.tensors(index)
            _require_shapes(tensors, shapes, batch)
            for first in range(0, len(index), batch):
                rows = slice(first, min(first + batch, len(index)))
                fed = {name: _padded(tensors, name, rows, batch) for name in shapes}
                out[index[rows]] = session.run(None, fed)[0][: rows.stop - rows.start]
            inputs.store.release()
        return out

    return predict


def _require_shapes(tensors: Tensors, shapes: Mapping[str, tuple[int, ...]], batch: int) -> None:
    """A graph beside another member's card or normaliser: named here, before the runtime speaks of dimensions."""
    found = {name: (batch, *part.shape[1:]) for name, part in tensors.items() if name in shapes}
    if found != shapes:
        raise SchemaError("a member's graph takes the tensors of its own card", f"{found}, graph {shapes}", "refit it")


def _padded(tensors: Tensors, name: str, rows: slice, batch: int) -> NDArray[np.float32] | NDArray[np.int64]:
    part = tensors[name][rows]
    if len(part) == batch:
        return part
    return np.concatenate([part, np.zeros((batch - len(part), *part.shape[1:]), part.dtype)])
