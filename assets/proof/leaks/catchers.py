"""The checks of the house, each as a catcher: what it is tried on, and what its red is. No check lives here."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from assets.proof.leaks.boards import old_bse_market
from assets.proof.leaks.contract import Catcher, Check
from assets.proof.leaks.worlds import HISTORY, NET, SETTLED, SHARED, World
from pipeline.asof.panel import build_panel
from pipeline.diagnostics.minutes import continue_states
from pipeline.errors import BadInput, LawBroken, LookAheadError, PromotionRefused, Tampered
from pipeline.features import laws as feature_laws
from pipeline.features.minutes import laws as minute_laws
from pipeline.features.minutes.position_state import SIDED, Barriers, position_states
from pipeline.features.minutes.state_laws import check_entry_bar
from pipeline.features.plan import plan
from pipeline.folds.splits import fit_rows, make_folds
from pipeline.frames import AsOf
from pipeline.gates.promotion import Judgement, reasons_to_refuse
from pipeline.labels.price_plan import price_plan_context
from pipeline.positions.laws import check_entries_ignore_outcomes
from pipeline.positions.manager_spec import ManagerConfig, PlanNumbers
from pipeline.stages import laws, position_manager
from pipeline.stages.pinned import read_folds, read_labels
from pipeline.stages.research import calibrated
from pipeline.study import Study

JUDGED_FAMILIES = ("returns", "regime")
JUDGED_MINUTES = ("ret_1m_bps", "ret_5m_bps", "realized_vol_15m_bps", "funding_rate_bps", "minutes_to_funding")
EMBARGO = 3
ENTRIES = 12


def _later_knowledge(world: World, folder: Path) -> int:
    return laws.check_later_knowledge(
        world.study, world.vendored, world.cut, settled=SETTLED, first_session=world.base.first_session,
        until=world.base.now, workdir=folder,
    )  # fmt: skip


def _label_spans(world: World, folder: Path) -> int:
    return laws.check_label_spans(world.base, world.exit_cut, folder)


def _labels_look_ahead(world: World, folder: Path) -> int:
    return laws.check_labels_look_ahead(world.base, world.cuts, folder)


def _truth_of_others(world: World, folder: Path) -> int:
    return laws.check_truth_of_others(world.base, world.split, folder)


def _fit_rows_only(world: World, folder: Path) -> int:
    return laws.check_fit_rows_only(world.base, world.split, folder)


def _of_net(check: Check) -> Check:
    """The same check on a study whose only member is a small net."""

    def on_net(world: World, folder: Path) -> int:
        changes = {"members": [NET.model_dump(mode="json")], "ensemble": {"members": []}}
        study = Study.model_validate(world.study.model_dump(mode="json") | changes)
        return check(world.with_study(study, folder / "net", share=False), folder / "law")

    return on_net


def _future_cut(world: World, _: Path) -> int:
    """Features of a few families, cut where names are suspended and in the middle."""
    tables = [world.base.table("panel", name) for name in ("panel", "patches", "intraday")]
    inputs = feature_laws.FeatureInputs(*tables)
    without = tables[0].filter(pl.col("close").is_null())["session"].unique().sort().to_list()
    cuts = sorted({*without[:2], inputs.sessions[len(inputs.sessions) // 2]})
    subject = feature_laws.Subject(plan(JUDGED_FAMILIES), inputs, cuts=tuple(cuts))
    feature_laws.check_future_cut(subject)
    return len(cuts) * len(inputs.panel) // len(inputs.sessions)


def _minute_future_cut(world: World, _: Path) -> int:
    """Minute features, cut before and after funding settles and in the middle of five minutes."""
    cuts = tuple(sorted({world.cut.replace(hour=7, minute=57), world.cut.replace(hour=11, minute=32), world.cut}))
    inside = pl.col("minute").is_between(cuts[0] - pl.duration(hours=4), cuts[-1] + pl.duration(hours=1))
    bars, books = (world.base.table("panel", name).filter(inside) for name in ("panel", "books"))
    funding = world.base.table("panel", "funding")
    subject = minute_laws.MinuteSubject(minute_laws.MinuteInputs(bars, books, funding), cuts, JUDGED_MINUTES)
    minute_laws.check_future_cut(subject)
    return sum(bars.filter(pl.col("minute") <= cut).height for cut in cuts)


def _licence(world: World, folder: Path) -> int:
    reading = world.base.varied(folder, {}, ("panel",))
    return len(reading.result("features", reading.partitions("features")[0]).tables["features"])


def _listing(world: World, _: Path) -> int:
    raw, calendar, sessions, market, universe = old_bse_market(world.study)
    return len(build_panel(raw, calendar, sessions, market, universe).panel.frame)


def _folds(world: World, _: Path) -> int:
    """Splits of the world's own labels, with an embargo."""
    spec = world.study.folds.model_copy(update={"embargo_sessions": EMBARGO})
    labels = world.labels.select(*world.study.row_key, "label_start", "label_end")
    folds = make_folds(labels, world.base.calendar, spec)
    return int(folds.certificate.select(pl.sum("fit_rows", "tune_rows")).sum_horizontal()[0])


