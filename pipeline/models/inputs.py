"""The one builder of model inputs, for research and live alike: a pure function of stored float32 values.

What lives here: eligible rows, their cross-sectional ranks, windows gathered by index.
Not here: the normaliser itself, labels, folds, or anything a particular family does with the arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import BadInput, SchemaError
from pipeline.fingerprints import canonical_json
from pipeline.frames import require_columns, require_unique
from pipeline.models.kernels import centred_ranks
from pipeline.models.normaliser import KEY, Normaliser, feature_schema, require_schema, standardise


@dataclass(frozen=True)
class Prepared:
    """What no split changes: eligible rows and their ranks, 4 bytes a row and feature; built once for all.

    Parameters
    ----------
    schema, scopes : tuple of str
        Feature columns in order, and their scopes.
    rows : DataFrame [n]
        `session`, `instrument` of the eligible rows in key order.
    sessions : tuple of date
        Every session of the store, also those without an eligible row.
    session_index, instrument_index : int32 [n]
        Position of each row on the two axes.
    instruments : int
        Length of the instrument axis.
    values : float32 [n, F]
        Centred ranks; market features as stored, NaN missing.
    """

    schema: tuple[str, ...]
    scopes: tuple[str, ...]
    rows: pl.DataFrame
    sessions: tuple[date, ...]
    session_index: NDArray[np.int32]
    instrument_index: NDArray[np.int32]
    instruments: int
    values: NDArray[np.float32]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of rows and values; tells a resumable training whether it is the same one."""
        digest = hashlib.sha256(canonical_json([self.schema, self.scopes, self.sessions]).encode())
        digest.update("".join(self.rows["instrument"].to_list()).encode())
        for array in (self.session_index, self.instrument_index, self.values):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def inputs(
        self,
        normaliser: Normaliser,
        sessions: Sequence[date] | None = None,
        window: int = 1,
        sequence_features: Sequence[str] = (),
    ) -> Inputs:
        """The arrays of the rows of `sessions` (all by default); see `build_inputs`."""
        require_schema(self.schema, normaliser.schema)
        chosen = self._rows_of(self.sessions if sessions is None else sessions)
        needed = np.arange(len(self.values)) if sequence_features else chosen
        standardised = standardise(self.values[needed], normaliser)
        return Inputs(
            rows=self.rows[chosen],
            x=standardised[chosen] if len(chosen) < len(needed) else standardised,
            sequence=self._panel(standardised, window, sequence_features),
            session_index=self.session_index[chosen],
            instrument_index=self.instrument_index[chosen],
            window=window,
        )

    def _rows_of(self, sessions: Sequence[date]) -> NDArray[np.int64]:
        position = {day: i for i, day in enumerate(self.sessions)}
        unknown = [day.isoformat() for day in sessions if day not in position]
        if unknown:
            raise BadInput("sessions must be in the store", unknown[:5], "hand over their features and panel")
        wanted = np.zeros(len(self.sessions), bool)
        wanted[[position[day] for day in sessions]] = True
        return np.flatnonzero(wanted[self.session_index])

    def _panel(self, standardised: NDArray[np.float32], window: int, names: Sequence[str]) -> NDArray[np.float32]:
        """[window - 1 + S, I, C + 1]: the sequence features stored once, then a presence channel."""
        if not names:
            return np.zeros((0, 0, 0), np.float32)
        unknown = [name for name in names if name not in self.schema]
        if unknown:
            raise SchemaError("sequence features must be features", unknown, "correct the member's spec")
        columns = [self.schema.index(name) for name in names]
        # window - 1 empty sessions in front, so that the store's first windows need no branch
        panel = np.zeros((window - 1 + len(self.sessions), self.instruments, len(columns) + 1), np.float32)
        place = (self.session_index + (window - 1), self.instrument_index)
        panel[(*place, slice(0, -1))] = standardised[:, columns]
        panel[(*place, -1)] = 1.0
        return panel


