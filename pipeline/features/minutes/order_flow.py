"""Order-flow imbalance from differences of minute snapshots, `SNAPSHOT_DIFF_V1`, in quote notional.

Cont, Kukanov, Stoikov (2014) at the best quotes, Xu, Gould, Howison (2018) over levels; here between the last
snapshots of two minutes, level by level, and not over the event stream.
"""

from __future__ import annotations

import numpy as np

from pipeline.features.minutes import books as book
from pipeline.features.minutes import windows
from pipeline.features.minutes.history import MinuteHistory
from pipeline.features.minutes.spec import MinuteFamily, MinuteFeature, Source

METHOD = "SNAPSHOT_DIFF_V1"

# Place in `books.DEPTHS`, name, levels, windows.
_ROLLING = ((0, "ofi_l1", 1, (1, 3, 5, 15)), (1, "mlofi_l5", 5, (1, 5)), (2, "mlofi_l20", 20, (1, 5)))
_CHANGES = (1, 5)
_LONG = 240
_CLIP = 5.0
_GAP = "a missing level or a gap inside the look-back"


def _one(
    name: str, meaning: str, unit: str, window: int, lookback: int, formula: str, missing: str = _GAP,
    sources: tuple[Source, ...] = ("books",),
) -> MinuteFeature:  # fmt: skip
    return MinuteFeature(name, "order_flow", meaning, unit, sources, window, lookback, formula, METHOD, missing)


def _features() -> tuple[MinuteFeature, ...]:
    return (
        *(
            _one(
                f"{name}_{n}m",
                f"order-flow imbalance over {levels} levels and {n} minutes",
                "mean depths",
                n,
                n + 1,
                f"sum over {n} of event OFI / max(mean depth over {n}, 1e-12), levels 0..{levels - 1}",
            )
            for _, name, levels, lengths in _ROLLING
            for n in lengths
        ),
        _one("mlofi_l5_l20_gap_1m", "near against deep flow", "mean depths", 1, 2, "mlofi_l5_1m - mlofi_l20_1m"),
        *(
            _one(
                f"microprice_basis_change_{n}m_bps",
                f"change of the microprice basis over {n} minutes",
                "bps",
                n,
                n + 1,
                f"basis - basis[-{n}], basis = book_microprice_basis_bps",
                "no usable snapshot, or a gap, inside the look-back",
            )
            for n in _CHANGES
        ),
        *(
            _one(
                f"{name}_5m_zscore_{_LONG}m",
                f"{name}_5m against {_LONG} minutes",
                "deviations",
                _LONG,
                _LONG + 5,
                f"({name}_5m - mean) / sample deviation over {_LONG}",
                f"{_GAP}, or no deviation",
            )
            for name in ("ofi_l1", "mlofi_l20")
        ),
        *_crosses(),
    )


def _crosses() -> tuple[MinuteFeature, ...]:
    name, taker, spread = "ofi_l1_5m_clipped", "taker_imbalance_5m", "spread_rank_24h_pct"
    return (
        _one(name, "ofi_l1_5m without its extremes", "mean depths", 5, 6, "min(max(ofi_l1_5m, -5), 5)"),
        _one(
            "ofi_l1_taker_5m",
            "quoted flow that taker flow confirms",
            "mean depths",
            5,
            6,
            f"{name} * {taker}",
            f"{_GAP}, or {taker} missing",
            ("bars", "books"),
        ),
        _one(
            "ofi_l1_spread_rank_5m",
            "quoted flow weighted by how wide the spread is",
            "mean depths",
            1440,
            1440,
            f"{name} * {spread}",
            f"{_GAP}, or {spread} missing",
            ("spread", "books"),
        ),
    )


def _compute(history: MinuteHistory) -> list[np.ndarray]:
    held = history.book_held
    event = book.events(history.at, held, *history.levels)
    depth = history.depths[0]
    flow = {
        f"{name}_{n}m": _normalised(event[place], depth[place], held, n)
        for place, name, _, lengths in _ROLLING
        for n in lengths
    }
    basis = history.microprice_basis
    clipped = np.clip(flow["ofi_l1_5m"], -_CLIP, _CLIP)
    return [
        *flow.values(),
        flow["mlofi_l5_1m"] - flow["mlofi_l20_1m"],
        *(basis - windows.lagged(basis, held, n) for n in _CHANGES),
        *(windows.zscores(flow[f"{name}_5m"], held, _LONG) for name in ("ofi_l1", "mlofi_l20")),
        clipped,
        clipped * history.taker_imbalance[5],
        clipped * history.spread_rank,
    ]


def _normalised(event: np.ndarray, depth: np.ndarray, held: np.ndarray, length: int) -> np.ndarray:
    """Sum of event OFI over mean depth, both over full windows."""
    return windows.sums(event, held, length) / np.maximum(windows.sums(depth, held, length) / length, book.TINY)


FAMILY = MinuteFamily("order_flow", _features(), _compute)
