"""What a study predicts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.spec import Spec

HeadKind = Literal["rank", "probability", "regression"]


class HeadSpec(Spec):
    """One output of every member: label `<name>`, raw score `<name>_head`, served column `<name>_pred`."""

    name: str
    kind: HeadKind


class LabelSpec(Spec):
    """T+1 open to T+`exit_session` close, carried while the exit is blocked.

    Parameters
    ----------
    exit_session : int
        Sessions after the decision at whose close the position should leave.
    max_exit_delay : int
        Sessions a blocked exit is carried before the label is censored.
    tail : float
        Upper share of the cross-section that counts as a favourable return.
    """

    family: str
    heads: tuple[HeadSpec, ...]
    exit_session: int = Field(default=3, ge=1)
    max_exit_delay: int = Field(default=10, ge=0)
    tail: float = Field(default=0.2, gt=0, lt=1)
