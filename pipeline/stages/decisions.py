"""What a study does with calibrated scores. This is the one place that chooses: a top-k book, or a position manager."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import polars as pl

from pipeline.spec import Spec
from pipeline.stages import position_manager, top_k
from pipeline.stages.contract import Reader, StageResult
from pipeline.study import Study

Scores = Callable[[pl.DataFrame], float]


class Decisions(Protocol):
    """From calibrated scores to a policy, from a policy to trades, and what the gates must know of them."""

    def head_objective(self, study: Study, read: Reader) -> Scores | None:
        """Value of raw scores, for families that choose an epoch; None where no family of the study does."""

    def choose(self, study: Study, read: Reader, tuned: pl.DataFrame, origin: str) -> tuple[Spec, pl.DataFrame]:
        """The policy chosen on a split's tune rows, and the whole search."""

    def read_policy(self, data: bytes) -> Spec:
        """A policy from `policy.json`."""

    def adopted(self, policy: Spec, origin: str) -> Spec:
        """A split's policy as a bundle takes it over."""

    def columns(self, study: Study) -> list[str] | None:
        """Columns of `predictions` that books are made from; None for all."""

    def backtest(
        self, study: Study, read: Reader, predictions: pl.DataFrame, policies: Mapping[str, Spec]
    ) -> StageResult:
        """Books on every path and on the locked stretch: at least `trades`, `equity`, `metrics` and `excess`."""

    def excess(
        self, study: Study, read: Reader, predictions: pl.DataFrame, policies: Mapping[str, Spec]
    ) -> pl.DataFrame:
        """`book`, `session`, `excess` of other scores under the same policies: what a trial is recorded with."""

    def rank_ic(self, predictions: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
        """[split,] session, pairs, rank_ic of `score` with `ret`, as these rows are compared with each other."""

    def evidence(self, study: Study, read: Reader) -> dict[str, Any]:
        """Fields of `Evidence` that only these books can fill, `facts` among them."""


BY_POLICY: dict[str, Decisions] = {"top_k": top_k, "position_manager": position_manager}


def decisions(study: Study) -> Decisions:
    """How a study of this policy decides."""
    return BY_POLICY[study.policy.family]
