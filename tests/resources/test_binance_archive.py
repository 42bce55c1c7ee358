"""The archive client and its ZIPs: checksums, cuts, resumes, republication, bombs and paths that escape."""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
from datetime import UTC, date, datetime
from pathlib import Path

import httpx
import pytest

from pipeline.clock import FixedClock
from pipeline.errors import BrokenArchive, PermanentVendorError, VendorUnavailable
from resources import archive_files
from resources.archive_files import read_checksum, read_member
from resources.binance_archive import ArchiveClient, ArchiveFile, daily_files, funding_files, kline_files
from resources.retrying import ATTEMPTS
from tests.fake_binance import FakeBinance, candles, csv, day_path, zipped

DAY = date(2024, 3, 1)
PATH = day_path("um", "X", DAY)
NAME = PATH.rpartition("/")[2]
FILE = ArchiveFile(PATH, "X", (DAY,))


class Setup:
    def __init__(self, folder: Path) -> None:
        self.folder, self.slept = folder, list[float]()
        self.vendor = FakeBinance(FixedClock(datetime(2024, 3, 5, tzinfo=UTC)))
        self.vendor.publish(PATH, csv(candles(datetime(2024, 3, 1), 1440)))
        self.client = ArchiveClient(folder, transport=self.vendor, clock=self.vendor.clock, sleep=self.slept.append)

    @property
    def place(self) -> Path:
        return self.folder / PATH

    @property
    def part(self) -> Path:
        return self.place.with_name(self.place.name + ".part")


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def test_a_copy_is_verified_kept_and_not_fetched_twice(setup: Setup):
    """A second run asks for the checksum only."""
    held, = setup.client.fetch([FILE])
    assert held is not None
    assert held.sha256 == hashlib.sha256(setup.vendor.files[PATH]).hexdigest()
    assert held.place.read_bytes() == setup.vendor.files[PATH]
    again, = setup.client.fetch([FILE])
    assert again is not None
    assert (held.fetched, again.fetched, again.replaced) == (True, False, None)
    assert [path.endswith(".CHECKSUM") for path, _ in setup.vendor.requests] == [True, False, True]


def test_a_cut_download_goes_on_where_it_stopped(setup: Setup):
    """A month's file over a bad line would never arrive."""
    whole = setup.vendor.files[PATH]
    setup.part.parent.mkdir(parents=True)
    setup.part.write_bytes(whole[:1000])
    held, = setup.client.fetch([FILE])
    assert setup.vendor.ranges == ["bytes=1000-"]
    assert held is not None
    assert held.place.read_bytes() == whole
    assert not setup.part.exists()


@pytest.mark.parametrize("left", [b"an earlier publication", None], ids=["other bytes", "more than the file"])
def test_a_part_of_something_else_is_thrown_away(setup: Setup, left: bytes | None):
    """The file was published again between the cut and the resume."""
    setup.part.parent.mkdir(parents=True)
    setup.part.write_bytes(left or setup.vendor.files[PATH] + b"x" * 10)
    held, = setup.client.fetch([FILE])
    assert held is not None
    assert held.place.read_bytes() == setup.vendor.files[PATH]


def test_a_checksum_that_never_fits_is_refused_with_both(setup: Setup):
    """Data that nobody signed for must not reach the lake, nor a copy of it stay."""
    setup.vendor.checksums[PATH] = f"{'ab' * 32}  {NAME}\n"
    with pytest.raises(BrokenArchive, match=r"must hash to its published checksum; observed: \w{16}…, not abababab"):
        setup.client.fetch([FILE])
    assert not setup.place.exists()
    assert not setup.part.exists()


def test_a_damaged_copy_is_fetched_again_and_is_no_revision(setup: Setup):
    """A bad disk is not the vendor's correction."""
    setup.client.fetch([FILE])
    setup.place.write_bytes(b"damaged")
    held, = setup.client.fetch([FILE])
    assert held is not None
    assert (held.fetched, held.replaced) == (True, None)


