"""Live against research, bit for bit: what was recorded and what the research path makes of the same session today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

import polars as pl

from pipeline.errors import BadInput
from pipeline.features.compute import CHANNELS
from pipeline.frames import MINUTE, require_unique

# From cause to effect, so that the first difference is where it began. Where a row has a minute, it is the last part.
KEYS: dict[str, tuple[str, ...]] = {
    "panel": ("session", "instrument"),
    "features": ("session", "instrument"),
    "paths": ("session", "instrument"),
    "tensors": ("session", "member"),
    "scores": ("session", "member", "instrument"),
    "predictions": ("session", "instrument"),
    "orders": ("session", "rank"),
}
BITS = {pl.Float32: pl.UInt32, pl.Float64: pl.UInt64}
ABSENT = "absent"


class Difference(NamedTuple):
    """The first value that differs: where it is, and both sides; floats with their bits."""

    asset: str
    instrument: str
    column: str
    live: str
    research: str

    def __str__(self) -> str:
        return f"{self.asset}, {self.instrument}, {self.column}: live {self.live}, research {self.research}"


@dataclass(frozen=True)
class AssetParity:
    """One asset compared: rows on either side, rows that differ, and where first."""

    asset: str
    rows: int
    different: int
    first: Difference | None

    @property
    def exact(self) -> bool:
        return self.first is None


@dataclass(frozen=True)
class ParityReport:
    """The comparison of one session.

    Parameters
    ----------
    assets : tuple of AssetParity
        In the order of `KEYS`.
    """

    assets: tuple[AssetParity, ...]

    @property
    def rows(self) -> int:
        return sum(asset.rows for asset in self.assets)

    @property
    def exact(self) -> bool:
        return all(asset.exact for asset in self.assets)

    @property
    def first_difference(self) -> Difference | None:
        """Of the earliest asset that differs."""
        return next((asset.first for asset in self.assets if asset.first), None)

    def to_frame(self, day: date) -> pl.DataFrame:
        """One row an asset: session, asset, exact, rows, different, instrument, column, live, research."""
        rows = [
            {"session": day, "asset": a.asset, "exact": a.exact, "rows": a.rows, "different": a.different}
            | dict(
                zip(
                    ("instrument", "column", "live", "research"),
                    a.first[1:] if a.first else (None,) * 4,
                    strict=True,
                )
            )
            for a in self.assets
        ]
        return pl.DataFrame(
            rows,
            schema={
                "session": pl.Date,
                "asset": pl.String,
                "exact": pl.Boolean,
                "rows": pl.Int64,
                "different": pl.Int64,
                "instrument": pl.String,
                "column": pl.String,
                "live": pl.String,
                "research": pl.String,
            },
        )


def compare(live: Mapping[str, pl.DataFrame], research: Mapping[str, pl.DataFrame]) -> ParityReport:
    """Compare the assets of an inference; equal means equal bits, nulls in the same places, the same rows.

    Parameters
    ----------
    live, research : mapping
        Asset -> frame, docs `Inference`. Row order does not matter.

    Raises
    ------
    BadInput
        An asset is absent or both sides are empty: nothing compared is not parity.
    KeyViolation
        A frame holds a key twice.
    """
    missing = [name for name in KEYS if name not in live or name not in research]
    if missing:
        raise BadInput(f"parity compares {list(KEYS)}", f"absent: {missing}", "materialise inference first")
    report = ParityReport(tuple(_compare_asset(name, _flat(live[name]), _flat(research[name])) for name in KEYS))
    empty = [asset.asset for asset in report.assets if not asset.rows and not _may_be_empty(live[asset.asset], asset)]
    if empty:
        raise BadInput("parity compares rows", f"no rows on either side: {empty}", "materialise inference first")
    return report


def table_key(asset: str, frame: pl.DataFrame) -> tuple[str, ...]:
    """Key of an asset: that of `KEYS`, and the minute where its rows have one; an order's key is its rank."""
    by_row = "instrument" in KEYS[asset] and MINUTE in frame.columns
    return (*KEYS[asset], MINUTE) if by_row else KEYS[asset]


