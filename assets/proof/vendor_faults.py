"""Vendor faults: whatever a vendor sends, the lake ends equal to the truth or the run stops with the right error.

How a fault gets between client and vendor is in `fault_server.py`, which there are in `faults_of_*.py`, and how an
ingestion is judged in `faulted_ingestion.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from assets.proof.contract import BROKEN, HELD, Progress, Size
from assets.proof.fault_server import Armed, Fault
from assets.proof.faulted_ingestion import CHANNELS, Campaign, Judged, Rig, rig_of
from assets.proof.faults_of_http import ARCHIVE, CORRECTED, EQUAL, KEPT, TOLD
from pipeline.diagnostics.finding import Finding
from pipeline.studies import STUDIES
from pipeline.tables.spec import TableSpec

DAYS = {"small": 2, "full": 4}
DAYS_WITH_A_MONTH = 32  # the archive's monthly files are read only where a whole month is wanted
MIXTURES = {"small": 3, "full": 200}
SAID = {
    EQUAL: "equal",
    TOLD: "told incomplete, then equal",
    CORRECTED: "corrected, dated when seen",
    KEPT: "kept, and told as withdrawn",
}
# The small version takes the cheapest table that a fault can befall.
CHEAP = ("daily", "funding_rate", "trade_cal")


@dataclass(frozen=True)
class Trial:
    """One table through one fault."""

    fault: Fault
    wanted: str
    judged: Judged

    @property
    def held(self) -> bool:
        return self.judged.ends == self.wanted


def run(size: Size, folder: Path, progress: Progress) -> Finding:
    """Every fault on one table (`small`) or on all of them (`full`), then random mixtures."""
    with ExitStack() as opened:
        rigs = [opened.enter_context(rig) for rig in _rigs(size, folder)]
        trials: list[Trial] = []
        for i, rig in enumerate(rigs):
            for done, share in alone(rig, every_table=size == "full"):
                trials.append(done)
                progress(f"{rig.channel}: {done.fault.kind}", 0.8 * (i + share) / len(rigs))
        mixed: list[tuple[Rig, int, list[Judged]]] = []
        for seed in range(MIXTURES[size]):
            rig = rigs[seed % len(rigs)]
            mixed.append((rig, seed, mixture(rig, seed)))
            progress(f"{rig.channel}: mixture {seed}", 0.8 + 0.2 * (seed + 1) / MIXTURES[size])
        unproven = [fault for rig in rigs for fault in rig.faults() if not _befell(fault, trials)]
    return finding(trials, mixed, unproven)


def _rigs(size: Size, folder: Path) -> Iterator[AbstractContextManager[Rig]]:
    """Each protocol of each registered study's vendor, once a vendor; the archive a second time for its months."""
    studies = {study.market.vendor: study for study in reversed(STUDIES.values())}
    for vendor, study in sorted(studies.items(), reverse=True):
        for channel in CHANNELS[vendor]:
            yield rig_of(channel, study, folder, DAYS[size])
            if channel == ARCHIVE and size == "full":
                yield rig_of(channel, study, folder / "month", DAYS_WITH_A_MONTH)


def alone(
    rig: Rig, every_table: bool, wanted: Callable[[Fault], bool] = lambda fault: True
) -> Iterator[tuple[Trial, float]]:
    """Each fault on its tables, with the share that is done. Where a fault found no request, nothing was tried."""
    faults = [fault for fault in rig.faults() if wanted(fault)]
    cheapest = sorted(rig.specs, key=lambda spec: CHEAP.index(spec.name) if spec.name in CHEAP else len(CHEAP))
    for i, fault in enumerate(faults):
        for spec in rig.specs if every_table else cheapest:
            ends = fault.ends(spec)
            judged = rig.alone(spec, fault) if ends else None
            if judged is not None and judged.injected:
                yield Trial(fault, ends, judged), (i + 1) / len(faults)
                if not every_table:
                    break


def mixture(rig: Rig, seed: int) -> list[Judged]:
    """Some tables, each ingested up to three times through up to four faults that begin at random requests."""
    rng = random.Random(seed)
    specs = rng.sample(rig.specs, rng.randint(1, min(4, len(rig.specs))))
    # Tables by instrument first: later, the list of codes may be what a fault has changed.
    specs.sort(key=lambda spec: spec.fetch_by != "instrument")
    weathers = [(spec, _weather(rng, rig, spec)) for spec in specs for _ in range(rng.randint(1, 3))]
    campaign = Campaign(rig, min(armed.fault.timeout for _, faults in weathers for armed in faults))
    for spec, faults in weathers:
        campaign.attempt(spec, faults)
    return campaign.settle()


