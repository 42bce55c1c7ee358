"""Graphs of multi-head models under onnxruntime, fed with raw features. Nothing is fitted or exported here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pipeline.errors import BadInput, SchemaError
from pipeline.models.examples import Head
from pipeline.models.family import Predict
from pipeline.models.heads.outputs import ONLY_MODEL, ModelCard, card_file, onnx_file
from pipeline.models.inputs import Inputs
from pipeline.models.onnx_runtime import GATHERED, PROVIDERS, THREADS


class Graph(NamedTuple):
    """A model that is ready to run."""

    session: onnxruntime.InferenceSession
    fields: NDArray[np.int64]  # positions in `prediction` of the heads that are asked for
    columns: NDArray[np.int64]  # theirs among all heads


def load(files: Mapping[str, bytes], heads: tuple[Head, ...], batch: int) -> Predict:
    """The serving form: every model's graph, one thread, one fixed batch, so that a row's bits are its own.

    Raises
    ------
    BadInput
        A model's file is absent, or a model that does not serve its head.
    SchemaError
        A card of another model, a graph of another width or batch than its card's, or models that read different
        features.
    """
    graphs, features = [], set()
    for model in dict.fromkeys(head.model or ONLY_MODEL for head in heads):
        session, card = open_model(files, model, batch)
        columns = [i for i, head in enumerate(heads) if (head.model or ONLY_MODEL) == model]
        fields = [_place(card, heads[i].name) for i in columns]
        graphs.append(Graph(session, np.array(fields), np.array(columns)))
        features.add(card.features)
    if len(features) > 1:
        raise SchemaError("the models of a member read the same features", sorted(map(len, features)), "refit it")
    (schema,) = features

    def predict(inputs: Inputs) -> NDArray[np.float32]:
        if inputs.store.schema != schema:
            raise SchemaError("inputs are in the order of the models' cards", inputs.store.schema[:5], "refit it")
        out = np.empty((len(inputs), len(heads)), np.float32)
        for start in range(0, len(inputs), batch * GATHERED):
            rows = slice(start, min(start + batch * GATHERED, len(inputs)))
            x = inputs.store.values[inputs.index[rows]]
            require_complete(x, schema)
            for graph in graphs:
                out[rows, graph.columns] = run(graph.session, x, batch)[:, graph.fields]
            inputs.store.release()
        return out

    return predict


def open_model(files: Mapping[str, bytes], model: str, batch: int) -> tuple[onnxruntime.InferenceSession, ModelCard]:
    """A model's session and card, which must belong together."""
    absent = [name for name in (onnx_file(model), card_file(model)) if name not in files]
    if absent:
        raise BadInput("a member is whole", f"absent: {absent}", "fetch the artifact again")
    card = ModelCard.from_json(files[card_file(model)])
    if card.model != model:
        raise SchemaError(f"the card of {model} names it", card.model, "fetch the artifact again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(files[onnx_file(model)], options, providers=list(PROVIDERS))
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    found = given.name, tuple(given.shape), answer.name, tuple(answer.shape)
    wanted = "x", (batch, len(card.features)), "prediction", (batch, len(card.fields))
    if found != wanted or card.batch != batch:
        raise SchemaError(f"the graph of {model} has the shapes of its card", f"{found}, card {wanted}", "refit it")
    return session, card


def run(session: onnxruntime.InferenceSession, x: NDArray[np.float32], batch: int) -> NDArray[np.float32]:
    """`prediction` [n, fields] of raw features [n, F]; the last call is padded with zero rows."""
    parts = []
    for start in range(0, len(x), batch):
        part = x[start : start + batch]
        fed = part if len(part) == batch else np.zeros((batch, x.shape[1]), np.float32)
        fed[: len(part)] = part
        parts.append(session.run(None, {"x": fed})[0][: len(part)])
    return np.concatenate(parts)


def require_complete(x: NDArray[np.float32], schema: Sequence[str]) -> None:
    """Raw features [n, F] are finite; an error naming those that are not."""
    if np.isfinite(x).all():
        return
    broken = np.count_nonzero(~np.isfinite(x), axis=0)
    named = {schema[i]: int(broken[i]) for i in np.flatnonzero(broken)[:5]}
    rule = "features of a multi-head model are complete and finite"
    raise BadInput(rule, f"rows without: {named}", "drop such rows from the eligible ones, or the feature")


def _place(card: ModelCard, head: str) -> int:
    if head not in card.fields:
        raise BadInput(f"the model {card.model} serves its heads", f"no {head} in {list(card.fields)}", "refit it")
    return card.fields.index(head)
