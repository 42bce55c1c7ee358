"""Binance's public archive: which files hold some days, and a client that keeps verified copies of them.

What a ZIP may hold is in `archive_files.py`, what its rows mean in `pipeline/tables/binance_rows.py`.
"""

from __future__ import annotations

import re
import time
from calendar import monthrange
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby
from pathlib import Path

import httpx

from pipeline.clock import Clock, SystemClock
from pipeline.errors import BadInput, BrokenArchive, PermanentVendorError, VendorUnavailable
from pipeline.files import replace_if_changed
from pipeline.fingerprints import hash_file
from resources.archive_files import read_checksum
from resources.retrying import retry_after, retrying

FOLDERS = {"um": "data/futures/um", "spot": "data/spot"}
# Four at a time saturate a home line; more only find the store's own limits.
WORKERS = 4
LARGEST_ZIP = 512 * 2**20


@dataclass(frozen=True)
class ArchiveFile:
    """One published file: its path in the archive, its symbol, and those of its days that are wanted."""

    path: str
    symbol: str
    days: tuple[date, ...]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Held:
    """A verified copy.

    Parameters
    ----------
    file : ArchiveFile
    place : Path
    sha256 : str
        Of the ZIP, equal to the published checksum.
    replaced : str or None
        Checksum of an earlier publication that this one takes the place of.
    fetched : bool
        False: the copy was there already.
    """

    file: ArchiveFile
    place: Path
    sha256: str
    replaced: str | None
    fetched: bool


def kline_files(market: str, symbol: str, days: Sequence[date], today: date) -> list[ArchiveFile]:
    """The files of one-minute candles that hold some days: a month's where all of it is wanted, else each day's.

    Days that are not over have no file; a month's comes with the first Monday of the next [C].
    """
    _require_symbol(symbol)
    base = f"{FOLDERS[market]}/{{}}/klines/{symbol}/1m/{symbol}-1m-"
    files: list[ArchiveFile] = []
    for (year, month), group in groupby(sorted(day for day in set(days) if day < today), lambda d: (d.year, d.month)):
        inside = tuple(group)
        if len(inside) == monthrange(year, month)[1] and today >= _first_monday_after(inside[-1]):
            files.append(ArchiveFile(f"{base.format('monthly')}{year}-{month:02d}.zip", symbol, inside))
        else:
            files += [ArchiveFile(f"{base.format('daily')}{day}.zip", symbol, (day,)) for day in inside]
    return files


def daily_files(file: ArchiveFile) -> list[ArchiveFile]:
    """The days' files in place of a month's that was not published."""
    base = file.path.replace("/monthly/", "/daily/").rpartition("-1m-")[0]
    return [ArchiveFile(f"{base}-1m-{day}.zip", file.symbol, (day,)) for day in file.days]


def funding_files(symbol: str, days: Sequence[date], today: date) -> list[ArchiveFile]:
    """The monthly files of settled funding rates; there are no daily ones, and none for the running month."""
    _require_symbol(symbol)
    base = f"{FOLDERS['um']}/monthly/fundingRate/{symbol}/{symbol}-fundingRate-"
    return [
        ArchiveFile(f"{base}{year}-{month:02d}.zip", symbol, tuple(group))
        for (year, month), group in groupby(sorted(set(days)), lambda d: (d.year, d.month))
        if date(year, month, monthrange(year, month)[1]) < today
    ]


def _first_monday_after(last: date) -> date:
    """Of the month after one that ends with `last`."""
    first = last + timedelta(days=1)
    return first + timedelta(days=-first.weekday() % 7)


def _require_symbol(symbol: str) -> None:
    """Symbols become paths."""
    if not re.fullmatch(r"\w+", symbol):
        raise BadInput("a symbol is letters, digits and underscores", symbol, "write it as the exchange does: BTCUSDT")


