"""Single-feature screen: which bucket of which feature alone earns, on every evaluation block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl

from pipeline.diagnostics.finding import Finding
from pipeline.diagnostics.minutes.buckets import BucketSpec, bucket_cells, bucket_codes, scored_cells
from pipeline.diagnostics.minutes.evaluation import EDGE, Skipped, concluded, read_blocks

KEY: Final = ("side", "feature", "bucket", "kind", "lower", "upper")
PROMISING: Final = "PROMISING_SINGLE_FEATURE"
NOTHING: Final = "NO_STABLE_SINGLE_FEATURE"


def single_feature_screen(frame: pl.DataFrame, features: Sequence[str], spec: BucketSpec | None = None) -> Finding:
    """Edge and lift of every bucket of every feature, both sides.

    Parameters
    ----------
    frame : pl.DataFrame
        The key, `block` (fit_inner, E1, E2, E3), features, `{long,short}_actual_plan_net_edge_bps`.

    Raises
    ------
    BadInput
        As `read_blocks`.
    """
    spec = spec or BucketSpec()
    rows, skipped = read_blocks(frame, features, (EDGE,), spec), Skipped()
    metrics = bucket_cells(rows, bucket_codes(rows, spec, skipped))
    name = pl.format("{} bucket {}", "feature", "bucket")
    candidates, kept = scored_cells(metrics, KEY, name, spec.min_bucket_rows, skipped)
    rule = (
        f"Decile edges are learned on fit_inner; a feature with fewer than {spec.min_edges} distinct inner edges and "
        f"at least {spec.min_events} non-zero values has a no-event bucket and {spec.event_buckets} event buckets. "
        f"A bucket is usable with positive actual plan edge, positive lift and {spec.min_bucket_rows} rows in E1, E2 "
        "and E3. Many buckets are tried, so a few hold by luck where the population itself earns."
    )
    return concluded(rule, PROMISING if candidates["usable"].any() else NOTHING, rows, candidates, kept, skipped)
