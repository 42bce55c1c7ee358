"""CPCV(6, 2) beside five other splitters, on panels whose sessions differ in size and whose labels differ in length.

What is asked of each: the training rows of 15 splits, none of whose label span meets a test row's. Counted are leaked
rows, lost rows, what was tested, and the rank IC that the leak invents on markets without any signal: what a
nearest-neighbour model earns, less what it earns without the leaked rows. Then each is timed at a million rows, in a
process of its own.

Each peer is set as its documentation would have it for this task; one that purges by a number of rows is given the
usual label's length and the longest's. A peer that is absent is listed as absent.

    pip install skfolio==1.12.2 purgedcv==0.1.11 timeseriescv==0.2 ml4t-diagnostic==0.1.0b2 mlfinpy==0.1.2
    python -m benchmarks.cpcv_bakeoff [--rows 1000000] [--markets 6] [--only mlfinpy]

Install them into an environment beside the project's. mlfinpy wants pandas 2 and NumPy 1, so it gets one of its own
(with polars, pydantic, scikit-learn) and `--only mlfinpy`; there it fails on sessions of unequal size, because it
stacks their rows, and on times made unique, because it concatenates numbers. `benchmarks/cpcv.py` compares by row.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.metadata import PackageNotFoundError, version
from math import comb
from multiprocessing import get_context
from multiprocessing.connection import Connection

import numpy as np
import polars as pl

from pipeline.calendars import Calendar
from pipeline.folds.spec import FoldSpec
from pipeline.folds.splits import make_folds, roles

GROUPS, TESTED = 6, 2
HORIZON, LONGEST = 4, 14  # sessions that a label spans; 7% are carried by up to ten more
NEIGHBOURS = 5
LIMIT_S = 300.0
Split = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Panel:
    """Rows in order of session and name.

    Parameters
    ----------
    start, end : ndarray of int64, shape [n]
        Half-open label span in session ordinals; the decision falls on `start`.
    features : ndarray of float64, shape [n, 3]
        Slow, and without any relation to the labels.
    label : ndarray of float64, shape [n]
        Sum of the span's returns, which are noise.
    """

    calendar: Calendar
    labels: pl.DataFrame
    start: np.ndarray
    end: np.ndarray
    features: np.ndarray
    label: np.ndarray

    @property
    def rows_a_session(self) -> float:
        return len(self.start) / len(np.unique(self.start))

    def times(self, ordinals: np.ndarray) -> np.ndarray:
        """datetime64[ns] of session ordinals."""
        return self.calendar.days[ordinals].astype("datetime64[ns]")


def panel(sessions: int, names: int, seed: int, rows: int | None = None) -> Panel:
    """A market without signal: a growing universe with gaps, labels of four sessions, some carried."""
    rng = np.random.default_rng(seed)
    days = [day for i in range(2 * sessions + 60) if (day := date(2016, 1, 1) + timedelta(i)).weekday() < 5]
    calendar = Calendar(tuple(days), days[-1])
    listed = np.sort(rng.integers(0, sessions * 3 // 4, names))
    start, name = np.nonzero((np.arange(sessions)[:, None] >= listed) & (rng.random((sessions, names)) < 0.9))
    if rows is not None:
        kept = np.sort(rng.choice(len(start), rows, replace=False))
        start, name = start[kept], name[kept]
    end = start + HORIZON + np.where(rng.random(len(start)) < 0.07, rng.integers(1, 11, len(start)), 0)
    walked = np.zeros((sessions + LONGEST + 2, names))
    walked[1:] = np.cumsum(rng.normal(size=(sessions + LONGEST + 1, names)), axis=0)
    slow = np.cumsum(rng.normal(size=(3, sessions, names)), axis=1) + rng.normal(scale=30.0, size=(3, 1, names))
    codes = np.array([f"{i:06d}.SZ" for i in range(names)])
    labels = pl.DataFrame({
        "session": calendar.days[start], "instrument": codes[name], "label_start": calendar.days[start],
        "label_end": calendar.days[end],
    })  # fmt: skip
    return Panel(calendar, labels, start, end, slow[:, start, name].T, walked[end, name] - walked[start + 1, name])


def ours(data: Panel) -> Iterator[Split]:
    """Fit and tune rows beside test rows."""
    spec = FoldSpec(n_groups=GROUPS, n_test_groups=TESTED, locked_share=0)
    folds = make_folds(data.labels, data.calendar, spec)
    for split in spec.splits:
        role = roles(folds, split, data.labels)
        yield np.flatnonzero(role.is_in(["fit", "tune"]).to_numpy()), np.flatnonzero((role == "test").to_numpy())


def skfolio(data: Panel, sessions: int) -> Iterator[Split]:
    from skfolio.model_selection import CombinatorialPurgedCV

    purged = round((sessions - 1) * data.rows_a_session)
    splitter = CombinatorialPurgedCV(n_folds=GROUPS, n_test_folds=TESTED, purged_size=purged)
    for train, tests in splitter.split(data.features):
        yield train, np.concatenate(tests)


def purgedcv(data: Panel) -> Iterator[Split]:
    from purgedcv import CombinatorialPurgedCV

    splitter = CombinatorialPurgedCV(n_splits=GROUPS, n_test_groups=TESTED, prediction_times=data.times(data.start),
                                     evaluation_times=data.times(data.end))  # fmt: skip
    yield from splitter.split(data.features)


def timeseriescv(data: Panel) -> Iterator[Split]:
    """Its label ends with the last session that it looked at."""
    import pandas as pd
    from timeseriescv.cross_validation import CombPurgedKFoldCV

    at, until = (pd.Series(data.times(ordinals)) for ordinals in (data.start, data.end - 1))
    splitter = CombPurgedKFoldCV(n_splits=GROUPS, n_test_splits=TESTED)
    yield from splitter.split(pd.DataFrame(data.features), pred_times=at, eval_times=until)


def ml4t_rows(data: Panel, sessions: int) -> Iterator[Split]:
    from ml4t.diagnostic.splitters import CombinatorialCV

    reach = round((sessions - 1) * data.rows_a_session)
    splitter = CombinatorialCV(n_groups=GROUPS, n_test_groups=TESTED, label_horizon=reach, isolate_groups=False)
    yield from splitter.split(data.features)


def ml4t_days(data: Panel) -> Iterator[Split]:
    """Whole sessions as groups, and the longest label in calendar days, before and after each test block."""
    import pandas as pd
    from ml4t.diagnostic.splitters import CombinatorialCV

    reach = pd.Timedelta((data.times(data.end - 1) - data.times(data.start)).max())
    frame = pd.DataFrame(data.features, index=pd.DatetimeIndex(data.times(data.start), tz="UTC"))
    frame["session_date"] = frame.index
    splitter = CombinatorialCV(n_groups=GROUPS, n_test_groups=TESTED, label_horizon=reach, embargo_size=reach,
                               align_to_sessions=True, isolate_groups=False)  # fmt: skip
    yield from splitter.split(frame)


def mlfinpy(data: Panel) -> Iterator[Split]:
    """Its label ends with the last session that it looked at."""
    import pandas as pd
    from mlfinpy.cross_validation import CombinatorialPurgedKFold

    spans = pd.Series(data.times(data.end - 1), index=pd.DatetimeIndex(data.times(data.start)))
    splitter = CombinatorialPurgedKFold(n_splits=GROUPS, n_test_splits=TESTED, samples_info_sets=spans)
    yield from splitter.split(pd.DataFrame(data.features, index=spans.index))


@dataclass(frozen=True)
class Contestant:
    """A splitter as it is set here; `package` is empty for ours."""

    name: str
    package: str
    told: str
    split: Callable[[Panel], Iterator[Split]]


def skfolio_usual(data: Panel) -> Iterator[Split]:
    return skfolio(data, HORIZON)


def skfolio_longest(data: Panel) -> Iterator[Split]:
    return skfolio(data, LONGEST)


def ml4t_usual(data: Panel) -> Iterator[Split]:
    return ml4t_rows(data, HORIZON)


CONTESTANTS = (
    Contestant("foldgate", "", "realised spans, whole sessions", ours),
    Contestant("purgedcv", "purgedcv", "realised spans", purgedcv),
    Contestant("timeseriescv", "timeseriescv", "realised spans", timeseriescv),
    Contestant("mlfinpy", "mlfinpy", "realised spans", mlfinpy),
    Contestant("ml4t-diagnostic", "ml4t-diagnostic", "longest span in days, whole sessions", ml4t_days),
    Contestant("ml4t-diagnostic, rows", "ml4t-diagnostic", "usual span in mean rows", ml4t_usual),
    Contestant("skfolio", "skfolio", "usual span in mean rows", skfolio_usual),
    Contestant("skfolio, longest", "skfolio", "longest span in mean rows", skfolio_longest),
)


@dataclass(frozen=True)
class Counted:
    """Of all splits of one market: rows; shares follow from their sums."""

    train: int
    leaked: int
    allowed: int
    kept: int
    tested_evenly: float
    torn_sessions: int
    invented_ic: float


def count(data: Panel, splits: list[Split]) -> Counted:
    """What a splitter left in, left out and gave away."""
    n, train_rows, leaked, allowed, kept = len(data.start), 0, 0, 0, 0
    tested, torn, ics = np.zeros(n, np.int64), np.zeros(data.start.max() + 1, bool), []
    a_session = np.bincount(data.start)
    for train, test in splits:
        near = _meets(data, test)
        inside = np.zeros(n, bool)
        inside[test] = True
        train_rows += len(train)
        leaked += int(near[train].sum())
        allowed += int((~near & ~inside).sum())
        kept += int((~near[train]).sum())
        tested[test] += 1
        there = np.bincount(data.start[test], minlength=len(a_session))
        torn |= (there > 0) & (there < a_session)
        clean = train[~near[train]]
        leaks = len(clean) < len(train)
        ics.append(_rank_ic(data, train, test) - _rank_ic(data, clean, test) if leaks else 0.0)
    even = float((tested == comb(GROUPS - 1, TESTED - 1)).mean())
    return Counted(train_rows, leaked, allowed, kept, even, int(torn.sum()), float(np.mean(ics)))


def _meets(data: Panel, test: np.ndarray) -> np.ndarray:
    """Rows whose span shares a session with a test row's."""
    furthest = np.full(data.end.max() + 1, -1)
    np.maximum.at(furthest, data.start[test], data.end[test])
    reach = np.maximum.accumulate(furthest)  # of the test spans that begin at or before a session
    return reach[data.end - 1] > data.start


