"""The training loop of every net: whole sessions as batches, epochs selected on tune rows, resumable, watched.

Architectures live in `nets/`; the losses in `losses`; what a batch must be in `batches`.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as lightning
import numba
import numpy as np
import polars as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import BadInput, SchemaError
from pipeline.models.batches import Batch, SessionLoader, sessions_of
from pipeline.models.examples import Examples
from pipeline.models.family import CURVES, Objective, Progress
from pipeline.models.losses import HeadLosses, UncertaintyWeights, head_losses, least_names
from pipeline.models.metrics import session_rank_ic
from pipeline.models.nets.served import Served
from pipeline.models.scoring import with_heads

determinism: Any = torch.utils.deterministic  # it sets its attributes at run time
GRADIENT_NORM = 1.0
TOLD_SECONDS = 5.0  # between lines about a running epoch
GPU_GATHERERS = 4  # one thread gathers 5,400 names in 0.03 to 0.1 s, which is about a GPU's step; a CPU's is 1.3 s
STEPS_TOLD = 0.999  # share of the fit that a running epoch may claim at most


@dataclass(frozen=True)
class Recipe:
    """How a net learns; every field shapes the weights.

    Parameters
    ----------
    select : str
        What chooses the epoch on the tune rows: `objective` or `loss`.
    precision : str
        As Lightning names it.
    """

    epochs: int
    learning_rate: float
    weight_decay: float
    rank_loss: str
    quantile: float
    uncertainty_weighting: bool
    select: Literal["objective", "loss"]
    accelerator: Literal["cpu", "cuda"]
    precision: str
    seed: int


@dataclass(frozen=True)
class Trained:
    """What came of a training; the network holds the chosen epoch's weights.

    Parameters
    ----------
    curves : DataFrame
        `epoch`, `loss` (mean over fit sessions), `tune_loss`, `objective`.
    epochs : list of dict
        Weights after each epoch.
    by_objective, by_loss : int or None
        The epoch that either rule chooses; None where no epoch has a finite value.
    chosen : int
    """

    curves: pl.DataFrame
    epochs: list[dict[str, Tensor]]
    by_objective: int | None
    by_loss: int | None
    chosen: int


@contextmanager
def replayable(seed: int, threads: int) -> Iterator[None]:
    """Seeded torch on a fixed number of threads (its bits change with it); the caller's state comes back.

    numba's pool is started first: started later, by the first parallel kernel inside, it would set OpenMP's number of
    threads for torch too. Steps of 200 names then took 0.6 s instead of 0.03 on a crowded pair of cores.
    """
    numba.get_num_threads()
    state, before = torch.get_rng_state(), torch.get_num_threads()
    deterministic, filling = torch.are_deterministic_algorithms_enabled(), determinism.fill_uninitialized_memory
    determinism.fill_uninitialized_memory = False  # of every new tensor, with NaN: 3 % of a step
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_rng_state(state)
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(deterministic)
        determinism.fill_uninitialized_memory = filling


def accelerator_of(device: str) -> Literal["cpu", "cuda"]:
    """`auto` is a GPU where there is one; asking for one that is not there is an error."""
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise BadInput("device cuda needs a GPU that torch sees", "none", "set training.device to auto or cpu")
    return "cuda" if found and device != "cpu" else "cpu"


def precision_of(asked: str, accelerator: str) -> str:
    """Lightning's name of the arithmetic. `auto` is bfloat16 on GPUs that have it, float16 on older ones, and float32
    on a CPU: bfloat16 gained nothing there."""
    if asked == "auto":
        asked = "float32" if accelerator == "cpu" else "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}[asked]


def train(
    served: Served,
    examples: Examples,
    targets: NDArray[np.float32],
    recipe: Recipe,
    *,
    folder: Path,
    objective: Objective | None,
    progress: Progress,
) -> Trained:
    """Fit the network inside `served` in place and leave it at its chosen epoch; the folder is gone afterwards.

    A folder left by a killed run continues after its last whole epoch and ends at the same weights.

    Parameters
    ----------
    served : Served
        Gives raw values for the losses and served ones for the objective.
    targets : float32 [n, learned heads]
        In the units of the raw values.
    folder : Path
        For this very training only: named by a hash of everything that shapes the result. Holds a checkpoint per epoch.
    """
    module = SessionTraining(served, examples, targets, recipe, progress)
    selection = EpochSelection(module, objective or first_head_rank_ic(examples), folder.name, progress)
    checkpoint = ModelCheckpoint(folder, filename="{epoch:03d}", save_top_k=-1, enable_version_counter=False)
    with _quiet():
        trainer = lightning.Trainer(
            accelerator=recipe.accelerator,
            devices=1,
            max_epochs=recipe.epochs,
            precision=recipe.precision,  # type: ignore[arg-type]
            callbacks=[selection, checkpoint],
            deterministic=True if recipe.accelerator == "cpu" else "warn",
            gradient_clip_val=GRADIENT_NORM,
            reload_dataloaders_every_n_epochs=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
        )
        trainer.fit(module, ckpt_path=_newest(folder), weights_only=True)
    served.cpu()
    weights = [_weights(path) for path in sorted(folder.glob("epoch=*.ckpt"))]
    found = selection.trained(weights, recipe.select)
    served.network.load_state_dict(weights[found.chosen])
    shutil.rmtree(folder)
    return found


def _newest(folder: Path) -> Path | None:
    return max(folder.glob("epoch=*.ckpt"), default=None)


def _weights(path: Path) -> dict[str, Tensor]:
    """The network's weights in a checkpoint, on the CPU."""
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "served.network."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def first_head_rank_ic(examples: Examples) -> Objective:
    """The default objective: mean rank IC, over tune sessions, of the first head that is learned."""
    index = examples.rows("tune")
    column = int(examples.learned[0])
    truth, session = examples.targets[index, column], examples.inputs.session_index[index]

    def objective(scores: pl.DataFrame) -> float:
        score = scores[f"{examples.heads[column].name}_head"].to_numpy()
        known = ~np.isnan(truth)
        ic = session_rank_ic(truth[known], score[known], session[known])
        return float(np.nanmean(ic)) if np.isfinite(ic).any() else math.nan

    return objective


