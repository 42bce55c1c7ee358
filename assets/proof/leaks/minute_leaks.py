"""Leaks of a study that decides by the minute."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from assets.proof.leaks.catchers import (
    AHEAD,
    ENTRIES_BLIND,
    ENTRY_BAR,
    LATER,
    MINUTE_CUT,
    OTHERS,
    SEALED,
    SPANS,
    STOPPING,
)
from assets.proof.leaks.contract import Leak, replaced
from assets.proof.leaks.fit_leaks import policy_on_tests
from pipeline.asof.minutes import build_minute_panel
from pipeline.diagnostics.minutes import continue_states
from pipeline.features.minutes import compute, history, position_state
from pipeline.features.minutes.compute import minute_features
from pipeline.features.minutes.history import MinuteHistory
from pipeline.folds.named import SEALED_SPLITS, TUNE_INNER
from pipeline.folds.spec import LOCKED
from pipeline.labels.minute_heads import minute_labels
from pipeline.models.heads import trees
from pipeline.positions.manager_search import search
from pipeline.stages import minutes, position_manager, research
from pipeline.stages.contract import Reader
from pipeline.study import Study

Frames = tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]
FIVE = 5
MINUTE = pl.duration(minutes=1)


def _in_family(name: str, change: Callable[[MinuteHistory, np.ndarray], np.ndarray]) -> Callable[
    [], AbstractContextManager[None]
]:  # fmt: skip
    """The first column of a family, changed over its rows."""

    def apply() -> AbstractContextManager[None]:
        def careless(family: Any) -> Any:
            def computed(made: MinuteHistory) -> list[np.ndarray]:
                first, *rest = family.compute(made)
                return [change(made, first), *rest]

            return replace(family, compute=computed) if family.name == name else family

        return replaced(compute, "FAMILIES", tuple(careless(family) for family in compute.FAMILIES))

    return apply


def _at_bar_start(made: MinuteHistory, values: np.ndarray) -> np.ndarray:
    """A five-minute bar's value at every minute from its start, as a resample labelled there gives it."""
    place = made.rows["minute"].dt.minute().to_numpy().astype(np.int64)
    last = np.arange(len(values)) + (FIVE - 1 - place % FIVE)
    return values[np.minimum(last, len(values) - 1)]


def _shifted(made: MinuteHistory, values: np.ndarray) -> np.ndarray:
    return np.append(values[1:], np.nan)


def _backfilled(made: MinuteHistory, values: np.ndarray) -> np.ndarray:
    # Warm-up minutes have no value; any minute can be one, as a feed begins there.
    holes = np.where(np.arange(len(values)) % 3 == 0, np.nan, values)
    return pl.Series(holes).fill_nan(None).backward_fill().fill_null(np.nan).to_numpy()


def _standardised(made: MinuteHistory, values: np.ndarray) -> np.ndarray:
    return (values - np.nanmean(values)) / np.nanstd(values)


def _handed(change: Callable[[pl.DataFrame, pl.DataFrame, pl.DataFrame], Frames]) -> Callable[
    [], AbstractContextManager[None]
]:  # fmt: skip
    """The features stage hands other frames to the features."""

    def apply() -> AbstractContextManager[None]:
        def computed(bars: pl.DataFrame, books: Any = None, funding: Any = None, names: Any = None) -> pl.DataFrame:
            if books is None:
                return minute_features(bars, books, funding, names)
            return minute_features(*change(bars, books, funding), names)

        return replaced(minutes, "minute_features", computed)

    return apply


def _unclosed(bars: pl.DataFrame, books: pl.DataFrame, funding: pl.DataFrame) -> Frames:
    """The bar that is still open at the decision stands as the newest one."""
    moved = [name for name in bars.columns if name not in ("session", "instrument", "minute")]
    ordered = bars.sort("instrument", "minute")
    ahead = ordered.with_columns(pl.coalesce(pl.col(name).shift(-1).over("instrument"), name) for name in moved)
    return ahead, books, funding


def _next_book(bars: pl.DataFrame, books: pl.DataFrame, funding: pl.DataFrame) -> Frames:
    return bars, books.with_columns(pl.col("minute") - MINUTE), funding


def _early_funding() -> AbstractContextManager[None]:
    """A settlement counts from the beginning of its interval."""
    real = history.funding_state

    def early(rows: pl.DataFrame, funding: pl.DataFrame | None) -> Any:
        moved = None if funding is None else funding.with_columns(pl.col("funding_time") - pl.duration(hours=8))
        return real(rows, moved)

    return replaced(history, "funding_state", early)


def _late_minutes_in_time() -> AbstractContextManager[None]:
    """Every version of a candle counts as known when its minute closed."""

    def built(raw: dict[str, pl.DataFrame], *rest: Any) -> Any:
        candles = raw["klines_1m"].sort("known_at").unique(["symbol", "open_time"], keep="last")
        closed = candles.with_columns(
            known_at=(pl.col("open_time").dt.replace_time_zone("UTC") + MINUTE).cast(candles.schema["known_at"])
        )
        return build_minute_panel({**raw, "klines_1m": closed.select(raw["klines_1m"].columns)}, *rest)

    return replaced(minutes, "build_minute_panel", built)


def _patches_at_once() -> AbstractContextManager[None]:
    """The features stage applies every correction it has, whenever it came."""
    real = minutes.apply_minute_patches

    def computed(read: Reader, made: Any, days: Any) -> Any:
        panel, patches = (read.table("panel", name) for name in ("panel", "patches"))
        books, funding = (read.table("panel", name).drop("session") for name in ("books", "funding"))
        bars = real(panel, patches).filter(~pl.col("data_quality_flag").is_in(minutes.UNUSABLE))
        yield minute_features(bars, books, funding, made.schema).filter(pl.col("session").is_in(days))

    return replaced(minutes, "_computed", computed)


