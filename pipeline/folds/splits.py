"""Which rows fit, tune and test in each split, with a certificate.

Whole sessions get a role (`sessions.py`); the rows in `purged` leave it (`purging.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

from pipeline.calendars import Calendar
from pipeline.errors import BadInput, LookAheadError
from pipeline.folds.certificate import certify, require_apart
from pipeline.folds.paths import PATHS_SCHEMA, paths_of
from pipeline.folds.purging import KEPT, SPAN, Spans, purge
from pipeline.folds.sessions import (
    FIT,
    ROLES,
    TEST,
    TUNE,
    UNUSED,
    session_blocks,
    session_groups,
    session_roles,
    with_tune,
)
from pipeline.folds.spec import LOCKED, PRODUCTION, FoldSpec
from pipeline.frames import require_columns, row_key

CAUSES = ("", "span", "embargo", "tune", "open")  # position = code; the first two of `purging.py` come first
_TUNE, _OPEN = 3, 4


@dataclass(frozen=True)
class Folds:
    """Splits of a study as tables.

    Parameters
    ----------
    split_sessions : pl.DataFrame
        `split`, `session`, `group` (null for a session without any known label), `role`.
    purged : pl.DataFrame
        `split`, the key, `cause`: rows that do not take their session's role. `span` and
        `embargo` are training rows too near the test rows (`span` also locked rows that meet the stress rows), `tune`
        fit rows that meet the tune rows, `open` rows whose label is not yet known.
    paths : pl.DataFrame
        `path`, `group`, `split`.
    certificate : pl.DataFrame
        One row a split: `<role>_rows` and `<role>_sessions` that are left, `purged_<cause>` and `open_rows`,
        `overlap_rows` (0; training rows inside an embargo count too), `min_gap_sessions` between a training and a test
        span, and how often its tested sessions are tested in all splits (`tested_min`, `tested_max`,
        `tested_expected`); null if untested.
    """

    split_sessions: pl.DataFrame
    purged: pl.DataFrame
    paths: pl.DataFrame
    certificate: pl.DataFrame


def make_folds(labels: pl.DataFrame, calendar: Calendar, spec: FoldSpec) -> Folds:
    """Divide labelled rows into the splits of a spec.

    Sessions with at least one known label are cut: the last `locked_share` of them is the locked stretch
    (group `n_groups`; the last `stress_share`, if any, come after it as one more group), the rest falls into `n_groups`
    contiguous groups that differ by at most one session.

    Parameters
    ----------
    labels : pl.DataFrame
        The key, `label_start`, `label_end` (sessions, or instants in UTC); a null end means not yet known, and such
        a row is unused in every split.
    calendar : Calendar
        The market's sessions; purging and embargo count on it, never on rows.
    spec : FoldSpec
        Scheme and sizes.

    Raises
    ------
    BadInput
        Too few sessions, or a split that purging leaves without fit, tune or test rows.
    LookAheadError
        The certificate found an overlap: a defect in the purge.
    """
    spans = Spans.from_labels(labels, calendar)
    sessions = _labelled(spans)
    groups = session_groups(len(sessions), spec)
    roles_of = {split: session_roles(groups, split, spec) for split in spec.splits}
    folds = _divide(spans, sessions, groups, roles_of, spec, paths_of(spec))
    _require_rows(folds.certificate, ("fit", "tune", "test"))
    return folds


def production_folds(labels: pl.DataFrame, calendar: Calendar, spec: FoldSpec, cutoff: date) -> Folds:
    """One split, `production`: fit and tune over every row with `label_end <= cutoff`, nothing tested.

    Parameters
    ----------
    labels, calendar, spec
        As for `make_folds`; only `tune_share` and `embargo_sessions` matter here.
    cutoff : date
        Rows whose label ends later are `open`.

    Raises
    ------
    BadInput
        Too few labels are known at the cutoff to fit and tune.
    """
    known = pl.when(pl.col("label_end") <= cutoff).then(pl.col("label_end"))
    spans = Spans.from_labels(labels.with_columns(known), calendar)
    sessions = _labelled(spans)
    role = with_tune(np.full(len(sessions), FIT, np.int8), PRODUCTION, spec)
    groups = np.zeros(len(sessions), np.int16)
    folds = _divide(spans, sessions, groups, {PRODUCTION: role}, spec, pl.DataFrame(schema=PATHS_SCHEMA))
    _require_rows(folds.certificate, ("fit", "tune"))
    return folds


def roles(folds: Folds, split: str, rows: pl.DataFrame) -> pl.Series:
    """Role of each row in a split: `fit`, `tune`, `test`, `purged` or `unused`.

    Parameters
    ----------
    folds : Folds
        As made by `make_folds` or `production_folds`.
    split : str
        A split of these folds.
    rows : pl.DataFrame
        Rows of the labels that the folds were made from, in any order.

    Returns
    -------
    pl.Series
        Strings in the order of `rows`; a session that the folds do not know is `unused`.
    """
    require_columns(rows, ["session", "instrument"], "roles")
    of_split = pl.col("split") == split
    sessions = folds.split_sessions.filter(of_split).select("session", "role")
    if sessions.is_empty():
        raise BadInput("the split must be one of these folds", split,
                       f"choose from {folds.certificate['split'].to_list()}")
    key = row_key(rows)
    purged = folds.purged.filter(of_split).select(*key, "cause")
    found = (
        rows.select(key)
        .join(sessions, on="session", how="left", maintain_order="left")
        .join(purged, on=list(key), how="left", maintain_order="left")
    )
    role = (
        pl.when(pl.col("cause") == "open").then(pl.lit("unused"))
        .when(pl.col("cause").is_not_null()).then(pl.lit("purged"))
        .otherwise(pl.col("role").fill_null("unused"))
    )
    return found.select(role.alias("role")).to_series()


def fit_rows(folds: Folds, split: str, labels: pl.DataFrame) -> pl.DataFrame:
    """The key and `role` of labelled rows in a split, certified against their stored spans: what a fit is handed.

    Raises
    ------
    LookAheadError
        A row that the fit reads knows the time of one that it must not know.
    """
    return require_apart(labels.select(row_key(labels)).with_columns(role=roles(folds, split, labels)), labels)


def _labelled(spans: Spans) -> np.ndarray:
    """Ordinals of the sessions with at least one known label, ascending."""
    sessions = np.unique(spans.session[spans.end >= 0])
    if len(sessions) < 2:
        raise BadInput("folds need at least two sessions with known labels", len(sessions),
                       "label more sessions, or wait until their labels end")
    return sessions


def _divide(
    spans: Spans, sessions: np.ndarray, groups: np.ndarray, roles_of: dict[str, np.ndarray], spec: FoldSpec,
    paths: pl.DataFrame,
) -> Folds:
    """Purge every split and write the tables down, in key order."""
    at = np.searchsorted(sessions, spans.session).clip(max=len(sessions) - 1)
    used = sessions[at] == spans.session
    tested = np.sum([role == TEST for role in roles_of.values()], axis=0)
    purged, certificate = [], []
    for split in sorted(roles_of):
        role = roles_of[split]
        stress = used & (role[at] == TEST) & (groups[at] > spec.n_groups)
        kind_role, cause = _purge_split(spans, at, used, role, stress, spec.embargo_sessions)
        rows = spans.unfold(cause > 0)
        purged.append(_named(split, spans.keys[rows], "cause", CAUSES, cause[spans.kind[rows]]))
        facts = certify(spans, kind_role, cause, CAUSES, stress, spec.embargo_sessions * spans.ticks)
        facts |= _coverage(split, tested[role == TEST], spec)
        certificate.append(pl.DataFrame({"split": [split]} | {name: [n] for name, n in facts.items()},
                                        schema_overrides=dict.fromkeys(facts, pl.Int64)))
    folds = Folds(_session_table(spans, sessions, groups, roles_of), pl.concat(purged), paths,
                  pl.concat(certificate))
    leaks = folds.certificate.filter(pl.col("overlap_rows") > 0)
    if not leaks.is_empty():
        raise LookAheadError("no training span may meet a test span or its embargo, no fit span a tune span",
                             leaks.select("split", "overlap_rows").rows(), "report this: the purge is wrong")
    return folds


def _purge_split(
    spans: Spans, at: np.ndarray, used: np.ndarray, role: np.ndarray, stress: np.ndarray, embargo: int
) -> tuple[np.ndarray, np.ndarray]:
    """Role and cause code of each kind: against test rows, locked against stress, then fit against the tune left."""
    known = used & (spans.end >= 0)
    kind_role = np.where(known, role[at], UNUSED)
    train = (kind_role == FIT) | (kind_role == TUNE)
    block = np.where(kind_role == TEST, session_blocks(role == TEST)[at], -1)
    cause = purge(spans.start, spans.end, train, block, embargo * spans.ticks, spans.length)
    before = (kind_role == TEST) & ~stress
    by_stress = purge(spans.start, spans.end, before, np.where(known & stress, 0, -1), 0, spans.length)
    cause[by_stress != KEPT] = SPAN
    _require_locked(before & known, by_stress)
    kept = cause == KEPT
    tune = np.where((kind_role == TUNE) & kept, 0, -1)
    # No embargo here: where fit rows follow tune rows, a test block lies between, whose embargo ends later.
    by_tune = purge(spans.start, spans.end, (kind_role == FIT) & kept, tune, 0, spans.length)
    cause[by_tune != KEPT] = _TUNE
    cause[used & ~known & (role[at] != UNUSED)] = _OPEN
    return kind_role, cause


def _require_locked(locked: np.ndarray, by_stress: np.ndarray) -> None:
    """The locked stretch keeps rows beside a stress stretch: the certificate counts both together."""
    if (by_stress != KEPT).any() and not (locked & (by_stress == KEPT)).any():
        raise BadInput("the locked stretch must keep rows that end before the stress stretch",
                       f"all of {int(locked.sum())} spans reach into it", "raise locked_share, or shorten the labels")


def _coverage(split: str, times: np.ndarray, spec: FoldSpec) -> dict[str, int | None]:
    """How often the sessions that a split tests are tested over all splits, and how often they should be."""
    if not len(times):
        return dict.fromkeys(("tested_min", "tested_max", "tested_expected"))
    expected = 1 if split == LOCKED else spec.n_paths
    return {"tested_min": int(times.min()), "tested_max": int(times.max()), "tested_expected": expected}


def _session_table(
    spans: Spans, sessions: np.ndarray, groups: np.ndarray, roles_of: dict[str, np.ndarray]
) -> pl.DataFrame:
    """`split_sessions`; sessions without a known label are unused and belong to no group."""
    every = spans.keys.select(pl.col("session").unique(maintain_order=True))
    labelled = np.isin(np.unique(spans.session), sessions)
    group = np.full(len(labelled), -1, np.int16)
    group[labelled] = groups
    frame = every.with_columns(pl.Series("group", group)).with_columns(
        pl.when(pl.col("group") >= 0).then(pl.col("group"))
    )
    parts = []
    for split in sorted(roles_of):
        role = np.full(len(labelled), UNUSED, np.int8)
        role[labelled] = roles_of[split]
        parts.append(_named(split, frame, "role", ROLES, role))
    return pl.concat(parts)


def _named(
    split: str, frame: pl.DataFrame, column: str, names: tuple[str, ...], codes: np.ndarray
) -> pl.DataFrame:
    """The frame with its split in front and decoded names behind."""
    decoded = pl.Series(column, names, dtype=pl.String).gather(codes)
    return frame.select(pl.lit(split).alias("split"), pl.all(), decoded)


def _require_rows(certificate: pl.DataFrame, wanted: tuple[str, ...]) -> None:
    """An error naming the first split that has lost a whole role to purging."""
    for name in wanted:
        empty = certificate.filter(pl.col(f"{name}_rows") == 0)
        if not empty.is_empty():
            row = empty.row(0, named=True)
            raise BadInput(f"every split must keep {name} rows", row,
                           "groups must outlast label spans and embargo: label more sessions, or lower "
                           "n_groups, embargo_sessions or tune_share")