def check_count(data: Panel) -> None:
    """The count of leaked rows must be that of comparing every row with every test row."""
    for first in range(0, len(data.start), len(data.start) // 4):
        test = np.arange(first, min(first + 200, len(data.start)))
        meets = (data.start[:, None] < data.end[test]) & (data.start[test] < data.end[:, None])
        if not np.array_equal(meets.any(axis=1), _meets(data, test)):
            sys.exit("leaked rows are counted wrongly")
    print("the count of leaked rows equals the count over every pair\n")


def _rank_ic(data: Panel, train: np.ndarray, test: np.ndarray) -> float:
    """Mean over test sessions of the rank correlation that the nearest training rows give."""
    from sklearn.neighbors import KNeighborsRegressor

    model = KNeighborsRegressor(NEIGHBOURS).fit(data.features[train], data.label[train])
    scored = pl.DataFrame(
        {"session": data.start[test], "score": model.predict(data.features[test]), "label": data.label[test]}
    )
    a_session = scored.group_by("session").agg(ic=pl.corr("score", "label", method="spearman"))
    return float(a_session["ic"].drop_nans().drop_nulls().mean() or 0.0)  # type: ignore[arg-type]


def _timed(name: str, rows: int, to: Connection) -> None:
    """In a process of its own: seconds of all splits, after a small market has compiled what compiles."""
    contestant = next(one for one in CONTESTANTS if one.name == name)
    list(contestant.split(panel(200, 30, seed=1)))
    data = panel(1_000, round(rows / 1_000 * 2), seed=0, rows=rows)
    begin = time.perf_counter()
    found = sum(1 for _ in contestant.split(data))
    to.send((time.perf_counter() - begin, found))


def seconds(name: str, rows: int) -> str:
    """Time of all splits, or why there is none."""
    ear, mouth = get_context("spawn").Pipe(duplex=False)
    child = get_context("spawn").Process(target=_timed, args=(name, rows, mouth), daemon=True)
    child.start()
    mouth.close()
    try:
        took, found = ear.recv() if ear.poll(LIMIT_S) else (None, 0)
    except EOFError:
        return "died"
    finally:
        child.kill()
        child.join()
    if took is None:
        return f"over {LIMIT_S:.0f}"
    return f"{took:.2f}" if found == comb(GROUPS, TESTED) else f"{took:.2f} ({found} splits)"


def row(contestant: Contestant, markets: list[Panel], rows: int) -> str:
    """A line of the table; in words where a peer is absent or cannot do it."""
    try:
        held = f" {version(contestant.package)}" if contestant.package else ""
        counted = [count(data, list(contestant.split(data))) for data in markets]
    except PackageNotFoundError:
        return f"| {contestant.name} | not installed | | | | | | |"
    except Exception as broken:  # a peer's own error is its result here
        said = f"{type(broken).__name__}: {broken}".splitlines()[0][:80]
        return f"| {contestant.name}{held} | failed: {said} | | | | | | |"
    sums = {name: sum(getattr(one, name) for one in counted) for name in ("train", "leaked", "allowed", "kept")}
    ics = np.array([one.invented_ic for one in counted])
    error = ics.std(ddof=1) / len(ics) ** 0.5 if len(ics) > 1 else float("nan")
    torn, even = max(one.torn_sessions for one in counted), min(one.tested_evenly for one in counted)
    return (
        f"| {contestant.name}{held} | {contestant.told} | {sums['leaked']:,} ({sums['leaked'] / sums['train']:.1%}) | "
        f"{sums['kept'] / sums['allowed']:.1%} | {even:.1%} | {torn} | {ics.mean():+.4f} ± {error:.4f} | "
        f"{seconds(contestant.name, rows)} |"
    )


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--rows", type=int, default=1_000_000)
    asked.add_argument("--markets", type=int, default=6)
    asked.add_argument("--only", default="", help="one splitter by its name, or all of a package")
    given = asked.parse_args()
    check_count(panel(120, 30, seed=99))
    markets = [panel(300, 80, seed) for seed in range(given.markets)]
    size = f"{min(len(one.start) for one in markets):,} to {max(len(one.start) for one in markets):,} rows"
    print(f"{given.markets} markets of {size} in 300 sessions; CPCV({GROUPS}, {TESTED})\n")
    print("| splitter | purges by | leaked training rows | kept of the rows allowed | rows tested as often as due | "
          f"sessions torn | rank IC invented | seconds at {given.rows:,} rows |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for contestant in CONTESTANTS:
        if given.only and given.only not in (contestant.name, contestant.package):
            continue
        print(row(contestant, markets, given.rows), flush=True)


if __name__ == "__main__":
    main()
