"""Lines for a person who waits: what is done, how long it took, how long in all."""

from __future__ import annotations

import time


class Console:
    """Prints steps as they finish."""

    def __init__(self, command: str) -> None:
        self.command, self.started = command, time.perf_counter()

    def step(self, name: str, seconds: float) -> None:
        print(f"{self._elapsed()}  {seconds:6.1f} s  {name}", flush=True)

    def say(self, text: str) -> None:
        print(f"{self._elapsed()}            {text}", flush=True)

    def finish(self, text: str) -> None:
        print(f"{self._elapsed()}            {self.command}: {text}", flush=True)

    def _elapsed(self) -> str:
        seconds = time.perf_counter() - self.started
        return f"[{int(seconds // 60):02d}:{seconds % 60:04.1f}]"