def test_a_file_published_again_names_what_it_replaces(setup: Setup):
    """The old checksum is the only trace of what an earlier run read."""
    first, = setup.client.fetch([FILE])
    setup.vendor.publish(PATH, csv(candles(datetime(2024, 3, 1), 1440, seed=1)))
    second, = setup.client.fetch([FILE])
    assert first is not None
    assert second is not None
    assert second.replaced == first.sha256
    assert second.place.read_bytes() == setup.vendor.files[PATH]


def test_a_file_that_is_not_published_is_none(setup: Setup):
    """A delisted symbol or a late file is a gap, not an error; the order asked is kept."""
    other = ArchiveFile(day_path("um", "X", date(2024, 3, 2)), "X", (date(2024, 3, 2),))
    found = setup.client.fetch([other, FILE, other])
    assert [held is None for held in found] == [True, False, True]


def test_many_files_come_in_order_and_progress_is_told(setup: Setup):
    """Files finish in any order; rows must not."""
    files = []
    for n in range(1, 9):
        path = day_path("um", f"S{n}", DAY)
        setup.vendor.publish(path, csv(candles(datetime(2024, 3, 1), 5, seed=n)))
        files.append(ArchiveFile(path, f"S{n}", (DAY,)))
    lines: list[str] = []
    found = setup.client.fetch(files, lines.append)
    assert [held.file.symbol for held in found if held] == [f"S{n}" for n in range(1, 9)]
    assert lines[-1] == f"archive: 8/8 files, S8-1m-{DAY}.zip"


def test_what_is_held_survives_a_failure_of_another_file(setup: Setup):
    """A run that dies on its last file must not begin again."""
    bad = ArchiveFile(day_path("um", "BAD", DAY), "BAD", (DAY,))
    setup.vendor.publish(bad.path, b"1\n")
    setup.vendor.checksums[bad.path] = f"{'00' * 32}  {bad.name}\n"
    with pytest.raises(BrokenArchive):
        setup.client.fetch([FILE, bad])
    assert setup.place.exists()


def test_a_gateway_is_tried_again_and_a_refusal_is_not(setup: Setup):
    """503 passes; 403 does not."""
    setup.vendor.next = [httpx.Response(503, headers={"Retry-After": "9"})]
    assert setup.client.fetch([FILE])[0] is not None
    assert setup.slept == [9.0]
    setup.vendor.next = [httpx.ConnectError("down")] * ATTEMPTS
    with pytest.raises(VendorUnavailable, match="ConnectError"):
        setup.client.fetch([FILE])
    asked = len(setup.vendor.requests)
    setup.vendor.next = [httpx.Response(403)]
    with pytest.raises(PermanentVendorError, match="HTTP 403"):
        setup.client.fetch([FILE])
    assert len(setup.vendor.requests) == asked + 1


@pytest.mark.parametrize("text", ["", "<html>", f"{'a' * 63}  {NAME}", f"{'a' * 64}  other.zip"])
def test_a_checksum_of_another_form_or_file_is_refused(text: str):
    """A proxy's page is no checksum."""
    with pytest.raises(BrokenArchive, match="CHECKSUM"):
        read_checksum(text, NAME)


def written(folder: Path, content: bytes) -> Path:
    path = folder / NAME
    path.write_bytes(content)
    return path


def member(name: str, content: bytes = b"1,2\n" * 50, mode: int = 0) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return held.getvalue()


CSV = NAME.replace(".zip", ".csv")


def test_the_member_is_read_whole(tmp_path: Path):
    """The plain case, beside the refusals."""
    content = csv(candles(datetime(2024, 3, 1), 1440))
    assert read_member(written(tmp_path, zipped(CSV, content)), NAME) == content


@pytest.mark.parametrize("name", [f"../{CSV}", f"/etc/{CSV}", f"a/{CSV}", f"..\\{CSV}", "other.csv", f"{CSV}\0.exe"])
def test_a_member_that_would_leave_its_folder_is_refused(tmp_path: Path, name: str):
    """Zip-slip: unpacked, it writes where it likes."""
    # Python writes a name up to its null byte only; other programs do not.
    content = member(name.replace("\0", "#")).replace(b".csv#.exe", b".csv\0.exe")
    with pytest.raises(BrokenArchive, match="holds only"):
        read_member(written(tmp_path, content), NAME)


