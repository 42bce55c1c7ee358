"""Groups and roles of whole sessions. Rows and their label spans are the business of `purging.py`."""

from __future__ import annotations

import numpy as np

from pipeline.errors import BadInput
from pipeline.folds.spec import LOCKED, FoldSpec

ROLES = ("fit", "tune", "test", "unused")
FIT, TUNE, TEST, UNUSED = range(4)


def session_groups(n_sessions: int, spec: FoldSpec) -> np.ndarray:
    """Group of each session, ascending (int16); the locked stretch is group `n_groups`, a stress stretch the next."""
    n_locked, n_stress = round(spec.locked_share * n_sessions), round(spec.stress_share * n_sessions)
    free = n_sessions - n_locked - n_stress
    if spec.locked_share and not n_locked:
        raise BadInput("the locked stretch must hold at least one session",
                       f"{spec.locked_share:g} of {n_sessions} sessions",
                       "label more sessions or raise locked_share")
    if spec.stress_share and not n_stress:
        raise BadInput("the stress stretch must hold at least one session",
                       f"{spec.stress_share:g} of {n_sessions} sessions",
                       "label more sessions or raise stress_share")
    if free < spec.n_groups:
        raise BadInput("every group must hold at least one session",
                       f"{free} sessions before the locked stretch for {spec.n_groups} groups",
                       "label more sessions, or lower n_groups, locked_share or stress_share")
    sizes = np.full(spec.n_groups, free // spec.n_groups)
    sizes[: free % spec.n_groups] += 1
    return np.repeat(np.arange(spec.n_groups + 2, dtype=np.int16), [*sizes, n_locked, n_stress])


def session_roles(groups: np.ndarray, split: str, spec: FoldSpec) -> np.ndarray:
    """Role code of each session in a split (int8).

    CPCV trains on every group before the locked stretch that it does not test, the locked split on all of
    them, walk-forward on the groups before the tested one (rolling: on the last `rolling_groups` of these).
    """
    tested = spec.test_groups[split]
    role = np.full(len(groups), UNUSED, np.int8)
    if split == LOCKED or spec.scheme == "cpcv":
        role[groups < spec.n_groups] = FIT
    else:
        oldest = tested[0] - spec.rolling_groups if spec.scheme == "rolling" else 0
        role[(groups >= oldest) & (groups < tested[0])] = FIT
    role[np.isin(groups, tested)] = TEST
    return with_tune(role, split, spec)


def with_tune(role: np.ndarray, split: str, spec: FoldSpec) -> np.ndarray:
    """Turn the latest unbroken run of `tune_share` of the training sessions from fit into tune.

    In walk-forward, locked and production splits this is the end of training; in CPCV it is the end of the
    latest stretch between test blocks that is long enough.
    """
    n_tune = max(1, round(spec.tune_share * int((role == FIT).sum())))
    trained = np.cumsum(role == FIT)
    unbroken = trained - np.maximum.accumulate(np.where(role == FIT, 0, trained))
    if n_tune > unbroken.max():
        raise BadInput("the tune group must fit into one stretch of training sessions",
                       f"split {split}: {n_tune} sessions wanted, longest stretch {unbroken.max()}",
                       "lower tune_share")
    end = int(np.flatnonzero(unbroken >= n_tune)[-1]) + 1
    divided = role.copy()
    divided[end - n_tune : end] = TUNE
    return divided


def session_blocks(marked: np.ndarray) -> np.ndarray:
    """Id of each unbroken run of marked sessions, -1 elsewhere (int32)."""
    first = marked & ~np.concatenate(([False], marked[:-1]))
    return np.where(marked, np.cumsum(first) - 1, -1).astype(np.int32)