def _fit_certificate(world: World, folder: Path) -> int:
    """Folds divided anew, the rows of every fit asked for, and one member fitted."""
    reading = world.base.varied(folder, {}, HISTORY[:-1], SHARED)
    for split in world.study.folds.splits:
        fit_rows(read_folds(reading), split, read_labels(world.study, reading))
    return len(reading.result("models", f"{world.split}|{world.study.members[0].name}").tables["scores"])


def _stops(world: World, folder: Path) -> int:
    reading = world.base.varied(folder, {}, HISTORY, SHARED)
    return len(reading.result("models", f"{world.split}|{world.study.members[0].name}").tables["scores"])


def _calibrated(world: World, folder: Path) -> int:
    reading = world.base.varied(folder, {}, HISTORY, SHARED)
    return len(reading.result("calibrators", world.split).tables["reliability"])


def _chosen(world: World, folder: Path) -> int:
    reading = world.base.varied(folder, {}, HISTORY, SHARED)
    return len(reading.result("positions", world.split).tables["search"])


def _packed(fits: str, gates: tuple[str, ...]) -> Check:
    """A candidate packed of one split's or the production fits, and judged by some gates."""

    def judge(world: World, folder: Path) -> int:
        ensemble = world.study.ensemble.model_copy(update={"splits": fits})
        reading = world.with_study(world.study.model_copy(update={"ensemble": ensemble}), folder).base
        result = reading.result("candidate")
        promotion = world.study.promotion
        kept = [gate for gate in promotion.gates if gate.applies_to == "candidate" and gate.name in gates]
        judged = Judgement(result.tables["verdicts"], result.metadata["bundle"], reading.now)
        reasons = reasons_to_refuse(
            {"candidate": judged, "evaluation": judged}, promotion.model_copy(update={"gates": tuple(kept)}),
            now=reading.now,
        )  # fmt: skip
        refused = [reason for reason in reasons if not reason.startswith("evaluation:")]
        if refused:
            raise PromotionRefused("every gate of the candidate is green", "; ".join(refused), "pack it again")
        return len(result.tables["verdicts"])

    return judge


def _plan_numbers(world: World) -> PlanNumbers:
    return PlanNumbers.from_context(price_plan_context(position_manager.price_plan(world.study)))


def _entry_bar(world: World, _: Path) -> int:
    """States of a dozen entries, an hour apart."""
    rows = world.base.table("panel", "panel").filter(pl.col("minute") > world.cut)
    features = world.base.table("features", "features").select(*world.study.row_key, *SIDED)
    entries = rows.filter(pl.col("minute").dt.minute() == 7).head(ENTRIES).select(
        *world.study.row_key, side=pl.lit("LONG"), entry_predicted_edge_bps=pl.lit(3.0),
        entry_direction_prob=pl.lit(0.6),
    )  # fmt: skip
    barriers = Barriers(target_distance_bps=30.0, stop_distance_bps=20.0, cost_bps=5.0)
    return check_entry_bar(AsOf(rows), AsOf(features), entries, barriers, position_states)


