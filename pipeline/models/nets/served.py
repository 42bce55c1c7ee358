"""A net in the form that is exported: raw head values become what a reader of scores expects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.models.export import LOGIT_EDGE


class Served(nn.Module):
    """Probabilities in (0, 1), regressions in their own unit, ranks as they are.

    Parameters
    ----------
    network : Module
        Gives raw values [n, H].
    probability : sequence of bool [H]
    location, spread : float32 [H]
        Of the regression heads' labels on the fit rows; 0 and 1 elsewhere.
    """

    def __init__(
        self,
        network: nn.Module,
        probability: Sequence[bool],
        location: NDArray[np.float32],
        spread: NDArray[np.float32],
    ) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("probability", torch.tensor(probability))
        self.register_buffer("location", torch.from_numpy(location))
        self.register_buffer("spread", torch.from_numpy(spread))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.serve(self.network(*inputs))

    def serve(self, raw: Tensor) -> Tensor:
        """Raw values [n, H] as they are served."""
        risen = torch.sigmoid(torch.clamp(raw, -LOGIT_EDGE, LOGIT_EDGE))
        own_unit = raw * self.get_buffer("spread") + self.get_buffer("location")
        return torch.where(self.get_buffer("probability"), risen, own_unit)
