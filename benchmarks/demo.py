"""The demo's wall time, and how much of it is not library work (Dagster's events, loading, asset bodies).

python -m benchmarks.demo [--profile demo]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

from assets import stage_runner, vendor_tables
from assets.cli import main as foldgate

LIMITS = {"demo": 360.0, "tiny": 8.0}
ORCHESTRATION_LIMIT = 0.15


class Stopwatch:
    """Seconds spent inside the functions it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


@contextlib.contextmanager
def library_time() -> Iterator[Stopwatch]:
    """Time of stage functions, their reads and writes, and of ingestion; everything else is orchestration."""
    watch = Stopwatch()
    places = ((stage_runner, "_one_by_one"), (stage_runner, "_side_by_side"), (vendor_tables, "ingest"))
    kept = [getattr(module, name) for module, name in places]
    for (module, name), function in zip(places, kept, strict=True):
        setattr(module, name, watch.around(function))
    try:
        yield watch
    finally:
        for (module, name), function in zip(places, kept, strict=True):
            setattr(module, name, function)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="demo", choices=sorted(LIMITS))
    profile = parser.parse_args().profile
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, library_time() as watch:
        started = time.perf_counter()
        with contextlib.redirect_stdout(printed):
            code = foldgate(["demo", "--profile", profile, "--home", str(Path(folder) / "home")])
        total = time.perf_counter() - started
    print(printed.getvalue())
    share = 1 - watch.seconds / total
    print(
        f"{profile}: exit {code}, {total:.1f} s of at most {LIMITS[profile]:.0f} s; library {watch.seconds:.1f} s, "
        f"orchestration {share:.1%} of at most {ORCHESTRATION_LIMIT:.0%}"
    )


if __name__ == "__main__":
    main()