def _entries(world: World, folder: Path) -> int:
    """Entries of the manager on a split's tested minutes, by predictions of its own models."""
    reading = world.base.varied(folder, {}, HISTORY, SHARED)
    predictions = calibrated(world.study, reading, world.split, "test")
    rows = position_manager.decided_rows(world.study, reading, predictions)
    key = list(world.study.row_key)
    targets = world.labels.select(*key, "long_entry_target", "short_entry_target")
    rows = rows.join(targets, on=key, how="left", maintain_order="left")
    outcomes = [name for name in rows.columns if name in world.labels.columns and name not in key]
    config = ManagerConfig()
    numbers = _plan_numbers(world)
    # Looked up when called: the mutation replaces it in its module.
    return check_entries_ignore_outcomes(
        lambda frame: continue_states.manager_entries(frame, config, numbers), rows, outcomes
    )


LATER = Catcher("later knowledge", "stages.laws", _later_knowledge, LawBroken, "whatever is published after it")
FUTURE_CUT = Catcher("future cut of a feature", "features.laws", _future_cut, LawBroken, "without the future")
MINUTE_CUT = Catcher(
    "future cut of a minute feature", "features.minutes.laws", _minute_future_cut, LawBroken, "without the future"
)
LICENCE = Catcher("licence of a frame", "frames", _licence, TypeError, "may only read AsOf frames")
LISTING = Catcher("listing certificate", "asof.certificate", _listing, LookAheadError, "listed names only")
SPANS = Catcher("label spans", "stages.laws", _label_spans, LawBroken, "nothing after its span")
AHEAD = Catcher("labels look ahead", "stages.laws", _labels_look_ahead, LawBroken, "not known when its decision")
FOLDS = Catcher("folds certificate", "folds.certificate", _folds, LookAheadError, "may meet a test span")
FIT_ROWS = Catcher("certificate of fit rows", "folds.certificate", _fit_certificate, LookAheadError, "of a fit has")
OTHERS = Catcher("truth of others", "stages.laws", _truth_of_others, LawBroken, "that it may not know")
FIT_ONLY = Catcher("fit rows only", "stages.laws", _fit_rows_only, LawBroken, "on fit rows alone")
NET_OTHERS = Catcher("truth of others, net", "stages.laws", _of_net(_truth_of_others), LawBroken, "may not know")
NET_FIT_ONLY = Catcher("fit rows only, net", "stages.laws", _of_net(_fit_rows_only), LawBroken, "on fit rows alone")
TUNE_ONLY = Catcher("role of calibration rows", "calibration.calibrators", _calibrated, BadInput, "tune rows only")
STOPPING = Catcher("certificate of stopping rows", "models.heads.trees", _stops, LookAheadError, "share no time")
SEALED = Catcher("sealed rows of a search", "positions.manager_search", _chosen, BadInput, "thresholds are searched")
TRAINED = Catcher("bundle verification", "serving.bundle", _packed("production", ("weights",)), Tampered, "recorded")
REPLAY = Catcher("gate replay", "gates.evaluate", _packed("production", ("replay",)), PromotionRefused, "replay: fail")
WEIGHTS = Catcher("gate weights", "gates.evaluate", _packed("all", ("weights",)), PromotionRefused, "weights: fail")
ENTRY_BAR = Catcher("entry bar", "features.minutes.state_laws", _entry_bar, LawBroken, "its entry bar but the close")
ENTRIES_BLIND = Catcher("entries ignore outcomes", "positions.laws", _entries, LawBroken, "before anything is known")
