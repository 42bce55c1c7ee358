"""Vendor codes and the securities behind them. Here: the permanent id, the board, the code valid on a day.

Not here: whether a security is listed (universe.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import numpy as np
import polars as pl

BOARDS = ("main", "chinext", "star", "bse")
BOARD_PATTERNS = {
    "main": r"^(?:60[0135]\d{3}\.SH|00[0-3]\d{3}\.SZ)$",
    "chinext": r"^30[012]\d{3}\.SZ$",
    "star": r"^68[89]\d{3}\.SH$",
    "bse": r"^(?:43|83|87|88|92)\d{4}\.BJ$",
}
EXCHANGES = ("SH", "SZ", "BJ")

BSE_SWITCH = date(2025, 10, 9)
"""Day from which every old BSE code trades under its new one (notice of 2025-09-12)."""
BSE_PILOT_SWITCH = date(2025, 5, 6)
BSE_PILOTS = ("833819.BJ", "830799.BJ", "831445.BJ", "430489.BJ", "839167.BJ", "834682.BJ")


@dataclass(frozen=True)
class Identity:
    """Every vendor code that the tables may use, and the instrument it stands for.

    Parameters
    ----------
    instruments : tuple of str
        Permanent ids, ascending: the first code a security ever had. Position = instrument index.
    renames : dict
        New code -> original code, from `bse_mapping`.
    """

    instruments: tuple[str, ...]
    renames: Mapping[str, str]

    @classmethod
    def from_tables(cls, stock_basic: pl.DataFrame, bse_mapping: pl.DataFrame | None) -> Identity:
        """Instruments of `stock_basic` on a known board; codes of other boards stay outside."""
        renames: dict[str, str] = {}
        if bse_mapping is not None:
            pairs = bse_mapping.select("n_code", "o_code").drop_nulls().unique().sort("n_code", "o_code")
            renames = dict(pairs.iter_rows())
        names = original_code(stock_basic["ts_code"].drop_nulls().unique(), renames)
        known = names.filter(board_of(names).is_not_null())
        return cls(tuple(known.unique().sort().to_list()), renames)

    @cached_property
    def _codes(self) -> tuple[pl.Enum, np.ndarray]:
        place = {name: i for i, name in enumerate(self.instruments)}
        aliases = [new for new, old in self.renames.items() if old in place and new not in place]
        codes = [*self.instruments, *aliases]
        index = [place[self.renames.get(code, code)] for code in codes]
        return pl.Enum(codes), np.array([*index, -1], dtype=np.int32)

    def index(self, codes: pl.Series) -> np.ndarray:
        """int32 instrument index of each vendor code; -1 for a code outside."""
        categories, index = self._codes
        physical = codes.cast(categories, strict=False).to_physical().cast(pl.Int64).fill_null(len(index) - 1)
        return index[physical.to_numpy()]

    @cached_property
    def names(self) -> pl.Series:
        """Instruments as a column, to gather from."""
        return pl.Series("instrument", self.instruments, dtype=pl.String)

    @cached_property
    def boards(self) -> np.ndarray:
        """int8 position in `BOARDS` of each instrument."""
        return board_of(self.names).cast(pl.Enum(BOARDS)).to_physical().cast(pl.Int8).to_numpy()

    @cached_property
    def exchanges(self) -> np.ndarray:
        """int8 position in `EXCHANGES` of each instrument."""
        return self.names.str.slice(-2).cast(pl.Enum(EXCHANGES)).to_physical().cast(pl.Int8).to_numpy()

    def code_on(self, instrument: pl.Series, session: pl.Series) -> pl.Series:
        """The vendor code valid on the day: the original one until the BSE switch, the new one from it on."""
        newest = {old: new for new, old in self.renames.items()}
        frame = pl.DataFrame({"instrument": instrument, "session": session})
        old = pl.col("instrument")
        pilots = old.is_in(BSE_PILOTS)
        switched = pl.col("session") >= pl.when(pilots).then(BSE_PILOT_SWITCH).otherwise(BSE_SWITCH)
        new = (
            old.replace_strict(newest, default=None, return_dtype=pl.String)
            if newest
            else pl.lit(None, pl.String)
        )
        return frame.select(
            pl.when(switched).then(pl.coalesce(new, old)).otherwise(old).alias("code")
        ).to_series()


def original_code(codes: pl.Series, renames: Mapping[str, str]) -> pl.Series:
    """The first code of each security: new BSE codes become the old ones, all others stay."""
    return codes.replace(dict(renames)) if renames else codes


def board_of(codes: pl.Series) -> pl.Series:
    """Board by the code's prefix and suffix; null for B shares, funds and what is not listed here."""
    chain = pl.coalesce(
        *(
            pl.when(pl.col("c").str.contains(pattern)).then(pl.lit(board))
            for board, pattern in BOARD_PATTERNS.items()
        )
    )
    return pl.DataFrame({"c": codes.cast(pl.String)}).select(chain.alias("board")).to_series()
