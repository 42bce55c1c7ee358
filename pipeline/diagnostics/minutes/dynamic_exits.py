"""Dynamic-exit search: whether a trailing plan of the grid would have earned on every evaluation block.

The search itself is `pipeline.labels.plan_search`; here it becomes a finding. Nothing is chosen by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl

from pipeline.diagnostics.finding import Finding
from pipeline.frames import Hindsight
from pipeline.labels.plan_search import (
    HIGHEST_POSITIVE_RATE,
    LOWEST_BREAK_EVEN_RATE,
    LOWEST_POSITIVE_RATE,
    WORST_EDGE_BPS,
    search_plans,
)
from pipeline.labels.price_plan import PricePlan

FOUND: Final = "ROBUST_DYNAMIC_EXIT_FOUND"
NOTHING: Final = "NO_ROBUST_DYNAMIC_EXIT"
RULE: Final = (
    "Each side by itself, over E1, E2 and E3: score = 8 x mean edge + 4 x worst edge + 20 x lowest break-even rate + "
    "20 x lowest positive rate - 8 x highest stop rate. Robust with mean edge > 0, worst edge > "
    f"{WORST_EDGE_BPS:g}, break-even rate >= {LOWEST_BREAK_EVEN_RATE:g} and positive rates in "
    f"[{LOWEST_POSITIVE_RATE:g}, {HIGHEST_POSITIVE_RATE:g}]. The fit block is reported, never scored."
)


def dynamic_exits(bars: Hindsight, plans: Sequence[PricePlan], blocks: pl.DataFrame) -> Finding:
    """Score trailing plans on the evaluation blocks, entered at every minute of them.

    Parameters
    ----------
    bars : Hindsight
        As `path_outcomes` reads them.
    plans : sequence of PricePlan
        Of `plan_search.dynamic_grid`.
    blocks : pl.DataFrame
        The key and `block`: fit_inner, E1, E2, E3, purged by the longest horizon.

    Returns
    -------
    Finding
        `ROBUST_DYNAMIC_EXIT_FOUND` with the best robust plan of a side, else `NO_ROBUST_DYNAMIC_EXIT`, said in words;
        `score` is the best of all. Tables `candidates` (the best first, with the rules that each breaks), `metrics`.

    Raises
    ------
    BadInput
        As `search_plans`.
    """
    found = search_plans(bars, plans, blocks)
    candidates = found.candidates.sort("robust", "score", descending=True, maintain_order=True)
    robust = int(candidates["robust"].sum())
    rows = {f"{row['block']}_rows": row["len"] for row in blocks.group_by("block").len().sort("block").to_dicts()}
    words = "" if found.robust_candidate_found else " None found: no plan of the grid is robust on either side."
    text = (
        f"Diagnostic only: the study keeps its plan. {len(plans)} trailing plans of the grid, entered at every minute, "
        f"both sides. {RULE} {robust} of {candidates.height} are robust.{words} {found.conclusion}."
    )
    return Finding(
        float(candidates["score"].to_numpy().max()),
        FOUND if found.robust_candidate_found else NOTHING,
        text,
        {"candidates": candidates, "metrics": found.metrics},
        rule=RULE,
        counts=rows | {"plans": len(plans), "candidates": candidates.height, "robust": robust},
    )
