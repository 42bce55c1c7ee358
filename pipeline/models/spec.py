"""Members: the model families of a study's ensemble, and what each reads of a row.

Not here: how a family fits, and what the arrays of a layout look like (`inputs`).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.spec import Spec

FilmPlace = Literal["intraday", "daily", "towers", "execution", "trunk"]
FILM_PLACES: tuple[FilmPlace, ...] = ("intraday", "daily", "towers", "execution", "trunk")


class Layout(Spec):
    """What a row's tensors hold beside its own features `x`; see `inputs.Inputs`.

    Parameters
    ----------
    window : int
        Sessions of daily features, the row's own one last.
    daily : tuple of str
        Features that the window holds.
    intraday_sessions : int
        Recent sessions of minute bars, the row's own one last; 0 reads none.
    categories : tuple of str
        Panel columns, or features with few values, that are embedded.
    """

    window: int = Field(default=1, ge=1)
    daily: tuple[str, ...] = ()
    intraday_sessions: int = Field(default=0, ge=0)
    categories: tuple[str, ...] = ()

    @property
    def sessions(self) -> int:
        """Sessions that one row reads, its own included."""
        return max(self.window, self.intraday_sessions)


class LinearSpec(Spec):
    """Ridge on cross-sectional ranks, one closed-form fit for all heads."""

    family: Literal["linear"] = "linear"
    name: str = "linear"
    penalty: float = Field(default=1e-3, gt=0)  # per row

    @property
    def layout(self) -> Layout:
        return Layout()


class BoostedSpec(Spec):
    """LightGBM, one deterministic model per head."""

    family: Literal["boosted"] = "boosted"
    name: str = "boosted"
    rounds: int = Field(default=60, ge=1)
    leaves: int = Field(default=31, ge=2)
    learning_rate: float = Field(default=0.08, gt=0)
    max_bin: int = Field(default=63, ge=3)
    min_rows_in_leaf: int = Field(default=200, ge=1)
    column_share: float = Field(default=0.5, gt=0, le=1)
    row_share: float = Field(default=0.8, gt=0, le=1)

    @property
    def layout(self) -> Layout:
        return Layout()


class LinearHeadsSpec(Spec):
    """Logistic and Huber heads on standardised inputs, one graph per model, with the scaler folded into its weights.

    Parameters
    ----------
    inverse_penalty : float
        scikit-learn's C of the logistic heads.
    huber_alpha, huber_epsilon : float
        Ridge penalty of the regression heads, and deviations from which an error counts linearly.
    iterations : int
        At most, per head.
    """

    family: Literal["heads_linear"] = "heads_linear"
    name: str = "heads_linear"
    inverse_penalty: float = Field(default=1.0, gt=0)
    huber_alpha: float = Field(default=1e-3, ge=0)
    huber_epsilon: float = Field(default=1.35, gt=1)
    iterations: int = Field(default=500, ge=1)

    @property
    def layout(self) -> Layout:
        return Layout()


class TreeHeadsSpec(Spec):
    """LightGBM on inputs as they are stored, stopped early on the purged end of the fit rows.

    Parameters
    ----------
    rounds : int
        At most.
    patience : int
        Rounds without a gain on the stopping rows.
    stopping_share : float
        Newest share of a head's fit rows that says when to stop; what overlaps it is purged from fitting.
    """

    family: Literal["heads_trees"] = "heads_trees"
    name: str = "heads_trees"
    rounds: int = Field(default=180, ge=1)
    patience: int = Field(default=20, ge=1)
    stopping_share: float = Field(default=0.15, gt=0, lt=1)
    leaves: int = Field(default=31, ge=2)
    learning_rate: float = Field(default=0.04, gt=0)
    l2: float = Field(default=0.02, ge=0)
    max_bin: int = Field(default=255, ge=3)
    min_rows_in_leaf: int = Field(default=20, ge=1)

    @property
    def layout(self) -> Layout:
        return Layout()


class IntradayPathSpec(Spec):
    """Path A: minute bars of recent sessions, one token per stock-day.

    Parameters
    ----------
    sessions : int
        Recent sessions, the row's own one last.
    kernels : tuple of int
        Odd widths, in bars, of the parallel convolutions.
    width : int
        Filters per kernel.
    """

    sessions: int = Field(default=3, ge=1)
    kernels: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(3, 9), min_length=1)
    width: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _odd(self) -> Self:
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise ValueError(f"kernels are odd, so that a bar is the middle of its own; got {self.kernels}")
        return self


class DailyPathSpec(Spec):
    """Path B: a window of daily features, fused with Path A's tokens, through a GRU."""

    window: int = Field(default=20, ge=2)
    features: tuple[str, ...] = Field(min_length=1)


