"""One session scored by a bundle, through the functions that research uses. Nothing here is its own arithmetic.

Where the rows come from and where the records go is decided outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import polars as pl

from pipeline.calibration.averaging import average_members
from pipeline.errors import BadInput, IncompleteTables, LookAheadError, SchemaError
from pipeline.frames import canonical, require_columns
from pipeline.models.prepared import Prepared
from pipeline.models.preparing import prepare
from pipeline.positions.policy import select
from pipeline.serving.bundle import Bundle
from pipeline.serving.records import Selection

KEY = ("session", "instrument")
TAGS = ("code", "board", "industry")


@dataclass(frozen=True)
class Inference:
    """Everything that led from stored rows to orders, in the canonical form in which tables are stored.

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
        `member`, `session`, `instrument`, `<head>_head` Float32, raw.
    predictions : DataFrame
        `session`, `instrument`, `<head>_pred` Float64, `score`.
    orders : DataFrame
        `session`, `rank`, `instrument`, `weight`, `score`, `code`, `board`, `industry`.
    """

    panel: pl.DataFrame
    features: pl.DataFrame
    paths: pl.DataFrame
    tensors: pl.DataFrame
    scores: pl.DataFrame
    predictions: pl.DataFrame
    orders: pl.DataFrame

    def selection(self, day: date, bundle_hash: str) -> Selection:
        """What is recorded of `day`."""
        return Selection(day, bundle_hash, self.orders.filter(pl.col("session") == day).drop("session"))


def infer(bundle: Bundle, features: pl.DataFrame, panel: pl.DataFrame, day: date, paths: pl.DataFrame) -> Inference:
    """Score the eligible names of a session and select.

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
        Fewer eligible names than the policy selects, or none that passes its filters.
    """
    _require_inputs(bundle, features, panel, paths, day)
    today = canonical(panel.filter(pl.col("session") == day), KEY)
    _require_names(bundle, today)
    paths = paths if bundle.reads.bars else paths.clear()
    store = _store(bundle, features, panel, paths)
    tensors, scores, calibrated = [], [], []
    for name, scorer in bundle.scorers.items():
        inputs = scorer.prepared_inputs(store, [day])
        raw = canonical(scorer.score_inputs(inputs), KEY)
        tensors.append({"member": name, "session": day, "hash": inputs.hashes()[day.isoformat()]})
        scores.append(raw.insert_column(0, pl.Series("member", [name] * len(raw), pl.String)))
        calibrated.append(bundle.calibrators[name].apply(raw))
    policy = bundle.policy
    averaged = average_members(calibrated, bundle.heads, policy.alpha, bundle.weights)
    predictions = canonical(averaged.select(*KEY, pl.selectors.ends_with("_pred"), "score"), KEY)
    orders = select(predictions, policy).join(today.select(*KEY, *TAGS), on=list(KEY), how="left")
    if orders.is_empty():
        raise BadInput(
            "a selection holds at least one name",
            f"none of {len(predictions)} passes {policy}",
            "the policy's filters refuse the whole session; hold cash",
        )
    return Inference(
        panel=today,
        features=canonical(features, KEY),
        paths=canonical(paths, KEY),
        tensors=pl.DataFrame(tensors, schema={"member": pl.String, "session": pl.Date, "hash": pl.String}).sort(
            "member"
        ),
        scores=canonical(pl.concat(scores), ("member", *KEY)),
        predictions=predictions,
        orders=canonical(orders, ("session", "rank")),
    )


def _store(bundle: Bundle, features: pl.DataFrame, panel: pl.DataFrame, paths: pl.DataFrame) -> Prepared:
    """The window's rows, prepared once for all parts: a champion of every split holds tens of them."""
    known = next(iter(bundle.scorers.values())).normaliser
    standing = [name for name in bundle.reads.categories if name not in features.columns]
    scopes = dict(zip(known.schema, known.scopes, strict=True))
    return prepare(features, panel.select(*KEY, "eligible", *standing), scopes, bundle.reads, paths)


def _require_inputs(
    bundle: Bundle, features: pl.DataFrame, panel: pl.DataFrame, paths: pl.DataFrame, day: date
) -> None:
    require_columns(panel, (*KEY, "eligible", *TAGS), "inference")
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
    lacking = panel.filter("eligible").join(features, on=list(KEY), how="anti").sort(KEY)
    if not lacking.is_empty():
        first = lacking.select(KEY).row(0)
        raise IncompleteTables(
            "every eligible name of the window has a features row",
            f"{len(lacking)} lack one, first {first[1]} on {first[0]}",
            "materialise the features of every session of the window",
        )


def _require_schema(bundle: Bundle, features: pl.DataFrame) -> None:
    """Names in order: a reordered schema is another schema, even if every column is there."""
    given, schema = [c for c in features.columns if c not in KEY], bundle.manifest["schema"]
    differing = next((i for i, pair in enumerate(zip(given, schema, strict=False)) if pair[0] != pair[1]), None)
    if given != schema:
        at = min(len(given), len(schema)) if differing is None else differing
        observed = f"column {at}: {given[at : at + 1]} given, {schema[at : at + 1]} in the bundle"
        raise SchemaError(
            "features are the bundle's schema in its order",
            observed,
            "build features with the study of the bundle, or refit",
        )


def _require_names(bundle: Bundle, today: pl.DataFrame) -> None:
    eligible, wanted = int(today["eligible"].sum()), bundle.policy.top_k
    if eligible < wanted:
        raise BadInput(
            f"at least {wanted} names are eligible",
            f"{eligible} of {len(today)} listed",
            "see the panel's exclusions of the session; the vendor's tables may be incomplete",
        )