def _label_is_an_input() -> AbstractContextManager[None]:
    """The head direction says where the last minute went."""

    def labels(bars: Any, past: pl.DataFrame, *rest: Any) -> pl.DataFrame:
        made = minute_labels(bars, past, *rest)
        rose = bars.frame.select("session", "instrument", "minute", rose=pl.col("close") > pl.col("open"))
        both = made.join(rose, on=["session", "instrument", "minute"], how="left", maintain_order="left")
        return both.with_columns(long_entry_target=pl.col("rose").cast(made.schema["long_entry_target"])).drop("rose")

    return replaced(minutes, "minute_labels", labels)


def _short_spans() -> AbstractContextManager[None]:
    """Spans end when the decision is filled, whatever the label looked at."""

    def labels(*arguments: Any) -> pl.DataFrame:
        made = minute_labels(*arguments)
        return made.with_columns(label_end=pl.col("label_start") + pl.duration(minutes=FIVE))

    return replaced(minutes, "minute_labels", labels)


def _own_range() -> AbstractContextManager[None]:
    """Best and worst since the entry begin with the entry bar's own range."""
    real = position_state._paths

    def paths(high: np.ndarray, low: np.ndarray, close: np.ndarray, first: np.ndarray, *rest: Any) -> np.ndarray:
        tops, bottoms = high.copy(), low.copy()
        tops[first + 1] = np.maximum(high[first + 1], high[first])
        bottoms[first + 1] = np.minimum(low[first + 1], low[first])
        return real(tops, bottoms, close, first, *rest)

    return replaced(position_state, "_paths", paths)


def _oracle_entries() -> AbstractContextManager[None]:
    def entries(rows: pl.DataFrame, *rest: Any) -> pl.DataFrame:
        chosen = continue_states.label_chosen_entries(rows)
        return chosen.with_columns(entries_by=pl.lit(continue_states.BY_MANAGER))

    return replaced(continue_states, "manager_entries", entries)


def _sealed_in_search() -> AbstractContextManager[None]:
    """Sealed rows join the tune rows under their own names."""

    def searching(rows: pl.DataFrame, *rest: Any) -> Any:
        half = pl.int_range(pl.len()) < pl.len() // 2
        sealed = rows.with_columns(split_id=pl.when(half).then(pl.lit(TUNE_INNER)).otherwise(pl.lit(SEALED_SPLITS[0])))
        return search(sealed, *rest, tune_splits=(TUNE_INNER, *SEALED_SPLITS))

    return replaced(position_manager, "search", searching)


def _sealed_in_disguise() -> AbstractContextManager[None]:
    """Sealed rows join the tune rows of a split under the name of tune rows."""
    real = research.calibrated

    def calibrated(study: Study, read: Reader, split: str, role: str) -> pl.DataFrame:
        own = real(study, read, split, role)
        return pl.concat([own, real(study, read, LOCKED, "test")]) if role == "tune" else own

    return replaced(research, "calibrated", calibrated)


def _random_stop() -> AbstractContextManager[None]:
    """Every fifth row says when to stop."""

    def parts(spans: Any, rows: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
        draw = np.random.default_rng(5).random(len(rows)) < share
        return np.flatnonzero(~draw), np.flatnonzero(draw)

    return replaced(trees, "purged_end", parts)


MINUTE_LEAKS = (
    Leak("minutes: negative shift", "features.minutes.price: the next minute's return", MINUTE_CUT,
         _in_family("price", _shifted)),
    Leak("minutes: resample labelled at bar start", "features.minutes.price: five-minute values from their start",
         MINUTE_CUT, _in_family("price", _at_bar_start)),
    Leak("minutes: bfill", "features.minutes.price: holes take the next value", MINUTE_CUT,
         _in_family("price", _backfilled)),
    Leak("minutes: global z-score", "features.minutes.price: mean and deviation of all rows", MINUTE_CUT,
         _in_family("price", _standardised)),
    Leak("funding known before it is", "features.minutes.history.funding_state: eight hours early", MINUTE_CUT,
         _early_funding),
    Leak("unclosed last bar", "stages.minutes: the bar still open at the decision", LATER, _handed(_unclosed)),
    Leak("book of the next minute", "stages.minutes: snapshots one minute early", LATER, _handed(_next_book)),
    Leak("minutes: late candles counted in time", "asof.minutes.build_minute_panel: known_at is the close", LATER,
         _late_minutes_in_time),
    Leak("minutes: corrections before they came", "stages.minutes: every patch for every day", LATER,
         _patches_at_once),
    Leak("label equal to an input of the same minute", "labels.minute_heads: the last minute's direction", AHEAD,
         _label_is_an_input),
    Leak("minutes: spans shorter than the look ahead", "labels.minute_heads: five minutes", SPANS, _short_spans),
    Leak("entry bar's own range since entry", "features.minutes.position_state: from the entry bar on", ENTRY_BAR,
         _own_range),
    Leak("states from entries picked by their own label", "diagnostics.minutes.continue_states.manager_entries",
         ENTRIES_BLIND, _oracle_entries),
    Leak("sealed splits inside a search score", "stages.position_manager: sealed rows named as tune splits", SEALED,
         _sealed_in_search),
    Leak("sealed rows renamed tune in a search", "stages.research.calibrated: locked rows among tune rows", OTHERS,
         _sealed_in_disguise),
    Leak("threshold chosen on test rows", "stages.research.calibrated: role test for the search", OTHERS,
         policy_on_tests),
    Leak("early stopping on random rows", "models.heads.trees.purged_end: rows drawn at random", STOPPING,
         _random_stop),
)  # fmt: skip