class ArchiveClient:
    """Fetches published files into a folder; what is there and still the published one is not fetched again.

    Parameters
    ----------
    folder : Path
        Copies lie under their path in the archive, each beside its `.CHECKSUM`; a download that was cut goes on where
        it stopped.
    base_url : str
    transport : httpx transport, optional
        In place of the network.
    clock, sleep
        For pauses between tries.
    workers : int
        Files at a time.
    timeout : float
        Seconds without a byte.
    """

    def __init__(
        self, folder: Path, base_url: str = "https://data.binance.vision",
        transport: httpx.BaseTransport | None = None, clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep, workers: int = WORKERS, timeout: float = 60.0,
    ) -> None:
        self._folder, self._base_url, self._workers = Path(folder), base_url.rstrip("/"), workers
        self.clock: Clock = clock or SystemClock()
        self._sleep = sleep
        self._http = httpx.Client(transport=transport, timeout=timeout)

    def fetch(
        self, files: Sequence[ArchiveFile], watch: Callable[[str], None] = lambda line: None
    ) -> list[Held | None]:
        """Verified copies in the order asked; None where the vendor has published no such file.

        Parameters
        ----------
        watch : callable
            Told a line after each file.

        Raises
        ------
        BrokenArchive
            A file that its checksum belies, twice.
        VendorError
            The archive refuses, or does not answer after the last try.
        """
        done: list[Held | None] = []
        with ThreadPoolExecutor(self._workers) as pool:
            try:
                for held in pool.map(self._one, files):
                    done.append(held)
                    watch(f"archive: {len(done)}/{len(files)} files, {files[len(done) - 1].name}")
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return done

    def _one(self, file: ArchiveFile) -> Held | None:
        text = retrying(self._sleep)(self._checksum, file)
        if text is None:
            return None
        published, place = read_checksum(text, file.name), self._folder / file.path
        beside = place.with_name(place.name + ".CHECKSUM")
        known = read_checksum(beside.read_text(), file.name) if beside.exists() else None
        replaced = known if known not in (None, published) else None
        if place.exists() and hash_file(place) == published:
            fetched = False
        else:
            if not self._download(file, place, published):
                return None
            fetched = True
        if known != published:
            replace_if_changed(beside, text.encode())
        return Held(file, place, published, replaced, fetched)

    def _checksum(self, file: ArchiveFile) -> str | None:
        """The text of a file's CHECKSUM; None where there is none."""
        try:
            answer = self._http.get(self._url(file) + ".CHECKSUM")
        except httpx.RequestError as error:
            raise _unreachable(file, error) from None
        if answer.status_code == 404:
            return None
        self._require(file, answer, (200,))
        return answer.text

    def _download(self, file: ArchiveFile, place: Path, published: str) -> bool:
        """Put the published bytes in place; False where there is no such file after all."""
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(place.name + ".part")
        seen = ""
        # Once more from the start: a cut download may have been that of an earlier publication.
        for _ in range(2):
            if not retrying(self._sleep)(self._stream, file, part):
                return False
            seen = hash_file(part)
            if seen == published:
                part.replace(place)
                return True
            part.unlink()
        raise BrokenArchive(f"{file.name} must hash to its published checksum", f"{seen[:16]}…, not {published[:16]}…",
                            "wait until the vendor has published both again, or report it")

    def _stream(self, file: ArchiveFile, part: Path) -> bool:
        """Read the rest of a file into its part; False for no such file."""
        have = part.stat().st_size if part.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        try:
            with self._http.stream("GET", self._url(file), headers=headers) as answer:
                if answer.status_code == 404:
                    return False
                if answer.status_code == 416:
                    return True
                self._require(file, answer, (200, 206))
                with part.open("ab" if answer.status_code == 206 else "wb") as handle:
                    for chunk in answer.iter_bytes():
                        handle.write(chunk)
                        if handle.tell() > LARGEST_ZIP:
                            raise BrokenArchive(f"{file.name} is at most {LARGEST_ZIP:,} bytes", "more", "report it")
        except httpx.RequestError as error:
            raise _unreachable(file, error) from None
        return True

    def _require(self, file: ArchiveFile, answer: httpx.Response, good: tuple[int, ...]) -> None:
        if answer.status_code in good:
            return
        rule, observed = f"{file.name}: the archive must answer with the file", f"HTTP {answer.status_code}"
        if answer.status_code in (408, 429) or answer.status_code >= 500:
            error = VendorUnavailable(rule, observed, "try again later, or with fewer workers")
            error.retry_after = retry_after(answer.headers.get("Retry-After"), self.clock)
            raise error
        raise PermanentVendorError(rule, observed, "check base_url, and whether the archive may be read from here")

    def _url(self, file: ArchiveFile) -> str:
        return f"{self._base_url}/{file.path}"


def _unreachable(file: ArchiveFile, error: Exception) -> VendorUnavailable:
    return VendorUnavailable(f"{file.name}: the archive must answer", type(error).__name__, "check the network")
