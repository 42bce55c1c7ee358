"""What a study predicts."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.spec import Spec

HeadKind = Literal["rank", "probability", "regression"]


ALL_FIT_ROWS = "ALL_FIT_ROWS"
PLAIN = r"^([a-z][a-z0-9_]*)?$"  # becomes part of file names


class PopulationSpec(Spec):
    """The fit rows that a head of one side trains on. Only fitting is filtered: all rows are scored and evaluated.

    Parameters
    ----------
    method : str
        `direction_label`: `column` is 1. `side_opportunity`: `column` is at least `least_bps`.
    side : str
    column : str
        Label column of that side: a direction target, or its max achievable edge in bps.
    least_bps : float
    """

    method: Literal["direction_label", "side_opportunity"]
    side: Literal["LONG", "SHORT"]
    column: str = Field(min_length=1)
    least_bps: float = Field(default=40.0, allow_inf_nan=False)

    @property
    def fit_filter(self) -> str:
        """The name under which a head records it."""
        if self.method == "direction_label":
            return f"DIRECTION_LABEL_{self.side}_FIT_ROWS"
        return f"SIDE_OPPORTUNITY_{self.side}_GE_{self.least_bps:g}_BPS_FIT_ROWS"


class HeadSpec(Spec):
    """One output of every member: raw score `<name>_head`, served column `<name>_pred`.

    Parameters
    ----------
    name : str
    kind : str
    target : str
        Label column; the head's name when empty.
    model : str
        The file of a multi-head member that serves this head; empty for the only one.
    softmax : str
        Heads of one group have one-hot labels, and probabilities that add to 1.
    population : PopulationSpec or None
        Fit rows that the head trains on; None takes all.
    """

    name: str
    kind: HeadKind
    target: str = ""
    model: str = Field(default="", pattern=PLAIN)
    softmax: str = Field(default="", pattern=PLAIN)
    population: PopulationSpec | None = None

    @model_validator(mode="after")
    def _softmax_of_probabilities(self) -> Self:
        if self.softmax and self.kind != "probability":
            raise ValueError(f"a softmax is made of probability heads; {self.name} is a {self.kind} head")
        return self

    @property
    def label(self) -> str:
        """The column that holds its truth."""
        return self.target or self.name

    @property
    def fit_filter(self) -> str:
        """Which fit rows it trains on, in a word."""
        return self.population.fit_filter if self.population else ALL_FIT_ROWS


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

    @property
    def reach(self) -> int:
        """Sessions after its own that a label may look into."""
        return self.exit_session + self.max_exit_delay