@dataclass(frozen=True)
class Inputs:
    """Model inputs of n rows; every row's tensors depend on its own session and the window before it only.

    Parameters
    ----------
    rows : DataFrame [n]
        `session`, `instrument` in key order.
    x : float32 [n, F]
        Ranks in (-1/2, 1/2); market features standardised and clipped to +-5; missing 0.
    sequence : float32 [window - 1 + S, I, C + 1]
        The panel that windows are gathered from; the last channel is 1 where the row was eligible.
    session_index, instrument_index : int32 [n]
        A row's place on the panel's axes.
    window : int
        Sessions per window, the row's own one last.
    """

    rows: pl.DataFrame
    x: NDArray[np.float32]
    sequence: NDArray[np.float32]
    session_index: NDArray[np.int32]
    instrument_index: NDArray[np.int32]
    window: int

    def __len__(self) -> int:
        return len(self.x)

    def windows(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [len(index), window, C + 1], gathered; oldest session first."""
        steps = self.session_index[index, None] + np.arange(self.window, dtype=np.int32)
        return self.sequence[steps, self.instrument_index[index, None]]

    def take(self, index: NDArray[np.int64]) -> Inputs:
        """The same inputs for some of the rows; the panel is shared."""
        return Inputs(
            self.rows[index],
            self.x[index],
            self.sequence,
            self.session_index[index],
            self.instrument_index[index],
            self.window,
        )

    def hashes(self) -> dict[str, str]:
        """ISO day -> sha256 of that session's instruments and tensors: the evidence of parity."""
        days = self.rows["session"].to_numpy()
        starts = _session_starts(days)
        return {str(days[low]): self._hash(np.arange(low, high)) for low, high in pairwise(starts)}

    def _hash(self, index: NDArray[np.int64]) -> str:
        digest = hashlib.sha256(canonical_json(self.rows["instrument"][index].to_list()).encode())
        digest.update(np.ascontiguousarray(self.x[index]).data)
        if self.sequence.size:
            digest.update(np.ascontiguousarray(self.windows(index)).data)
        return digest.hexdigest()


def prepare(features: pl.DataFrame, eligible: pl.DataFrame, scopes: Mapping[str, str]) -> Prepared:
    """Rank the eligible rows of every session.

    Parameters
    ----------
    features : DataFrame
        `session`, `instrument` and float32 columns in schema order; rows that are not eligible are ignored.
    eligible : DataFrame
        `session`, `instrument`, `eligible` of every panel row; its sessions are the time axis, so hand over
        consecutive ones.
    scopes : mapping
        Feature -> `instrument`, `cross_section` (both ranked) or `market` (kept for the normaliser).

    Raises
    ------
    SchemaError, KeyViolation
        Columns, types or keys that break the contract.
    BadInput
        An infinite value, or a feature without a known scope.
    """
    schema = feature_schema(features, scopes)
    require_columns(eligible, (*KEY, "eligible"), "eligibility")
    require_unique(features, KEY, "features")
    require_unique(eligible, KEY, "eligibility")
    rows = eligible.filter(pl.col("eligible")).select(KEY).sort(KEY)
    values = _matrix(rows.join(features, on=KEY, how="left", maintain_order="left").select(schema))
    days = rows["session"].to_numpy()
    out = np.empty(values.shape, np.float32)
    centred_ranks(values.view(np.uint32), _session_starts(days), out)
    market = [i for i, name in enumerate(schema) if scopes[name] == "market"]
    out[:, market] = values[:, market]
    sessions = eligible["session"].unique().sort()
    instruments = rows["instrument"].unique().sort()
    return Prepared(
        schema=schema,
        scopes=tuple(scopes[name] for name in schema),
        rows=rows,
        sessions=tuple(sessions.to_list()),
        session_index=np.searchsorted(sessions.to_numpy(), days).astype(np.int32),
        instrument_index=rows["instrument"]
        .replace_strict(instruments, np.arange(len(instruments), dtype=np.int32), return_dtype=pl.Int32)
        .to_numpy(),
        instruments=len(instruments),
        values=out,
    )


def fit_normaliser(prepared: Prepared, fit_rows: NDArray[np.bool_]) -> Normaliser:
    """Mean and standard deviation of the market features over the fit rows, in float64, kept as float32.

    Parameters
    ----------
    prepared : Prepared
    fit_rows : bool [n]
        Which of `prepared.rows` may be read.
    """
    if not fit_rows.any():
        raise BadInput("a normaliser needs fit rows", 0, "widen the split's training sessions")
    market = np.flatnonzero(np.array(prepared.scopes) == "market")
    means, scales = [], []
    for column in market:
        values = prepared.values[fit_rows, column].astype(np.float64)
        known = values[~np.isnan(values)]
        means.append(float(np.float32(known.mean())) if known.size else 0.0)
        spread = known.size and known.max() > known.min()  # the deviation of equal values is not exactly 0
        scales.append(float(np.float32(known.std())) if spread else 0.0)
    return Normaliser(prepared.schema, prepared.scopes, tuple(means), tuple(scales))


def build_inputs(
    features: pl.DataFrame,
    eligible: pl.DataFrame,
    normaliser: Normaliser,
    sessions: Sequence[date],
    window: int = 1,
    sequence_features: Sequence[str] = (),
) -> Inputs:
    """Inputs of the eligible rows of `sessions`, reading no more of the store than their windows.

    A window reaches back `window - 1` sessions of `eligible`; what lies before the store is missing.

    Raises
    ------
    SchemaError
        Feature columns that are not the normaliser's, named.
    BadInput
        A session that is not in the store, or an infinite value.
    """
    require_schema(tuple(c for c in features.columns if c not in KEY), normaliser.schema)
    axis = eligible["session"].unique().sort()
    kept = axis
    if len(sessions) and min(sessions) in axis:
        kept = axis[max(0, axis.index_of(min(sessions)) - (window - 1)) :]  # type: ignore[operator]
        kept = kept.filter(kept <= max(sessions))
    within = pl.col("session").is_in(kept.to_list())
    scopes = dict(zip(normaliser.schema, normaliser.scopes, strict=True))
    prepared = prepare(features.filter(within).select(*KEY, *normaliser.schema), eligible.filter(within), scopes)
    return prepared.inputs(normaliser, sessions, window, sequence_features)


def _matrix(frame: pl.DataFrame) -> NDArray[np.float32]:
    """Fortran order: the rank kernel reads column by column."""
    out = np.empty(frame.shape, np.float32, order="F")
    for i, series in enumerate(frame.iter_columns()):
        out[:, i] = series.to_numpy()
    return out


def _session_starts(days: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """First row of each session in sorted `days`, then the row count."""
    changes = np.flatnonzero(days[1:] != days[:-1]) + 1
    first = np.zeros(min(1, len(days)), np.int64)
    return np.concatenate([first, changes, [len(days)]]).astype(np.int64)
