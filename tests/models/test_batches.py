"""The loader of whole sessions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.errors import BadInput
from pipeline.models.batches import SessionLoader, sessions_of
from pipeline.models.examples import Examples, learnable_heads
from pipeline.models.inputs import fit_normaliser, inputs_of
from pipeline.models.spec import Layout
from tests.models.small_market import HEADS, small_market

STORE = small_market().prepared
LAYOUT = Layout(window=3, daily=("f1",), intraday_sessions=2, categories=("board",))
ALL = np.full(len(STORE), "fit", object)
TARGETS = np.arange(len(STORE) * len(HEADS), dtype=np.float32).reshape(-1, len(HEADS))
INPUTS = inputs_of(STORE, fit_normaliser(STORE, ALL == "fit", LAYOUT), LAYOUT)
EXAMPLES = Examples(INPUTS, TARGETS, learnable_heads(TARGETS, ()), ALL)


@pytest.mark.parametrize("ahead", [1, 3, 100])
def test_batches_come_in_order_however_many_are_gathered_at_once(ahead: int) -> None:
    """Pins threads that overtake each other, a session that is lost or doubled, and targets of another session."""
    order = sessions_of(EXAMPLES, "fit")[::-1]
    found = list(SessionLoader(EXAMPLES, TARGETS, order, ahead=ahead))
    assert len(found) == len(order)
    for batch, rows in zip(found, order, strict=True):
        np.testing.assert_array_equal(batch.targets.numpy(), TARGETS[rows])
        for part, expected in zip(batch.inputs, INPUTS.tensors(rows).values(), strict=True):
            assert torch.equal(part, torch.from_numpy(expected))


def test_an_error_of_a_gathering_thread_reaches_the_caller() -> None:
    """Pins a loader that ends early in silence when a session cannot be gathered."""
    targets = TARGETS.copy()
    order = sessions_of(EXAMPLES, "fit")
    targets[order[5][0], 0] = np.inf
    with pytest.raises(BadInput, match=str(STORE.sessions[5])):
        list(SessionLoader(EXAMPLES, targets, order, ahead=3))
