"""What a training step gets: one whole session, checked, gathered while the net learns from those before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import BadInput, SchemaError
from pipeline.models.examples import Examples
from pipeline.models.inputs import Tensors


class Batch(NamedTuple):
    """One session.

    Parameters
    ----------
    inputs : tuple of Tensor
        `Inputs.tensors` in their order: finite float32 [n, ...]; category codes int64 [n, K].
    targets : Tensor float32 [n, learned heads]
        NaN where a head has no truth.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor


def sessions_of(examples: Examples, role: str) -> list[NDArray[np.int64]]:
    """Rows of each session that has any of a role, in time order."""
    rows = examples.rows(role)
    if not rows.size:
        return []
    return np.split(rows, np.flatnonzero(np.diff(examples.inputs.session_index[rows])) + 1)


class SessionLoader:
    """Batches of some sessions, in their order, gathered by threads while earlier ones are in use.

    The gathering kernels let go of the interpreter's lock, so they cost the net nothing while a core is free.

    Parameters
    ----------
    ahead : int
        Sessions that are gathered at once, a thread each.
    pinned : bool
        In memory that a GPU copies from while it computes.
    """

    def __init__(
        self,
        examples: Examples,
        targets: NDArray[np.float32],
        sessions: Sequence[NDArray[np.int64]],
        *,
        ahead: int = 1,
        pinned: bool = False,
    ) -> None:
        self.examples, self.targets, self.sessions = examples, targets, sessions
        self.ahead, self.pinned = ahead, pinned

    def __len__(self) -> int:
        return len(self.sessions)

    def __iter__(self) -> Iterator[Batch]:
        with ThreadPoolExecutor(self.ahead) as gatherers:
            following = iter(self.sessions)
            waiting = deque(gatherers.submit(self._gather, index) for index in islice(following, self.ahead))
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(gatherers.submit(self._gather, index) for index in islice(following, 1))
                yield batch

    def _gather(self, index: NDArray[np.int64]) -> Batch:
        inputs = self.examples.inputs
        tensors, targets = inputs.tensors(index), self.targets[index]
        inputs.store.release()
        require_batch(tensors, targets, str(inputs.store.sessions[inputs.session_index[index[0]]]))
        parts = [torch.from_numpy(part) for part in (*tensors.values(), targets)]
        if self.pinned:
            parts = [part.pin_memory() for part in parts]
        return Batch(tuple(parts[:-1]), parts[-1])


def require_batch(tensors: Tensors, targets: NDArray[np.float32], session: str) -> None:
    """The contract of a batch; what breaks it is named before it reaches a weight.

    Raises
    ------
    SchemaError
        Wrong types or row counts.
    BadInput
        A value that is not finite, or an infinite target.
    """
    for name, tensor in tensors.items():
        kind = np.int64 if name == "codes" else np.float32
        if tensor.dtype != kind or len(tensor) != len(targets):
            observed = f"{name}: {tensor.dtype} of {len(tensor)} rows, {len(targets)} targets"
            raise SchemaError(f"tensors are {np.dtype(kind)} with a row per target", observed, "rebuild the inputs")
        if not np.isfinite(tensor).all():
            place = [int(axis[0]) for axis in np.nonzero(~np.isfinite(tensor))]
            observed = f"{name}{place} is {tensor[tuple(place)]} on {session}"
            raise BadInput("inputs of a net are finite", observed, "rebuild the features stage of that session")
    if np.isinf(targets).any():
        raise BadInput("targets are finite or missing", f"infinite on {session}", "correct the label")
