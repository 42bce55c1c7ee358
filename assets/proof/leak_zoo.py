"""Leak zoo: every seeded leak must turn its catcher red, and every catcher must stay green on clean markets."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import polars as pl

from assets.proof.contract import BROKEN, HELD, Progress, Size
from assets.proof.leaks.contract import Catcher, Leak
from assets.proof.leaks.feature_leaks import FEATURE_LEAKS
from assets.proof.leaks.fit_leaks import FIT_LEAKS
from assets.proof.leaks.label_leaks import LABEL_LEAKS
from assets.proof.leaks.minute_leaks import MINUTE_LEAKS
from assets.proof.leaks.panel_leaks import PANEL_LEAKS
from assets.proof.leaks.worlds import World, build_world
from pipeline.diagnostics.finding import Finding

LEAKS: dict[str, tuple[Leak, ...]] = {
    "session": (*PANEL_LEAKS, *FEATURE_LEAKS, *LABEL_LEAKS, *FIT_LEAKS),
    "minute": MINUTE_LEAKS,
}
"""How often the study decides in which a leak is seeded -> its leaks."""
SEED = 20_260_930
MARKETS: dict[Size, tuple[int, int]] = {"small": (1, 1), "full": (3, 12)}
"""Markets on which leaks are seeded, and markets on which every catcher is tried clean."""
PER_CATCHER: dict[Size, int] = {"small": 3, "full": 1_000}
"""Leaks of one catcher and kind of study that are seeded."""
SHOWN = 150  # characters of a red


@dataclass(frozen=True)
class Tried:
    """One check on one market, clean or leaking.

    Parameters
    ----------
    leak : str
        Empty on a clean house.
    red : bool
        It was raised what the catcher raises, by its own rule.
    seen : str
        What the red observed; on a green the rows compared; else what was raised instead.
    """

    kind: str
    market: int
    leak: str
    catcher: str
    red: bool
    green: bool
    rows: int
    seen: str


def tried(kind: str, market: int, world: World, catcher: Catcher, leak: Leak | None = None) -> Tried:
    """Run a catcher on a market, with a leak in the house or without."""
    name = leak.name if leak else ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            if leak is None:
                rows = catcher.check(world, Path(folder))
            else:
                with leak.apply():
                    rows = catcher.check(world, Path(folder))
        except Exception as raised:  # whatever a mutation breaks must not end the count
            red = isinstance(raised, catcher.red) and catcher.rule in str(raised)
            seen = str(getattr(raised, "observed", "") or raised) if red else f"{type(raised).__name__}: {raised}"
            return Tried(kind, market, name, catcher.name, red, False, 0, seen)
    return Tried(kind, market, name, catcher.name, False, True, rows, f"{rows} rows compared")


def catchers(kind: str) -> list[Catcher]:
    """The catchers of a kind's leaks, once each."""
    return list(dict.fromkeys(leak.catcher for leak in LEAKS[kind]))


def on_market(kind: str, market: int, world: World, *, leaks: int, progress: Progress) -> list[Tried]:
    """Every catcher clean, then so many leaks of each."""
    asked: list[tuple[Catcher, Leak | None]] = [(catcher, None) for catcher in catchers(kind)]
    for catcher in catchers(kind):
        asked += [(catcher, leak) for leak in LEAKS[kind] if leak.catcher is catcher][:leaks]
    found = []
    for i, (catcher, leak) in enumerate(asked):
        progress(f"{kind} market {market}: {leak.name if leak else 'clean, ' + catcher.name}", i / len(asked))
        found.append(tried(kind, market, world, catcher, leak))
    return found