class SessionTraining(lightning.LightningModule):
    """Lightning's view of a net: losses, optimiser, an order of sessions that depends on the epoch only."""

    def __init__(
        self,
        served: Served,
        examples: Examples,
        targets: NDArray[np.float32],
        recipe: Recipe,
        progress: Progress,
    ) -> None:
        super().__init__()
        self.served, self.recipe, self.told = served, recipe, progress
        self.examples, self.targets = examples, targets
        self.kinds = [examples.heads[i].kind for i in examples.learned]
        self.weights = UncertaintyWeights(self.kinds) if recipe.uncertainty_weighting else None
        self.sessions = _teaching(sessions_of(examples, "fit"), targets, self.kinds)
        self.losses: list[Tensor] = []
        self._last_told = time.perf_counter()

    def train_dataloader(self) -> SessionLoader:
        order = np.random.default_rng(self._epoch_seed()).permutation(len(self.sessions))
        return self.loader([self.sessions[i] for i in order])

    def loader(self, sessions: Sequence[NDArray[np.int64]]) -> SessionLoader:
        """Batches for the device that trains."""
        on_gpu = self.recipe.accelerator == "cuda"
        return SessionLoader(
            self.examples, self.targets, sessions, ahead=GPU_GATHERERS if on_gpu else 1, pinned=on_gpu
        )

    def on_train_epoch_start(self) -> None:
        # dropout starts afresh each epoch, so that a resumed run draws what an uninterrupted one would
        torch.manual_seed(self._epoch_seed())
        self.losses = []

    def training_step(self, batch: Batch, step: int) -> Tensor:
        losses = self.head_losses(self.served.network(*batch.inputs), batch.targets)
        total = self.weights(losses) if self.weights is not None else losses.values.sum()
        self.losses.append(losses.values.detach().sum())
        self._tell(step)
        return total

    def head_losses(self, raw: Tensor, targets: Tensor) -> HeadLosses:
        """Of one session."""
        return head_losses(raw, targets, self.kinds, rank_loss=self.recipe.rank_loss, quantile=self.recipe.quantile)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [{"params": list(self.served.network.parameters())}]
        if self.weights is not None:
            groups.append(self.weights.parameter_group())
        return torch.optim.AdamW(
            groups, lr=self.recipe.learning_rate, weight_decay=self.recipe.weight_decay, fused=True
        )

    def _tell(self, step: int) -> None:
        """A line about a long epoch now and then; asking for the loss waits for the device."""
        now = time.perf_counter()
        if now - self._last_told < TOLD_SECONDS:
            return
        self._last_told = now
        epoch, n = int(self.current_epoch), len(self.sessions)
        share = min((epoch + (step + 1) / n) / self.recipe.epochs, STEPS_TOLD)
        text = (
            f"epoch {epoch + 1} of {self.recipe.epochs}, session {step + 1} of {n}: loss {float(self.losses[-1]):.4f}"
        )
        self.told(text, share)

    def _epoch_seed(self) -> int:
        return self.recipe.seed * 100_003 + int(self.current_epoch)


