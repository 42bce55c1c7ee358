"""How a study divides its sessions."""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import Literal

from pydantic import Field, model_validator

from pipeline.spec import Spec


class FoldSpec(Spec):
    """CPCV or walk-forward over whole sessions, plus a locked stretch at the end.

    Parameters
    ----------
    scheme : {"cpcv", "expanding", "rolling"}
        Combinatorial, or walk-forward with a growing or a fixed-length past.
    n_groups, n_test_groups : int
        Contiguous session groups and how many are tested per split (walk-forward tests one).
    embargo_sessions : int
        Sessions after each test block that do not train, on the market's calendar.
    tune_share : float
        Share of a split's training sessions that form the one contiguous tune group.
    locked_share : float
        Share of the sessions, at the end, that no search may see.
    stress_share : float
        Share of the sessions, after the locked stretch, that the locked split tests as a second stretch.
    rolling_groups : int
        Groups of past that a rolling walk-forward trains on.
    """

    scheme: Literal["cpcv", "expanding", "rolling"] = "cpcv"
    n_groups: int = Field(default=6, ge=2)
    n_test_groups: int = Field(default=2, ge=1)
    embargo_sessions: int = Field(default=0, ge=0)
    tune_share: float = Field(default=0.2, gt=0, lt=1)
    locked_share: float = Field(default=0.15, ge=0, lt=1)
    stress_share: float = Field(default=0.0, ge=0, lt=1)
    rolling_groups: int = Field(default=3, ge=1)

    @model_validator(mode="after")
    def _testable(self) -> FoldSpec:
        if self.n_test_groups >= self.n_groups:
            raise ValueError(
                f"n_test_groups must be below n_groups; got {self.n_test_groups} of {self.n_groups}"
            )
        if self.stress_share and not self.locked_share:
            raise ValueError(
                f"a stress stretch follows a locked one: set locked_share too; got stress_share {self.stress_share}"
            )
        if self.locked_share + self.stress_share >= 1:
            raise ValueError(
                f"the sealed stretches leave sessions to train on: locked_share + stress_share below 1; "
                f"got {self.locked_share} and {self.stress_share}"
            )
        return self

    @property
    def test_groups(self) -> dict[str, tuple[int, ...]]:
        """Split name -> tested groups, in order; the locked split tests `sealed_groups`.

        CPCV(6,2): 15 splits `cpcv_00`..`cpcv_14`; walk-forward over 6 groups: 5 splits `walk_00`..`walk_04`.
        """
        if self.scheme == "cpcv":
            chosen = {
                f"cpcv_{i:02d}": groups
                for i, groups in enumerate(combinations(range(self.n_groups), self.n_test_groups))
            }
        else:
            chosen = {f"walk_{i:02d}": (i + 1,) for i in range(self.n_groups - 1)}
        return chosen | ({LOCKED: self.sealed_groups} if self.locked_share else {})

    @property
    def sealed_groups(self) -> tuple[int, ...]:
        """Groups after all that is searched: the locked stretch, and the stress stretch where there is one."""
        return tuple(range(self.n_groups, self.n_groups + (self.locked_share > 0) + (self.stress_share > 0)))

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.test_groups)

    @property
    def n_paths(self) -> int:
        """Full-length out-of-sample series: C(N-1, k-1) for CPCV, one for walk-forward."""
        return comb(self.n_groups - 1, self.n_test_groups - 1) if self.scheme == "cpcv" else 1


LOCKED = "locked"
PRODUCTION = "production"