def test_links_second_members_and_encryption_are_refused(tmp_path: Path):
    """A link reads another file; a second member hides what the first shows."""
    with pytest.raises(BrokenArchive, match="a link"):
        read_member(written(tmp_path, member(CSV, mode=0o120777)), NAME)
    two = io.BytesIO(zipped(CSV, b"1\n"))
    with zipfile.ZipFile(two, "a") as archive:
        archive.writestr("more.csv", b"2\n")
    with pytest.raises(BrokenArchive, match="holds only"):
        read_member(written(tmp_path, two.getvalue()), NAME)
    locked = bytearray(member(CSV))
    at = locked.rindex(b"PK\x01\x02") + 8
    locked[at] |= 1
    with pytest.raises(BrokenArchive, match="encrypted"):
        read_member(written(tmp_path, bytes(locked)), NAME)


@pytest.mark.parametrize("cut", [10, 100, -30, -5])
def test_a_truncated_zip_is_refused(tmp_path: Path, cut: int):
    """A file without checksum that was cut on its way."""
    with pytest.raises(BrokenArchive, match="must be a whole ZIP"):
        read_member(written(tmp_path, member(CSV)[:cut]), NAME)


def test_damaged_bytes_are_refused(tmp_path: Path):
    """The ZIP's own sum catches what its directory does not show."""
    content = bytearray(zipped(CSV, csv(candles(datetime(2024, 3, 1), 200))))
    content[2000] ^= 0xFF
    with pytest.raises(BrokenArchive, match="must be a whole ZIP"):
        read_member(written(tmp_path, bytes(content)), NAME)


def test_a_bomb_is_refused_by_ratio(tmp_path: Path):
    """10 MB of zeros are 10 kB: read, they fill the memory."""
    with pytest.raises(BrokenArchive, match="200 times"):
        read_member(written(tmp_path, member(CSV, b"0" * 10_000_000)), NAME)


def test_a_bomb_is_refused_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Slowly shrinking text can still be too much."""
    monkeypatch.setattr(archive_files, "LARGEST_TEXT", 1000)
    with pytest.raises(BrokenArchive, match="at most 1,000 bytes"):
        read_member(written(tmp_path, zipped(CSV, csv(candles(datetime(2024, 3, 1), 100)))), NAME)


def test_a_bomb_that_lies_about_its_size_is_refused(tmp_path: Path):
    """The directory's size is the attacker's word."""
    content = bytearray(member(CSV, b"0" * 10_000_000))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.rindex(signature) + offset
        struct.pack_into("<I", content, at, 1000)
    with pytest.raises(BrokenArchive):
        read_member(written(tmp_path, bytes(content)), NAME)


def test_a_month_is_asked_whole_once_it_is_out(tmp_path: Path):
    """Monthly files come with the first Monday of the next month; the running day has none at all."""
    march = [date(2024, 3, day) for day in range(1, 32)]
    monthly = "data/spot/monthly/klines/X/1m/X-1m-2024-03.zip"
    assert [f.path for f in kline_files("spot", "X", march, date(2024, 4, 1))] == [monthly]
    assert len(kline_files("spot", "X", march, date(2024, 3, 31))) == 30
    assert len(kline_files("spot", "X", march[1:], date(2024, 5, 1))) == 30
    february = [date(2024, 2, day) for day in range(1, 30)]
    # The first Monday of March 2024 is the 4th.
    assert len(kline_files("um", "X", february, date(2024, 3, 3))) == 29
    whole, = kline_files("um", "X", february, date(2024, 3, 4))
    assert [f.path for f in daily_files(whole)][:1] == [day_path("um", "X", date(2024, 2, 1))]
    assert [f.name for f in funding_files("X", [*february, *march], date(2024, 3, 20))] == ["X-fundingRate-2024-02.zip"]


@pytest.mark.realdata
def test_real_zips_open(realdata: Path):
    """Files as published pass every check."""
    folder = realdata / "binance/archive/spot_klines_headerless"
    found = sorted(folder.glob("*.zip"))
    assert len(found) == 3
    for path in found:
        assert read_member(path, path.name).count(b"\n") in (1360, 1440)
