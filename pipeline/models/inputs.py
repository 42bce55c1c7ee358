"""The one builder of model inputs, for research and live alike: a pure function of stored float32 values.

What lives here: what is fitted on a split's fit rows, and tensors gathered by index. Not here: labels, folds, or
anything a particular family does with the tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import BadInput, SchemaError
from pipeline.fingerprints import canonical_json
from pipeline.frames import row_key
from pipeline.models.kernels import channel_moments, gather_bars, gather_features
from pipeline.models.normaliser import CLIP, RANKED, Normaliser, require_schema
from pipeline.models.prepared import Prepared, Reads, session_starts
from pipeline.models.preparing import prepare
from pipeline.models.spec import Layout

Tensors = dict[str, NDArray[np.float32] | NDArray[np.int64]]
FIT_ROWS = 65_536  # rows read at once while a normaliser is fitted: 100 MB of bars at 48 x 8, 70 MB of 267 features


@dataclass(frozen=True)
class Inputs:
    """Some rows of a store as one member reads them; nothing is gathered before it is asked for.

    A row's tensors depend on its own session and the window before it only:

    - `x` float32 [n, F]: ranks in (-1/2, 1/2); market features standardised and clipped to +-5; missing 0.
    - `daily` float32 [n, W, B + 1], oldest session first; the last channel is 1 where the row was eligible.
    - `bars` float32 [n, D, T, C + 1]: standardised channels of minute bars; the last one is 1 where a bar exists.
    - `codes` int64 [n, K]: categories by the split's vocabulary, 0 unknown.

    Parameters
    ----------
    store : Prepared
    normaliser : Normaliser
    layout : Layout
        Which of the tensors there are.
    index : int64 [n]
        Rows of the store, ascending.
    """

    store: Prepared
    normaliser: Normaliser
    layout: Layout
    index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def rows(self) -> pl.DataFrame:
        """`session`, `instrument` [n]."""
        return self.store.rows[self.index]

    @cached_property
    def session_index(self) -> NDArray[np.int32]:
        """[n] position of each row's session in the store."""
        return self.store.session_index[self.index]

    @cached_property
    def x(self) -> NDArray[np.float32]:
        """All rows' own features, for families that fit on one matrix."""
        return self._x(self.index)

    @property
    def raw(self) -> NDArray[np.float32]:
        """[n, F] as stored: features that are not ranked in their own unit, NaN missing."""
        return self.store.values[self.index]

    def take(self, index: NDArray[np.int64]) -> Inputs:
        """The same inputs for some of the rows."""
        return Inputs(self.store, self.normaliser, self.layout, self.index[index])

    def tensors(self, index: NDArray[np.int64]) -> Tensors:
        """Gathered tensors of some of the rows, in the order in which nets take them."""
        rows, layout = self.index[index], self.layout
        found: Tensors = {"x": self._x(rows)}
        if layout.daily:
            found["daily"] = self._features(self._window(rows, layout.window), self._daily_columns, presence=True)
        if layout.intraday_sessions:
            found["bars"] = self._bars(self._window(rows, layout.intraday_sessions))
        if layout.categories:
            found["codes"] = self._codes(rows)
        return found

    def hashes(self) -> dict[str, str]:
        """ISO day -> sha256 of that session's instruments and tensors: the evidence of parity."""
        days = self.rows["session"].to_numpy()
        return {str(days[low]): self._hash(np.arange(low, high)) for low, high in pairwise(session_starts(days))}

    def _hash(self, index: NDArray[np.int64]) -> str:
        keys = self.rows[index].drop("session")
        digest = hashlib.sha256(canonical_json([keys[name].to_list() for name in keys.columns]).encode())
        for tensor in self.tensors(index).values():
            digest.update(np.ascontiguousarray(tensor).data)
        return digest.hexdigest()

    def _window(self, rows: NDArray[np.int64], length: int) -> NDArray[np.int32]:
        """int32 [m, length]: the store's row of each session up to the row's own, -1 where there is none."""
        steps = self.store.session_index[rows, None] + np.arange(1 - length, 1, dtype=np.int32)
        found = self.store.row_at[np.maximum(steps, 0), self.store.instrument_index[rows, None]]
        return np.where(steps < 0, np.int32(-1), found)

    @cached_property
    def _daily_columns(self) -> NDArray[np.int64]:
        return self.store.columns_of(self.layout.daily)

    def _x(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        columns = np.arange(len(self.store.schema))
        return self._features(rows.astype(np.int32)[:, None], columns, presence=False)[:, 0]

    def _features(self, rows: NDArray[np.int32], columns: NDArray[np.int64], *, presence: bool) -> NDArray[np.float32]:
        mean, scale = self.normaliser.feature_terms
        out = np.empty((*rows.shape, len(columns) + presence), np.float32)
        gather_features(self.store.values, rows, columns, mean[columns], scale[columns], CLIP, out)
        return out

    def _bars(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        _, bars, channels = self.store.bars.shape
        if (bars, channels) != (self.normaliser.bars, len(self.normaliser.channels)):
            raise SchemaError(
                f"minute bars are {self.normaliser.bars} a session with channels {self.normaliser.channels}",
                f"{bars} a session, {self.store.channels}",
                "score with the market's settings of the bundle, or refit",
            )
        out = np.empty((*rows.shape, bars, channels + 1), np.float32)
        gather_bars(self.store.bars, rows, *self.normaliser.channel_terms, CLIP, out)
        return out

    def _codes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        out = np.empty((len(rows), len(self._lookups)), np.int64)
        for k, (column, lookup) in enumerate(self._lookups):
            out[:, k] = lookup[self.store.codes[rows, column]]
        return out

    @cached_property
    def _lookups(self) -> list[tuple[int, NDArray[np.int64]]]:
        """Per category its column in the store, and the vocabulary's code of each of the store's levels."""
        unknown = [name for name in self.layout.categories if name not in self.store.categories]
        if unknown:
            raise SchemaError("a member's categories are prepared", unknown, "name them in the study's members")
        columns = [self.store.categories.index(name) for name in self.layout.categories]
        return [
            (column, self.normaliser.codes_of(name, self.store.levels[column]))
            for name, column in zip(self.layout.categories, columns, strict=True)
        ]


def inputs_of(
    store: Prepared, normaliser: Normaliser, layout: Layout, sessions: Sequence[date] | None = None
) -> Inputs:
    """Inputs of the rows of `sessions` (all by default).

    Raises
    ------
    SchemaError
        Feature columns that are not the normaliser's, named.
    BadInput
        A session that is not in the store.
    """
    require_schema(store.schema, normaliser.schema)
    index = np.arange(len(store)) if sessions is None else store.rows_of(sessions)
    return Inputs(store, normaliser, layout, index)


def fit_normaliser(store: Prepared, fit_rows: NDArray[np.bool_], layout: Layout | None = None) -> Normaliser:
    """Mean and deviation of market features and minute channels, and vocabularies, over the fit rows alone.

    Sums are in float64 and kept as float32.

    Parameters
    ----------
    store : Prepared
    fit_rows : bool [n]
        Which of the store's rows may be read.
    layout : Layout, optional
        What the member reads beside the features.
    """
    index = np.flatnonzero(fit_rows)
    if not index.size:
        raise BadInput("a normaliser needs fit rows", 0, "widen the split's training sessions")
    means, scales = [], []
    for column in _market_columns(store, index):
        values = column.astype(np.float64)
        known = values[~np.isnan(values)]
        means.append(float(np.float32(known.mean())) if known.size else 0.0)
        spread = known.size and known.max() > known.min()  # the deviation of equal values is not exactly 0
        scales.append(float(np.float32(known.std())) if spread else 0.0)
    read = layout or Layout()
    channel_mean, channel_scale = _channel_terms(store, index) if read.intraday_sessions else ((), ())
    return Normaliser(
        schema=store.schema,
        scopes=store.scopes,
        mean=tuple(means),
        scale=tuple(scales),
        channels=store.channels if read.intraday_sessions else (),
        channel_mean=channel_mean,
        channel_scale=channel_scale,
        bars=store.bars.shape[1] if read.intraday_sessions else 0,
        vocabulary={name: _vocabulary(store, index, name) for name in read.categories},
    )


def _market_columns(store: Prepared, index: NDArray[np.int64]) -> NDArray[np.float32]:
    """[features not ranked, len(index)] in one pass: a column at a time would read the mapped rows once per feature."""
    market = np.flatnonzero(~np.isin(store.scopes, RANKED))
    out = np.empty((len(market), len(index)), np.float32)
    for start in range(0, len(index) if len(market) else 0, FIT_ROWS):
        rows = index[start : start + FIT_ROWS]
        out[:, start : start + len(rows)] = store.values[rows[:, None], market].T
        store.release()
    return out


def _channel_terms(store: Prepared, index: NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    moments = np.tile([0.0, 0.0, 0.0, np.inf, -np.inf], (len(store.channels), 1))
    for start in range(0, len(index), FIT_ROWS):
        channel_moments(store.bars, index[start : start + FIT_ROWS], moments)
        store.release()
    count, total, square, least, greatest = moments.T
    if not count.any():
        raise BadInput(
            "a member with an intraday path has minute bars on its fit rows",
            f"none on {len(index)} rows",
            "fetch the minutes of those sessions, or switch the member's intraday path off",
        )
    mean = np.where(count > 0, total / np.maximum(count, 1.0), 0.0)
    variance = np.maximum(square / np.maximum(count, 1.0) - mean * mean, 0.0)
    scale = np.where(greatest > least, np.sqrt(variance), 0.0)
    return tuple(mean.astype(np.float32).tolist()), tuple(scale.astype(np.float32).tolist())


def _vocabulary(store: Prepared, index: NDArray[np.int64], name: str) -> tuple[str, ...]:
    if name not in store.categories:
        raise SchemaError("a member's categories are prepared", name, "name it in the study's members")
    column = store.categories.index(name)
    seen = np.unique(store.codes[index, column])
    return tuple(sorted(store.levels[column][code] for code in seen if code >= 0))


def build_inputs(
    features: pl.DataFrame,
    standing: pl.DataFrame,
    normaliser: Normaliser,
    sessions: Sequence[date],
    layout: Layout | None = None,
    paths: pl.DataFrame | None = None,
) -> Inputs:
    """Inputs of the eligible rows of `sessions`, reading no more of the tables than their windows.

    A window reaches back over the sessions of `standing`; what lies before the first is missing.

    Parameters
    ----------
    features, standing, paths : DataFrame
        As in `prepared.Part`.

    Raises
    ------
    SchemaError
        Feature columns that are not the normaliser's, named; minutes of another shape.
    BadInput
        A session that is not in the tables, or an infinite value.
    """
    key = row_key(features)
    require_schema(tuple(c for c in features.columns if c not in key), normaliser.schema)
    read = layout or Layout()
    axis = standing["session"].unique().sort()
    kept = axis
    if len(sessions) and min(sessions) in axis:
        kept = axis[max(0, axis.index_of(min(sessions)) - (read.sessions - 1)) :]  # type: ignore[operator]
        kept = kept.filter(kept <= max(sessions))
    within = pl.col("session").is_in(kept.to_list())
    scopes = dict(zip(normaliser.schema, normaliser.scopes, strict=True))
    bars = normaliser.bars if read.intraday_sessions else 0
    store = prepare(
        features.filter(within).select(*key, *normaliser.schema),
        standing.filter(within),
        scopes,
        Reads(normaliser.channels, bars, read.categories),
        paths.filter(within) if paths is not None else None,
    )
    return inputs_of(store, normaliser, read, sessions)
