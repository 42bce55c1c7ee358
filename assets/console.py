"""What a person reads in a terminal: steps as they finish, aligned tables, short numbers."""

from __future__ import annotations

import math
import time
import unicodedata
from collections.abc import Sequence

PROGRESS_SECONDS = 5.0


class Console:
    """Prints steps as they finish: what is done, how long it took, how long in all."""

    def __init__(self, command: str) -> None:
        self.command, self.started = command, time.perf_counter()
        self.spoken = self.started

    def progress(self, text: str) -> None:
        """Where a long step is; at most a line every `PROGRESS_SECONDS`."""
        if time.perf_counter() - self.spoken >= PROGRESS_SECONDS:
            self.say(f"  … {text}")

    def step(self, name: str, seconds: float) -> None:
        self._print(f"{seconds:7.1f} s  {name}")

    def say(self, text: str) -> None:
        self._print(f"           {text}")

    def finish(self, text: str) -> None:
        self.say(f"{self.command}: {text}")

    def _print(self, line: str) -> None:
        self.spoken = time.perf_counter()
        print(f"{self._elapsed()} {line}", flush=True)

    def _elapsed(self) -> str:
        seconds = time.perf_counter() - self.started
        return f"[{int(seconds // 60):02d}:{seconds % 60:04.1f}]"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], indent: int = 2) -> None:
    """Print aligned columns: the first to the left, numbers to the right."""
    cells = [list(heads), *(list(row) for row in rows)]
    widths = [max(_width(row[i]) for row in cells) for i in range(len(heads))]
    right = [i > 0 and all(_numeric(row[i]) for row in cells[1:]) for i in range(len(heads))]
    for row in cells:
        padded = [" " * (width - _width(cell)) + cell if to_right else cell + " " * (width - _width(cell))
                  for cell, width, to_right in zip(row, widths, right, strict=True)]  # fmt: skip
        print((" " * indent + "  ".join(padded)).rstrip())


def number(value: float | None) -> str:
    """Four significant digits; `-` for a missing value."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 10 or value == 0 else f"{value:.4g}"


def fixed(value: float | None) -> str:
    """Four decimals, so that a column of correlations reads at a glance; `-` for a missing value."""
    return "-" if value is None or math.isnan(value) else f"{value:.4f}".replace("-0.0000", "0.0000")


def percent(share: object) -> str:
    """A share in per cent; `-` for a missing one."""
    return f"{100 * share:.1f} %" if isinstance(share, (int, float)) and not math.isnan(share) else "-"


def counted(count: int, noun: str) -> str:
    """`1 minute`, `1,440 minutes`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def cell(value: object) -> str:
    """Any stored value: enough digits to recognise it, `-` for null."""
    return "-" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)


def _numeric(cell: str) -> bool:
    return not cell.strip("-+.,%e 0123456789")


def _width(text: str) -> int:
    """Columns of a terminal: Chinese names take two a character."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
