"""Folds the slow way: every row against every row, from the written rules; no code of `pipeline.folds`."""

from __future__ import annotations

from itertools import combinations

import polars as pl


def brute_force_roles(labels: pl.DataFrame, sessions: list, spec) -> dict[str, dict[tuple, str]]:
    """Split -> (session, instrument) -> role or `purged:<cause>`, by comparing all pairs of rows.

    `sessions` is the calendar; spans are compared as half-open intervals of positions in it.
    """
    place = {day: i for i, day in enumerate(sessions)}
    rows = [
        (
            row["session"],
            row["instrument"],
            place[row["label_start"]],
            None if row["label_end"] is None else place[row["label_end"]],
        )
        for row in labels.iter_rows(named=True)
    ]
    used = sorted({row[0] for row in rows if row[3] is not None})
    n_locked = round(spec.locked_share * len(used))
    n_stress = round(spec.stress_share * len(used))
    n_free = len(used) - n_locked - n_stress
    free, locked, stress = used[:n_free], used[n_free : n_free + n_locked], used[n_free + n_locked :]
    groups = _cut(free, spec.n_groups)
    return {
        name: _one_split(rows, used, test, train, stress if name == "locked" else [], spec)
        for name, (test, train) in _choices(groups, locked + stress, spec).items()
    }


def _cut(days: list, n: int) -> list[list]:
    size, extra = divmod(len(days), n)
    groups, at = [], 0
    for g in range(n):
        step = size + (g < extra)
        groups.append(days[at : at + step])
        at += step
    return groups


def _choices(groups: list[list], locked: list, spec) -> dict[str, tuple[list, list]]:
    n = len(groups)
    chosen: dict[str, tuple[list, list]] = {}
    if spec.scheme == "cpcv":
        for i, test in enumerate(combinations(range(n), spec.n_test_groups)):
            chosen[f"cpcv_{i:02d}"] = (
                [day for g in test for day in groups[g]],
                [day for g in range(n) if g not in test for day in groups[g]],
            )
    else:
        for i in range(n - 1):
            oldest = max(0, i + 1 - spec.rolling_groups) if spec.scheme == "rolling" else 0
            chosen[f"walk_{i:02d}"] = (groups[i + 1], [day for g in groups[oldest : i + 1] for day in g])
    if locked:
        chosen["locked"] = (locked, [day for g in groups for day in g])
    return chosen


def _one_split(rows: list, used: list, test: list, train: list, stress: list, spec) -> dict[tuple, str]:
    tune = _tune_days(used, train, spec.tune_share)
    by_session = dict.fromkeys(test, "test") | dict.fromkeys(train, "fit") | dict.fromkeys(tune, "tune")
    answer = {}
    for session, instrument, _, end in rows:
        answer[session, instrument] = "unused" if end is None else by_session.get(session, "unused")
    spans = {(s, i): (a, b) for s, i, a, b in rows if b is not None}
    tested = [
        [spans[k] for k, r in answer.items() if r == "test" and k[0] in block] for block in _runs(used, test)
    ]
    for key, role in list(answer.items()):
        if role in ("fit", "tune"):
            answer[key] = _judged(role, spans[key], tested, spec.embargo_sessions, "span", "embargo")
    tuned = [spans[k] for k, r in answer.items() if r == "tune"]
    for key, role in list(answer.items()):
        if role == "fit":
            answer[key] = _judged(role, spans[key], [tuned], spec.embargo_sessions, "tune", "tune")
    stressed = [spans[key] for key, role in answer.items() if role == "test" and key[0] in stress]
    for key, role in list(answer.items()):
        if role == "test" and key[0] not in stress:
            answer[key] = _judged(role, spans[key], [stressed], 0, "span", "none")
    return answer


def _judged(
    role: str, span: tuple, blocks: list[list[tuple]], embargo: int, by_span: str, by_embargo: str
) -> str:
    if any(start < span[1] and span[0] < end for block in blocks for start, end in block):
        return f"purged:{by_span}"
    for block in blocks:
        if block and 0 <= span[0] - max(end for _, end in block) < embargo:
            return f"purged:{by_embargo}"
    return role


def _runs(used: list, days: list) -> list[set]:
    runs: list[set] = []
    for i, day in enumerate(used):
        if day in set(days):
            if i and used[i - 1] in set(days):
                runs[-1].add(day)
            else:
                runs.append({day})
    return runs


def _tune_days(used: list, train: list, share: float) -> list:
    n = max(1, round(share * len(train)))
    runs = [sorted(run) for run in _runs(used, train)]
    return next(run[-n:] for run in reversed(runs) if len(run) >= n)