def _teaching(
    sessions: Sequence[NDArray[np.int64]], targets: NDArray[np.float32], kinds: Sequence[str]
) -> list[NDArray[np.int64]]:
    """Sessions in which some head has a loss: a step on any other would move weights by momentum and decay alone."""
    least = least_names(kinds)
    found = [rows for rows in sessions if (np.count_nonzero(~np.isnan(targets[rows]), axis=0) >= least).any()]
    if not found:
        observed = f"none of {len(sessions)} fit sessions"
        remedy = "widen the universe or the split's training sessions"
        raise BadInput("a net learns from sessions with a label, of three names for a rank", observed, remedy)
    return found


class EpochSelection(Callback):
    """After each epoch: loss and objective of the tune rows. Without tune rows the latest epoch is chosen."""

    def __init__(self, module: SessionTraining, objective: Objective, identity: str, progress: Progress) -> None:
        self.module, self.objective, self.identity, self.progress = module, objective, identity, progress
        self.sessions = sessions_of(module.examples, "tune")
        self.history: list[tuple[int, float, float | None, float | None]] = []
        self.resumed, self.started = 0, time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: SessionTraining) -> None:
        loss = float(torch.stack(pl_module.losses).mean())
        if not math.isfinite(loss):
            raise BadInput("a training loss is finite", loss, "lower the learning rate, or train in float32")
        tune_loss, value = self._evaluate()
        self.history.append((int(pl_module.current_epoch), loss, tune_loss, value))
        done, epochs = len(self.history), pl_module.recipe.epochs
        spent = (time.perf_counter() - self.started) / (done - self.resumed)
        parts = [f"loss {loss:.4f}"]
        parts += [f"tune loss {tune_loss:.4f}"] if tune_loss is not None else []
        parts += [f"objective {value:.4f}"] if value is not None else []
        left = f", about {spent * (epochs - done):.0f} s left" if done < epochs else ""
        self.progress(f"epoch {done} of {epochs}: {', '.join(parts)}{left}", done / epochs)

    def state_dict(self) -> dict[str, Any]:
        return {"identity": self.identity, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["identity"] != self.identity:
            raise SchemaError(
                "a training resumes from its own checkpoint only",
                f"{state_dict['identity']}, wanted {self.identity}",
                "delete the scratch folder; inputs, member or code have changed since",
            )
        self.history = [tuple(row) for row in state_dict["history"]]
        self.resumed, self.started = len(self.history), time.perf_counter()

    def trained(self, weights: list[dict[str, Tensor]], select: str) -> Trained:
        """The curves and both choices."""
        curves = pl.DataFrame(self.history, schema=CURVES, orient="row")
        by_objective = _best([-v if v is not None else None for v in curves["objective"]])
        by_loss = _best(curves["tune_loss"].to_list())
        chosen = by_objective if select == "objective" else by_loss
        return Trained(curves, weights, by_objective, by_loss, len(weights) - 1 if chosen is None else chosen)

    def _evaluate(self) -> tuple[float | None, float | None]:
        """Mean tune loss, and the objective of the served tune scores."""
        if not self.sessions:
            return None, None
        module = self.module
        losses, parts = [], []
        module.served.eval()
        with torch.no_grad(), torch.autocast(module.device.type, enabled=False):
            for batch in module.loader(self.sessions):
                raw = module.served.network(*(part.to(module.device, non_blocking=True) for part in batch.inputs))
                losses.append(module.head_losses(raw, batch.targets.to(module.device)).values.sum())
                parts.append(module.served.serve(raw).cpu())
        module.served.train()
        rows = module.examples.inputs.take(np.concatenate(self.sessions)).rows
        scores = with_heads(rows, module.examples.heads, torch.cat(parts).numpy())
        return float(torch.stack(losses).mean()), float(self.objective(scores))


def _best(costs: Sequence[float | None]) -> int | None:
    """The first epoch of the least finite cost."""
    finite = [(cost, epoch) for epoch, cost in enumerate(costs) if cost is not None and math.isfinite(cost)]
    return min(finite)[1] if finite else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's hints on devices and data loaders are not for the readers of our logs."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