def run(size: Size, folder: Path, progress: Progress) -> Finding:
    """Every leak on its markets, every catcher on all of them; a market that was done is not done again."""
    leaking, clean = MARKETS[size]
    most = PER_CATCHER[size]
    jobs = [(kind, market, most * (market < leaking), folder) for market in range(clean) for kind in LEAKS]
    if size == "small":
        return concluded([row for job in jobs for row in _market(*job, progress)])
    found: list[Tried] = []
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(_market, *job) for job in jobs]
        for done, future in enumerate(as_completed(running), start=1):
            found += future.result()
            progress(f"{done} of {len(jobs)} markets", done / len(jobs))
    return concluded(found)


def _market(kind: str, market: int, leaks: int, folder: Path, progress: Progress = lambda *_: None) -> list[Tried]:
    """One market, kept as JSON."""
    stored = folder / f"{kind}_{market:02d}.json"
    if stored.exists():
        return [Tried(**row) for row in json.loads(stored.read_text())]
    with tempfile.TemporaryDirectory(dir=folder) as home:
        world = build_world(kind, SEED + market, Path(home))
        found = on_market(kind, market, world, leaks=leaks, progress=progress)
    stored.write_text(json.dumps([asdict(row) for row in found]))
    return found


def concluded(found: Sequence[Tried]) -> Finding:
    """Held if every leak was caught on every market it was seeded on, and no catcher was red on a clean one."""
    seeded, clean = [row for row in found if row.leak], [row for row in found if not row.leak]
    zoo, guards = _zoo(seeded), _guards(seeded, clean)
    caught = sum(row.red for row in seeded)
    reds = sum(not row.green for row in clean)
    rate = caught / max(len(seeded), 1)
    held = caught == len(seeded) and not reds and bool(seeded)
    escaped = [f"{row.leak} ({row.seen[:SHOWN]})" for row in seeded if not row.red]
    text = (
        f"{len(zoo)} leaks, each one mutation of the real code, were seeded one at a time on simulated markets "
        f"({len({(row.kind, row.market) for row in seeded})} of them): {caught} of {len(seeded)} runs turned the "
        f"named catcher red, by its own rule. {len(guards)} catchers were tried on a clean house: {reds} of "
        f"{len(clean)} runs were red."
    )
    if escaped:
        text += f" Escaped: {'; '.join(escaped)}."
    return Finding(
        score=rate,
        status=HELD if held else BROKEN,
        text=text,
        tables={"leaks": zoo, "catchers": guards},
        rule="Held if every leak was caught on every market it was seeded on, and no catcher was red on a clean one.",
        counts={
            "leaks": len(zoo), "seeded": len(seeded), "caught": caught, "clean": len(clean), "red when clean": reds
        },
    )


def _zoo(seeded: Sequence[Tried]) -> pl.DataFrame:
    """A row a leak: what is mutated, what catches it, on how many of its markets, and what the first red saw."""
    rows = []
    for leak in _every_leak():
        mine = [row for row in seeded if row.leak == leak.name]
        if mine:
            rows.append({
                "leak": leak.name, "mutated": leak.mutates, "catcher": leak.catcher.name,
                "caught": f"{sum(row.red for row in mine)} of {len(mine)}", "figure": mine[0].seen[:SHOWN],
            })  # fmt: skip
    return pl.DataFrame(rows)


def _guards(seeded: Sequence[Tried], clean: Sequence[Tried]) -> pl.DataFrame:
    """A row a catcher: where it lives, which share of clean runs it stayed green on, over how many rows."""
    rows = []
    for catcher in dict.fromkeys(leak.catcher for leak in _every_leak()):
        mine = [row for row in clean if row.catcher == catcher.name]
        rows.append({
            "catcher": catcher.name, "module": catcher.where,
            "leaks": len({row.leak for row in seeded if row.catcher == catcher.name and row.red}),
            "clean runs": len(mine), "green": sum(row.green for row in mine),
            "rows compared": sum(row.rows for row in mine),
        })  # fmt: skip
    return pl.DataFrame(rows)


def _every_leak() -> Iterable[Leak]:
    return (leak for leaks in LEAKS.values() for leak in leaks)