def _weather(rng: random.Random, rig: Rig, spec: TableSpec) -> list[Armed]:
    possible = [fault for fault in rig.faults() if fault.ends(spec)]
    return [
        Armed(fault, rng.choice((1, 2, fault.times)), rng.randint(0, 3))
        for fault in rng.sample(possible, rng.randint(1, 4))
    ]


def finding(
    trials: Sequence[Trial], mixed: Sequence[tuple[Rig, int, list[Judged]]], unproven: Sequence[Fault]
) -> Finding:
    """The verdict: every trial ended as it must, every mixture deceived nobody, and every fault was tried."""
    mixtures = _mixture_rows(mixed)
    outcomes = [trial.held for trial in trials] + [judged.safe for _, _, tables in mixed for judged in tables]
    held, tried = sum(outcomes), len(outcomes)
    kinds, rows = _kind_rows(trials), sum(trial.judged.rows for trial in trials)
    stops = len({trial.wanted for trial in trials} - SAID.keys())
    text = (
        f"{kinds.height} kinds of faults in {len(_forms(trials))} forms were put between the real clients and a vendor "
        f"on a socket of this machine: {len(trials)} ingestions with one fault and {len(mixed)} random mixtures "
        f"({mixtures.height} tables); {held} of {tried} ended as they must. After each, the same tables were "
        f"ingested once more in fair weather; of the single faults {rows:,} rows were compared with the truth. "
        f"An end is: equal; stopped with one of {stops} typed errors; told incomplete; corrected, with rows dated when "
        f"they were seen; or kept, and told as withdrawn."
    )
    if unproven:
        text += f" Never tried, because no request was theirs: {', '.join(sorted({f.kind for f in unproven}))}."
    return Finding(
        score=held / tried if tried else None,
        status=HELD if tried and held == tried and not unproven else BROKEN,
        text=text,
        tables={"faults": kinds, "mixtures": mixtures, "trials": _trial_rows(trials)},
        rule="HELD when each fault alone ends as it must, no mixture ends in a gap that nobody was told of or in an "
        "untyped error, fair weather makes every lake the truth, and every fault found a request",
        counts={"kinds": kinds.height, "trials": len(trials), "mixtures": len(mixed), "rows compared": rows},
    )


def _kind_rows(trials: Sequence[Trial]) -> pl.DataFrame:
    """One row a kind, in the order in which they were tried."""
    rows = []
    for kind in dict.fromkeys(trial.fault.kind for trial in trials):
        of_kind = [trial for trial in trials if trial.fault.kind == kind]
        rows.append({
            "fault": kind, "vendor": ", ".join(dict.fromkeys(t.fault.channel for t in of_kind)),
            "forms": len({t.fault.form for t in of_kind}), "ingestions": len(of_kind),
            "requests_hit": sum(t.judged.injected for t in of_kind),
            "most_retries": max(0, *(t.judged.retries for t in of_kind if t.judged.ends == EQUAL), 0),
            "outcome": "; ".join(dict.fromkeys(_said(t.judged.ends) for t in of_kind)),
            "rows_compared": sum(t.judged.rows for t in of_kind), "held": all(t.held for t in of_kind),
        })  # fmt: skip
    return pl.DataFrame(rows)


def _said(ends: str) -> str:
    """An end in words."""
    return SAID.get(ends, ends if " " in ends else f"stopped: {ends}, then equal")


def _trial_rows(trials: Sequence[Trial]) -> pl.DataFrame:
    return pl.DataFrame([
        {"fault": t.fault.kind, "form": t.fault.form, "vendor": t.fault.channel, "wanted": t.wanted, **asdict(t.judged),
         "held": t.held}
        for t in trials
    ])  # fmt: skip


def _mixture_rows(mixed: Sequence[tuple[Rig, int, list[Judged]]]) -> pl.DataFrame:
    return pl.DataFrame([
        {"seed": seed, "vendor": rig.channel, **asdict(judged), "held": judged.safe}
        for rig, seed, tables in mixed for judged in tables
    ])  # fmt: skip


def _forms(trials: Sequence[Trial]) -> set[tuple[str, str, str]]:
    return {(t.fault.channel, t.fault.kind, t.fault.form) for t in trials}


def _befell(fault: Fault, trials: Sequence[Trial]) -> bool:
    return (fault.channel, fault.kind, fault.form) in _forms(trials)