class TowerSpec(Spec):
    """One tower of Path C: numeric features and embedded categories of the row's own session."""

    name: str
    features: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _reads_something(self) -> Self:
        if not self.features and not self.categories:
            raise ValueError(f"a tower reads features or categories; {self.name} reads neither")
        return self


class MultiPathNetSpec(Spec):
    """Minute bars, daily sequence and cross-section, modulated by the market's state, six heads.

    Parameters
    ----------
    intraday, daily : spec or None
        Paths A and B; None switches one off.
    towers : tuple of TowerSpec
        Path C; empty switches it off, its post tower over all features included.
    execution : tuple of str
        Features of the execution context; empty switches it off.
    regime : tuple of str
        Market features that describe the regime.
    film : tuple of str
        Places that the regime modulates; empty switches FiLM off.
    film_bound : float
        gamma stays in 1 +- bound, beta in +- bound.
    hidden : int
        Width of tokens, of the recurrent state, of tower outputs and of the trunk.
    embedding : int
        Width of a category's embedding.
    rank_loss : str
        Listwise loss of the rank heads, per session.
    quantile : float
        Which quantile the pinball loss of the regression heads asks for.
    uncertainty_weighting : bool
        Learned weights of the heads (Kendall 2018) instead of equal ones.
    precision : str
        `auto`: bfloat16 (or float16) products where the hardware multiplies them natively, float32 elsewhere.
    select : str
        What chooses the epoch on the tune rows: the execution-aware objective, or the loss.
    """

    family: Literal["multi_path"] = "multi_path"
    name: str = "multi_path"
    intraday: IntradayPathSpec | None = None
    daily: DailyPathSpec | None = None
    towers: tuple[TowerSpec, ...] = ()
    execution: tuple[str, ...] = ()
    regime: tuple[str, ...] = ()
    film: tuple[FilmPlace, ...] = FILM_PLACES
    film_bound: float = Field(default=0.9, gt=0, le=2)
    hidden: int = Field(default=32, ge=1)
    embedding: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    epochs: int = Field(default=3, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    rank_loss: Literal["ic", "list_mle"] = "ic"
    quantile: float = Field(default=0.5, gt=0, lt=1)
    uncertainty_weighting: bool = False
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    select: Literal["objective", "loss"] = "objective"

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if not (self.intraday or self.daily or self.towers):
            raise ValueError("a net has at least one path; intraday, daily and towers are all off")
        if self.film and not self.regime:
            raise ValueError(f"FiLM at {self.film} needs regime features; name them or set film to ()")
        names = [tower.name for tower in self.towers]
        if len(set(names)) != len(names):
            raise ValueError(f"towers are named once each; got {names}")
        return self

    @property
    def layout(self) -> Layout:
        embedded = dict.fromkeys(name for tower in self.towers for name in tower.categories)
        return Layout(
            window=self.daily.window if self.daily else 1,
            daily=self.daily.features if self.daily else (),
            intraday_sessions=self.intraday.sessions if self.intraday else 0,
            categories=tuple(embedded),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Every feature that is named, for the check against the study's plan."""
        towers = [name for tower in self.towers for name in tower.features]
        return (*self.layout.daily, *towers, *self.execution, *self.regime)


MemberSpec = Annotated[
    LinearSpec | BoostedSpec | LinearHeadsSpec | TreeHeadsSpec | MultiPathNetSpec, Field(discriminator="family")
]


class TrainingSpec(Spec):
    """What makes training replayable: seeds, thread counts and the device belong to the study.

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
    device : str
        Where nets train: `auto` takes a GPU where there is one. A weight's bits depend on it; scores do not leave
        the CPU.
    serving_batch : int
        Rows per call of an exported graph.
    row_cap : int or None
        Labelled fit rows a head trains on at most; the newest are kept.
    """

    seed: int = 7
    threads: int = Field(default=1, ge=1)
    net_threads: int = Field(default=1, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    serving_batch: int = Field(default=64, ge=1)
    row_cap: int | None = Field(default=None, ge=1)
