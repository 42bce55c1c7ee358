"""Members: the model families of a study's ensemble.

Every member says how many sessions a row's inputs span (`window`) and which features it reads as a sequence.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.spec import Spec


class LinearSpec(Spec):
    """Ridge on cross-sectional ranks, one closed-form fit for all heads."""

    family: Literal["linear"] = "linear"
    name: str = "linear"
    window: ClassVar[int] = 1
    sequence_features: ClassVar[tuple[str, ...]] = ()
    penalty: float = Field(default=1e-3, gt=0)  # per row


class BoostedSpec(Spec):
    """LightGBM, one deterministic model per head."""

    family: Literal["boosted"] = "boosted"
    name: str = "boosted"
    window: ClassVar[int] = 1
    sequence_features: ClassVar[tuple[str, ...]] = ()
    rounds: int = Field(default=60, ge=1)
    leaves: int = Field(default=31, ge=2)
    learning_rate: float = Field(default=0.08, gt=0)
    max_bin: int = Field(default=63, ge=3)
    min_rows_in_leaf: int = Field(default=200, ge=1)
    column_share: float = Field(default=0.5, gt=0, le=1)
    row_share: float = Field(default=0.8, gt=0, le=1)


class SequenceNetSpec(Spec):
    """GRU over daily features fused with a cross-section MLP, six heads, trained on whole sessions."""

    family: Literal["sequence_net"] = "sequence_net"
    name: str = "sequence"
    hidden: int = Field(default=32, ge=1)
    window: int = Field(default=20, ge=2)
    epochs: int = Field(default=3, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    sequence_features: tuple[str, ...]


MemberSpec = Annotated[LinearSpec | BoostedSpec | SequenceNetSpec, Field(discriminator="family")]


class TrainingSpec(Spec):
    """What makes training replayable: seeds and thread counts belong to the study.

    Parameters
    ----------
    seed : int
    threads : int
        Of the linear solve and of LightGBM (whose bits do not change with it). Cores that other processes use
        make two threads spin: a split took 157 s instead of 19 at one thread on a crowded pair of cores, but
        3.9 s instead of about 8 on a quiet one. One thread each when splits run side by side.
    net_threads : int
        Of torch. At 200 names a session two threads gain nothing (4.9 s a split against 4.8) and, spinning on
        cores that others use, cost up to 78 s; train splits side by side instead. Raise it for whole markets.
    serving_batch : int
        Rows per call of an exported graph.
    """

    seed: int = 7
    threads: int = Field(default=1, ge=1)
    net_threads: int = Field(default=1, ge=1)
    serving_batch: int = Field(default=64, ge=1)
