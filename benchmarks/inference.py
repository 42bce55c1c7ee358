"""One live session of the whole market: raw tables in the lake to written records, for 5,400 names.

Run after `make demo`, whose champion serves here on another market of 5,400 names (minutes off by default; `--minutes`
adds 48 bars a name and day). Fetching is outside the measurement: inference fetches nothing itself.

    python -m benchmarks.inference [--home dagster_home/demo] [--names 5400] [--minutes]
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from pathlib import Path

import dagster as dg

from assets.definitions import build_definitions
from assets.runs import Runner
from resources.environments import Environment, Settings, create_environment
from resources.simulated import simulated_market

SESSIONS = 100
LIMIT_SECONDS = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", default="dagster_home/demo", help="environment with a champion")
    parser.add_argument("--names", type=int, default=5_400)
    parser.add_argument("--minutes", action="store_true")
    arguments = parser.parse_args()
    donor = Environment(Path(arguments.home).resolve())
    with tempfile.TemporaryDirectory() as folder:
        environment = _market(Path(folder) / "home", donor, arguments.names, arguments.minutes)
        _measure(environment)


def _market(home: Path, donor: Environment, names: int, minutes: bool) -> Environment:
    """An environment of many names that serves the donor's champion."""
    fields = {
        "instruments": names,
        "sessions": SESSIONS,
        "minutes": minutes,
        "faults": {"late_rate": 0, "revision_rate": 0},
    }
    sessions = simulated_market("market", fields).sessions
    settings = Settings(profile="market", market=fields, first_session=sessions[0], last_session=sessions[-1])
    environment = create_environment(home, settings, home / "absent")
    study = environment.study.name
    shutil.copytree(donor.bundles(study), environment.bundles(study))
    shutil.copytree(donor.champions(study).chain.root, environment.champions(study).chain.root)
    return environment


def _measure(environment: Environment) -> None:
    session = environment.settings.last_session
    assert session is not None
    environment.move_clock(environment.study.market.decided_at(session))
    steps: list[tuple[str, float]] = []
    runner = Runner(environment, dg.DagsterInstance.ephemeral(), build_definitions, lambda *step: steps.append(step))
    runner.ingest()
    months = sorted(
        {f"{day:%Y-%m}" for day in environment.calendar().between(environment.settings.first_session, session)}
    )
    runner.stages(["panel", "features"], first=months[0], last=months[-2])
    for repeat in range(2):  # the first run loads kernels and runtimes, the second is the daily state
        del steps[:]
        started = time.perf_counter()
        runner.stages(["panel", "features"], first=months[-1], step="panel, features of the month")
        runner.stages(["inference"], first=session.isoformat(), step="inference and records")
        total = time.perf_counter() - started
        print(f"run {repeat + 1}: {total:.2f} s; " + "; ".join(f"{name} {seconds:.2f} s" for name, seconds in steps))
    names = environment.artifacts.table(environment.study.name, "inference", "predictions").height
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{names} eligible names scored, peak memory {peak:.1f} GiB, limit {LIMIT_SECONDS:.0f} s: "
        f"{'met' if total < LIMIT_SECONDS else 'MISSED'}"
    )


if __name__ == "__main__":
    main()
