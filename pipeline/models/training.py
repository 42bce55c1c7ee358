"""The training loop of every net: whole sessions as batches, epochs selected by an objective, resumable.

Architectures live in `nets/`; the losses in `losses`.
"""

from __future__ import annotations

import logging
import math
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import polars as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pipeline.errors import BadInput
from pipeline.models.examples import Examples
from pipeline.models.family import CURVES, Objective, Progress
from pipeline.models.inputs import Inputs
from pipeline.models.losses import session_loss
from pipeline.models.metrics import session_rank_ic
from pipeline.models.scoring import with_heads

EVALUATION_ROWS = 4096
GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a net learns, and the seed of its orders and its dropout."""

    epochs: int
    learning_rate: float
    weight_decay: float
    seed: int


@contextmanager
def replayable(seed: int, threads: int) -> Iterator[None]:
    """Seeded torch on a fixed number of threads (its bits change with it); the caller's state comes back."""
    state, before = torch.get_rng_state(), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_rng_state(state)
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(deterministic)


def tensors(inputs: Inputs, index: NDArray[np.int64]) -> tuple[Tensor, ...]:
    """What a net reads of some rows: `x`, then the windows when the member has any."""
    parts = [inputs.x[index]] + ([inputs.windows(index)] if inputs.sequence.size else [])
    return tuple(torch.from_numpy(part) for part in parts)


def train(
    network: nn.Module,
    serving: nn.Module,
    examples: Examples,
    targets: NDArray[np.float32],
    schedule: Schedule,
    *,
    folder: Path,
    objective: Objective | None,
    progress: Progress,
) -> pl.DataFrame:
    """Fit `network` in place and leave it at its best epoch; the folder is gone afterwards.

    A folder left by a killed run continues after its last whole epoch and ends at the same weights.

    Parameters
    ----------
    network, serving : Module
        The same weights giving raw values (for the loss) and served ones (for the objective).
    targets : float32 [n, learned heads]
        In the units of the raw values.
    folder : Path
        For this very training only: name it by a hash of everything that shapes the result.

    Returns
    -------
    DataFrame
        `epoch`, `loss` (mean over sessions), `objective`.
    """
    selection = EpochSelection(serving, examples, objective or first_head_rank_ic(examples), progress)
    module = SessionTraining(network, examples, targets, schedule)
    checkpoint = ModelCheckpoint(folder, filename="epoch", save_top_k=1, enable_version_counter=False)
    last = folder / "epoch.ckpt"
    with _quiet():
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=schedule.epochs,
            callbacks=[selection, checkpoint],
            deterministic=True,
            gradient_clip_val=GRADIENT_NORM,
            reload_dataloaders_every_n_epochs=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
        )
        trainer.fit(module, ckpt_path=last if last.exists() else None, weights_only=True)
    network.load_state_dict(selection.best_weights)
    shutil.rmtree(folder)
    return selection.curves


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


class SessionBatches(Dataset):
    """One item is one session of fit rows, gathered when asked for."""

    def __init__(self, examples: Examples, targets: NDArray[np.float32]) -> None:
        fit = examples.rows("fit")
        cuts = np.flatnonzero(np.diff(examples.inputs.session_index[fit])) + 1
        self.sessions = np.split(fit, cuts)
        self.inputs, self.targets = examples.inputs, targets

    def __len__(self) -> int:
        return len(self.sessions)

    def __getitem__(self, item: int) -> tuple[tuple[Tensor, ...], Tensor]:
        index = self.sessions[item]
        return tensors(self.inputs, index), torch.from_numpy(self.targets[index])


class SessionTraining(lightning.LightningModule):
    """Lightning's view of a net: losses, optimiser, an order of sessions that depends on the epoch only."""

    def __init__(
        self, network: nn.Module, examples: Examples, targets: NDArray[np.float32], schedule: Schedule
    ) -> None:
        super().__init__()
        self.network, self.schedule = network, schedule
        self.kinds = [examples.heads[i].kind for i in examples.learned]
        self.batches = SessionBatches(examples, targets)
        self.losses: list[float] = []

    def train_dataloader(self) -> DataLoader:
        # A resumed run opens its loader twice: so the order is a list, and the seed that every opening draws
        # comes from a generator of its own instead of the one that dropout draws from.
        order = np.random.default_rng(self._epoch_seed()).permutation(len(self.batches)).tolist()
        return DataLoader(self.batches, batch_size=None, sampler=order, generator=torch.Generator())

    def on_train_epoch_start(self) -> None:
        # dropout starts afresh each epoch, so that a resumed run draws what an uninterrupted one would
        torch.manual_seed(self._epoch_seed())
        self.losses = []

    def training_step(self, batch: tuple[tuple[Tensor, ...], Tensor], _: int) -> Tensor:
        loss = session_loss(self.network(*batch[0]), batch[1], self.kinds)
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.network.parameters(),
            lr=self.schedule.learning_rate,
            weight_decay=self.schedule.weight_decay,
            fused=True,
        )

    def _epoch_seed(self) -> int:
        return self.schedule.seed * 100_003 + int(self.current_epoch)


class EpochSelection(Callback):
    """After each epoch: scores of the tune rows, their objective, and the weights if it is the best so far.

    Without tune rows, or while no epoch's objective is finite, the latest epoch is kept.
    """

    def __init__(self, serving: nn.Module, examples: Examples, objective: Objective, progress: Progress) -> None:
        self.serving, self.examples, self.objective, self.progress = serving, examples, objective, progress
        self.index = examples.rows("tune")
        self.best, self.best_weights, self.history = -math.inf, {}, []  # type: ignore[var-annotated]

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: SessionTraining) -> None:
        loss = float(np.mean(pl_module.losses))
        if not math.isfinite(loss):
            raise BadInput("a training loss is finite", loss, "lower the learning rate")
        value = self._evaluate()
        self.history.append([int(pl_module.current_epoch), loss, value])
        finite = value if value is not None and math.isfinite(value) else -math.inf
        if finite > self.best or self.best == -math.inf:
            self.best = finite
            self.best_weights = {k: v.clone() for k, v in pl_module.network.state_dict().items()}
        done = len(self.history)
        self.progress(f"epoch {done} of {trainer.max_epochs}: loss {loss:.4f}", done / trainer.max_epochs)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_weights": self.best_weights, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.history = state_dict["best"], state_dict["history"]
        self.best_weights = state_dict["best_weights"]

    @property
    def curves(self) -> pl.DataFrame:
        """`epoch`, `loss`, `objective`."""
        return pl.DataFrame(self.history, schema=CURVES, orient="row")

    def _evaluate(self) -> float | None:
        if not self.index.size:
            return None
        self.serving.eval()
        with torch.no_grad():
            parts = [
                self.serving(*tensors(self.examples.inputs, self.index[start : start + EVALUATION_ROWS]))
                for start in range(0, len(self.index), EVALUATION_ROWS)
            ]
        self.serving.train()
        rows = self.examples.inputs.rows[self.index]
        return float(self.objective(with_heads(rows, self.examples.heads, torch.cat(parts).numpy())))


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
