"""Laws that a whole chain of stages obeys, of any study, on any stored market. Each red is a `LawBroken`.

Each compares, bit for bit, what the stages make in two rehearsals that differ in something they must not see. Every
law returns how many rows it compared. Not here: the laws of single features (`features.laws`), which markets are
tried, and how often.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.errors import BadInput, LawBroken
from pipeline.features.plan import plan
from pipeline.folds.splits import fit_rows
from pipeline.frames import MINUTE, row_key
from pipeline.models.preparing import prepare
from pipeline.stages.contradicting import (
    LATER,
    another_future,
    contradicted,
    known_by,
    moved,
    other_names,
    renamed,
    traded,
)
from pipeline.stages.pinned import read_folds, read_labels
from pipeline.stages.rehearsal import Change, Place, Rehearsal, Vendored
from pipeline.stages.research import calibrated
from pipeline.stages.stored_inputs import prepared_inputs
from pipeline.study import Study

KNOWN_ROLES = ("fit", "tune")
ACROSS_NAMES = ("rank", "q", "intraday_aux")
"""Labels that place a name among the others of its session, whose spans may end later."""

PLACES = ("effective_session", "session", "instrument", MINUTE, "reason", "epoch", "candidate")
Compared = tuple[str, pl.DataFrame, pl.DataFrame]


def check_later_knowledge(
    study: Study,
    vendored: Vendored,
    cut: datetime,
    *,
    settled: Sequence[str],
    first_session: date,
    until: datetime,
    workdir: Path,
) -> int:
    """Panel, features and model inputs of a decision are the same whatever is published after it.

    Parameters
    ----------
    cut : datetime
        Decisions by it are compared: once where nothing else was published, once where the vendor then contradicts all.
    settled : sequence of str
        As in `contradicted`.
    until : datetime
        The now of the second.
    """
    day = cut.date() if study.market.decides == "minute" else vendored.calendar.latest(cut.date())
    blind = Rehearsal(study, known_by(vendored, cut), now=max(cut, study.market.decided_at(day)),
                      first_session=first_session, workdir=workdir / "blind")  # fmt: skip
    month, rows = f"{day:%Y-%m}", 0
    for future in (False, True):
        told = Rehearsal(
            study, contradicted(vendored, cut, settled, future=future), now=until,
            first_session=first_session, workdir=workdir / f"told_{future}",
        )  # fmt: skip
        for made in _decisions(study, blind, told, month, cut):
            rows += _require_same(
                "a decision is the same whatever is published after it",
                f"known by {cut:%Y-%m-%d %H:%M}",
                "read versions with known_at at or before the row's own decision",
                made,
            )
    if not rows:
        raise BadInput("a law compares rows", "none", "choose a cut with decisions before it")
    return rows


def _decisions(
    study: Study, blind: Rehearsal, told: Rehearsal, month: str, cut: datetime
) -> Iterator[list[Compared]]:
    """Panel, then features, then inputs of a month's decisions by an instant, as both rehearsals make them."""

    def decided(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.filter(_decided_by(study, frame, cut))

    for stage in ("panel", "features"):
        yield [
            (f"{stage}.{name}", decided(frame), decided(told.result(stage, month).tables[name]))
            for name, frame in blind.result(stage, month).tables.items()
            if name not in ("summary", "quarantine")
        ]
    yield [("inputs", decided(_inputs(study, blind, month)), decided(_inputs(study, told, month)))]


def check_label_spans(base: Rehearsal, cut: datetime, workdir: Path) -> int:
    """A label whose span has ended is the same whatever the market does from then on."""
    plain = base.varied(workdir / "plain", {}, keep=("panel",))
    other = base.varied(workdir / "other", another_future(base, cut, seed=1), keep=("panel",))
    until = [part for part in base.partitions("labels") if part <= f"{cut:%Y-%m}"][-2:]
    end = pl.col("label_end") <= (cut if base.study.market.decides == "minute" else _next(base, cut))
    pairs = [reading.table("labels", "labels", partitions=until).filter(end) for reading in (plain, other)]
    own = [name for name in pairs[0].columns if name not in ACROSS_NAMES or base.study.market.decides == "minute"]
    return _require_same(
        "a label depends on nothing after its span",
        f"spans that had ended by {cut:%Y-%m-%d %H:%M}",
        "let the span end after the last bar that the label looked at",
        [("labels", pairs[0].select(own), pairs[1].select(own))],
    )


def check_labels_look_ahead(base: Rehearsal, cuts: Sequence[datetime], workdir: Path) -> int:
    """No head's label is known when its decision falls: with another future some label is another."""
    labels = list(dict.fromkeys(head.label for head in base.study.labels.heads))
    changed, seen, rows = set[str](), dict[str, set[object]](), 0
    for i, cut in enumerate(cuts):
        month, just = f"{cut:%Y-%m}", _just_decided(base, cut)
        futures = [another_future(base, cut, seed, jump) for seed, jump in ((1, 1.05), (2, 0.95))]
        readings = [base.varied(workdir / f"{i}{j}", future, keep=("panel",)) for j, future in
                    enumerate(({}, *futures))]  # fmt: skip
        found = [reading.result("labels", month).tables["labels"].filter(just) for reading in readings]
        key = list(row_key(found[0]))
        for other in found[1:]:
            both = found[0].join(other, on=key, suffix="_other")
            rows += len(both)
            changed |= {name for name in labels if both[name].ne_missing(both[f"{name}_other"]).any()}
        for name in labels:
            seen[name] = seen.get(name, set()) | set(found[0][name].drop_nulls().to_list())
    known = [name for name in labels if name not in changed and len(seen[name]) > 1]
    if known:
        raise LawBroken(
            "a label is not known when its decision falls",
            f"{known} of {rows} rows are the same in every future",
            "a label reads what comes after the decision; what is known before is a feature",
        )
    return rows


def check_truth_of_others(base: Rehearsal, split: str, workdir: Path) -> int:
    """Nothing made for a split depends on what came of rows that neither fit nor tune it.

    Their labels trade places with each other, and prices of tested sessions with those of other names: models,
    epochs, calibrators, weights, policy and predictions keep every bit.
    """
    study, rows = base.study, fit_rows(read_folds(base), split, read_labels(base.study, base))
    others = rows.filter(~pl.col("role").is_in(KNOWN_ROLES))
    tested = others.filter(role="test")["session"].unique()
    changes: dict[Place, Change] = {("labels", "labels"): partial(traded, others, ("label_start", "label_end"))}
    if study.market.decides == "session":
        changes[("panel", "panel")] = partial(other_names, tested)
    kept, shared = ("panel", "features", "labels", "folds"), ("prepared", "eligible", "featured")
    prepared_inputs(study, base)
    plain, changed = (base.varied(workdir / name, change, kept, shared) for name, change in
                      (("plain", {}), ("changed", changes)))  # fmt: skip
    return _require_same(
        "what a split makes is the same whatever came of the rows that it may not know",
        f"{len(others)} rows of {split} with other labels",
        "fit on fit rows, choose on tune rows",
        [(what, a, b) for (what, a), (_, b) in zip(_made(plain, split), _made(changed, split), strict=True)],
    )


def check_fit_rows_only(base: Rehearsal, split: str, workdir: Path) -> int:
    """What a split fits depends on its fit rows alone: scalers, vocabularies and, without epochs, the models.

    Features, categories and labels of all its sessions without fit rows are changed. In a session with some, ranks of
    inputs may read every name.
    """
    study, rows = base.study, fit_rows(read_folds(base), split, read_labels(base.study, base))
    others = rows.filter((pl.col("role") != "fit").all().over("session"))
    changes: dict[Place, Change] = {
        ("labels", "labels"): partial(traded, others, ("label_start", "label_end")),
        ("features", "features"): partial(moved, others),
        ("panel", "panel"): partial(renamed, others),
    }
    plain, changed = (
        base.varied(workdir / name, change, ("panel", "features", "labels", "folds"))
        for name, change in (("plain", {}), ("changed", changes))
    )
    pairs: list[Compared] = []
    for member in study.members:
        place = f"{split}|{member.name}"
        made = [reading.result("models", place) for reading in (plain, changed)]
        chosen = ["normaliser.json"] if len(made[0].tables["curves"]) else sorted(made[0].files)
        own_row = member.layout.sessions == 1
        for name in chosen if own_row else []:
            a, b = (_bytes(result.files.get(name, b"")) for result in made)
            pairs.append((f"{member.name}/{name}", a, b))
    return _require_same(
        "what is fitted depends on fit rows alone",
        f"{len(others)} other rows of {split} changed",
        "hand the fit the rows with the role fit",
        pairs,
    )


def _made(reading: Rehearsal, split: str) -> list[tuple[str, pl.DataFrame]]:
    """Everything of a split that must not know its other rows, as frames."""
    study, found = reading.study, list[tuple[str, pl.DataFrame]]()
    for member in study.members:
        made = reading.result("models", f"{split}|{member.name}")
        found += [(f"{member.name}/{name}", _bytes(data)) for name, data in sorted(made.files.items())]
        found += [(f"{member.name} {name}", made.tables[name]) for name in ("scores", "curves")]
    for stage in ("calibrators", "positions"):
        result = reading.result(stage, split)
        found += [(f"{stage}/{name}", _bytes(data)) for name, data in sorted(result.files.items())]
    found.append(("positions search", reading.result("positions", split).tables["search"]))
    return [*found, ("predictions", calibrated(study, reading, split, "test"))]


def _bytes(data: bytes) -> pl.DataFrame:
    return pl.DataFrame({"file": [data]})


def _inputs(study: Study, reading: Rehearsal, month: str) -> pl.DataFrame:
    """What models read of a month's rows: ranks within the session, or values as they are."""
    made = plan(study.features)
    panel, features = reading.result("panel", month).tables["panel"], reading.result("features", month)
    standing = panel.select(*study.row_key, "eligible").join(
        features.tables["features"], on=list(study.row_key), how="semi", maintain_order="left"
    )
    store = prepare(features.tables["features"], standing, made.scopes)
    return store.rows.hstack(pl.DataFrame(np.asarray(store.values), schema=list(store.schema)))


def _decided_by(study: Study, frame: pl.DataFrame, cut: datetime) -> pl.Expr:
    """Rows whose decision fell by an instant."""
    at = "effective_session" if "effective_session" in frame.columns else "session"
    if at == "session" and MINUTE in frame.columns:
        return pl.col(MINUTE) <= cut - LATER
    if "funding_time" in frame.columns:
        return pl.col("funding_time") < cut
    days = [day for day in frame[at].unique().to_list() if study.market.decided_at(day) <= cut]
    return pl.col(at).is_in(days)


def _just_decided(base: Rehearsal, cut: datetime) -> pl.Expr:
    """Rows decided at the cut: all of their future lies after it."""
    if base.study.market.decides == "minute":
        return pl.col(MINUTE) == cut - LATER
    return pl.col("session") == base.calendar.latest(cut.date())


def _next(base: Rehearsal, cut: datetime) -> date:
    """The session after the cut's: where a span ends that looked at the cut's session last."""
    return base.calendar.session(base.calendar.ordinal(base.calendar.latest(cut.date())) + 1)


def _require_same(law: str, what: str, remedy: str, pairs: Sequence[Compared]) -> int:
    """Rows compared; an error with the rows that differ and the first of them."""
    rows, wrong, first = 0, 0, ""
    for name, a, b in pairs:
        rows += max(len(a), len(b))
        found, where = _differences(a, b)
        wrong += found
        first = first or (f"{name}{where}" if found else "")
    if wrong:
        raise LawBroken(law, f"{wrong} of {rows} rows differ ({what}), first {first}", remedy)
    return rows


def _differences(a: pl.DataFrame, b: pl.DataFrame) -> tuple[int, str]:
    """Rows that differ, and the first column and key where they do."""
    if a.equals(b):
        return 0, ""
    key = [name for name in PLACES if name in a.columns]
    if not key:
        return 1, ""
    a, b = a.sort(key), b.sort(key)
    if not a.select(key).equals(b.select(key)):
        gone, come = a.join(b, on=key, how="anti"), b.join(a, on=key, how="anti")
        shown = (gone if len(gone) else come).select(key)
        return len(gone) + len(come), f": the row {' '.join(map(str, shown.row(0)))}" if len(shown) else ": order"
    wrong, first = np.zeros(len(a), np.bool_), ""
    for name in a.columns:
        differs = _unequal(a[name], b[name])
        if differs.any() and not first:
            at = int(np.flatnonzero(differs)[0])
            first = f".{name} of {' '.join(map(str, a.select(key).row(at)))}"
        wrong |= differs
    return int(wrong.sum()), first


def _unequal(a: pl.Series, b: pl.Series) -> np.ndarray:
    """bool [n], bit for bit up to the one NaN and the one zero of stored tables."""
    if isinstance(a.dtype, pl.Array):
        x, y = a.to_numpy(), b.to_numpy()
        return np.asarray(~((x == y) | (np.isnan(x) & np.isnan(y))).reshape(len(a), -1).all(axis=1))
    return a.ne_missing(b).to_numpy()
