"""One session scored by a bundle, through the functions that research uses. Nothing here is its own arithmetic.

Where the rows come from and where the records go is decided outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import polars as pl

from pipeline.calibration.averaging import average_members
from pipeline.errors import IncompleteTables, LookAheadError, SchemaError
from pipeline.frames import canonical, require_columns, row_key
from pipeline.models.inputs import Inputs
from pipeline.models.prepared import Prepared
from pipeline.models.preparing import prepare
from pipeline.serving.bundle import Bundle
from pipeline.serving.record_files import RecordBook
from pipeline.serving.records import TOP10, Selection


@dataclass(frozen=True)
class Inference:
    """Everything that led from stored rows to orders, in the canonical form in which tables are stored.

    A row's key is session and instrument, and the minute where the bundle decides by it.

    Parameters
    ----------
    panel : DataFrame
        Panel rows of the session.
    features : DataFrame
        Feature rows of the window, the session's own last.
    paths : DataFrame
        Minute channels of the same sessions; empty where no member reads minutes.
    tensors : DataFrame
        `member`, `session`, `hash` of the session's input tensors.
    scores : DataFrame
        `member`, the row's key, `<head>_head` Float32, raw.
    predictions : DataFrame
        The row's key, `<head>_pred` Float64, `score`.
    orders : DataFrame
        `session`, `rank`, and what `selecting` says of the bundle's kind.
    notes : mapping
        Counts of rows that were left out, where any may be.
    book : RecordBook
        Where the selection is recorded.
    """

    panel: pl.DataFrame
    features: pl.DataFrame
    paths: pl.DataFrame
    tensors: pl.DataFrame
    scores: pl.DataFrame
    predictions: pl.DataFrame
    orders: pl.DataFrame
    notes: Mapping[str, int] = field(default_factory=dict)
    book: RecordBook = TOP10

    def selection(self, day: date, bundle_hash: str) -> Selection:
        """What is recorded of `day`."""
        return Selection(day, bundle_hash, self.orders.filter(pl.col("session") == day).drop("session"), self.book)


def infer(bundle: Bundle, features: pl.DataFrame, panel: pl.DataFrame, day: date, paths: pl.DataFrame) -> Inference:
    """Score the eligible rows of a session and select.

    Parameters
    ----------
    bundle : Bundle
    features : DataFrame
        Feature rows of the `bundle.window` sessions up to `day`, columns in the bundle's schema order.
    panel : DataFrame
        Panel rows of the same sessions.
    day : date
        The session.
    paths : DataFrame
        Minute channels of the same sessions, as `features.path_channels` makes them; may be empty.

    Raises
    ------
    SchemaError
        Feature columns that are not the bundle's, in its order.
    LookAheadError
        Rows after `day`.
    IncompleteTables
        A session of the window is absent, or eligible names without features.
    BadInput
        Too few eligible rows for the policy, or an empty list where it must select.
    """
    _require_inputs(bundle, features, panel, paths, day)
    key, selector = bundle.row_key, bundle.selector
    standing, notes = selector.standing(panel, features)
    today = canonical(panel.filter(pl.col("session") == day), key)
    paths = paths if bundle.reads.bars else paths.clear()
    store = prepared(bundle, features, standing, paths)
    tensors, scores = [], {}
    for name, inputs, raw in part_scores(bundle, store, [day]):
        tensors.append({"member": name, "session": day, "hash": inputs.hashes()[day.isoformat()]})
        scores[name] = raw
    predictions = predicted(bundle, scores)
    return Inference(
        panel=today,
        features=canonical(features, key),
        paths=canonical(paths, row_key(paths)),
        tensors=pl.DataFrame(tensors, schema={"member": pl.String, "session": pl.Date, "hash": pl.String}).sort(
            "member"
        ),
        scores=named_scores(bundle, scores),
        predictions=predictions,
        orders=canonical(selector.orders(predictions, today), ("session", "rank")),
        notes=notes,
        book=selector.book,
    )


def part_scores(
    bundle: Bundle, store: Prepared, sessions: Sequence[date] | None = None
) -> Iterator[tuple[str, Inputs, pl.DataFrame]]:
    """Per part its name, its inputs, and the row's key with `<head>_head`; of all rows where no session is named."""
    for name, scorer in bundle.scorers.items():
        inputs = scorer.prepared_inputs(store, sessions)
        yield name, inputs, scorer.score_inputs(inputs)


def predicted(bundle: Bundle, scores: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The row's key, `<head>_pred` and `score` of each part's raw scores, calibrated and averaged."""
    calibrated = [bundle.calibrators[name].apply(raw) for name, raw in scores.items()]
    return canonical(average_members(calibrated, bundle.heads, bundle.selector.alpha, bundle.weights), bundle.row_key)


def named_scores(bundle: Bundle, scores: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """All parts' raw scores, each row under its `member`."""
    named = pl.concat(raw.select(pl.lit(name).alias("member"), pl.all()) for name, raw in scores.items())
    return canonical(named, ("member", *bundle.row_key))


def prepared(bundle: Bundle, features: pl.DataFrame, standing: pl.DataFrame, paths: pl.DataFrame) -> Prepared:
    """The window's rows, prepared once for all parts: a champion of every split holds tens of them."""
    known = next(iter(bundle.scorers.values())).normaliser
    categories = [name for name in bundle.reads.categories if name not in features.columns]
    scopes = dict(zip(known.schema, known.scopes, strict=True))
    return prepare(features, standing.select(*bundle.row_key, "eligible", *categories), scopes, bundle.reads, paths)


def _require_inputs(
    bundle: Bundle, features: pl.DataFrame, panel: pl.DataFrame, paths: pl.DataFrame, day: date
) -> None:
    require_columns(panel, (*bundle.row_key, "eligible", *bundle.selector.panel_columns), "inference")
    _require_schema(bundle, features)
    for frame, what in ((panel, "panel"), (features, "features"), (paths, "paths")):
        later = frame.filter(pl.col("session") > day)["session"].unique().sort()
        if len(later):
            observed = f"{what} rows of {later[0]} for {day}"
            raise LookAheadError("a session is scored on rows up to itself", observed, "cut the window at the session")
    sessions = panel["session"].unique().sort().to_list()
    if len(sessions) != bundle.window or day not in sessions:
        shown = ", ".join(str(session) for session in sessions[-3:])
        raise IncompleteTables(
            f"{day} is scored on the panel of {bundle.window} sessions, the last its own",
            f"{len(sessions)} sessions, ending {shown}",
            "materialise the panel of every session of the window",
        )


def _require_schema(bundle: Bundle, features: pl.DataFrame) -> None:
    """Names in order: a reordered schema is another schema, even if every column is there."""
    given, schema = [c for c in features.columns if c not in bundle.row_key], bundle.manifest["schema"]
    differing = next((i for i, pair in enumerate(zip(given, schema, strict=False)) if pair[0] != pair[1]), None)
    if given != schema:
        at = min(len(given), len(schema)) if differing is None else differing
        observed = f"column {at}: {given[at : at + 1]} given, {schema[at : at + 1]} in the bundle"
        raise SchemaError(
            "features are the bundle's schema in its order",
            observed,
            "build features with the study of the bundle, or refit",
        )