def _may_be_empty(frame: pl.DataFrame, asset: AssetParity) -> bool:
    """A market without minute bars has no paths; by the minute, a day without an entry is a decision."""
    return asset.asset == "paths" or (asset.asset == "orders" and MINUTE in frame.columns)


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    """Each bar's channels as columns of their own, so that a difference is named like any other."""
    if "channels" not in frame.columns:
        return frame
    width = getattr(frame.schema["channels"], "size", 0)
    names = [f"{CHANNELS[i % len(CHANNELS)]}_{i // len(CHANNELS):02d}" for i in range(width)]
    values = frame["channels"].to_numpy().reshape(len(frame), width)
    return frame.drop("channels").hstack(pl.DataFrame(values, schema=names, orient="row"))


def _compare_asset(asset: str, live: pl.DataFrame, research: pl.DataFrame) -> AssetParity:
    key = table_key(asset, live)
    shape = _shape_difference(asset, live, research)
    if shape:
        rows = max(len(live), len(research))
        return AssetParity(asset, rows, rows, shape)
    for frame, side in ((live, "live"), (research, "research")):
        require_unique(frame, key, f"{side} {asset}")
    both = live.select(key).join(research.select(key), on=list(key), how="full", coalesce=True).sort(key)
    columns = [c for c in live.columns if c not in key]
    sides = [
        both.join(frame.with_columns(__row=True), on=list(key), how="left", maintain_order="left")
        for frame in (live, research)
    ]
    differs = pl.DataFrame({c: _bits(sides[0][c]).ne_missing(_bits(sides[1][c])) for c in ("__row", *columns)})
    wrong = differs.select(pl.any_horizontal(pl.all())).to_series()
    return AssetParity(asset, len(both), int(wrong.sum()), _first(asset, both, sides, differs, wrong))


def _shape_difference(asset: str, live: pl.DataFrame, research: pl.DataFrame) -> Difference | None:
    """Columns and types first: values of other columns cannot be compared."""
    left, right = list(live.schema.items()), list(research.schema.items())
    for i in range(max(len(left), len(right))):
        ours, theirs = (side[i] if i < len(side) else None for side in (left, right))
        if ours != theirs:
            name = (ours or theirs or ("",))[0]
            return Difference(asset, "", name, _column(ours), _column(theirs))
    return None


def _column(item: tuple[str, pl.DataType] | None) -> str:
    return ABSENT if item is None else f"column {item[0]} {item[1]}"


def _bits(series: pl.Series) -> pl.Series:
    """Floats as their bits: -0.0 is not 0.0, a NaN equals only the same NaN."""
    unsigned = next((bits for float_type, bits in BITS.items() if series.dtype == float_type), None)
    return series.reinterpret(dtype=unsigned) if unsigned else series


def _first(
    asset: str, keys: pl.DataFrame, sides: Sequence[pl.DataFrame], differs: pl.DataFrame, wrong: pl.Series
) -> Difference | None:
    """The first differing row in key order, and in it the first differing column in stored order."""
    if not wrong.any():
        return None
    row = int(wrong.arg_true()[0])
    label = keys.row(row, named=True)
    instrument = "|".join(str(label[k]) for k in keys.columns if k != "session")
    column = next(c for c in differs.columns if differs[c][row])
    if column == "__row":
        shown = ["present" if side["__row"][row] else ABSENT for side in sides]
        return Difference(asset, instrument, "row", *shown)
    return Difference(asset, instrument, column, *(_shown(side[column].slice(row, 1)) for side in sides))


def _shown(value: pl.Series) -> str:
    """A value as text that tells any two values apart."""
    if value.is_null().all() or not value.dtype.is_float():
        return str(value.item())
    return f"{value.to_numpy()[0]} (0x{_bits(value).item():x})"
