"""The eleven diagnostics on a made-up run: all of them answer, both ways, and none of them sees a sealed row."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

import polars as pl
import pytest

from pipeline.diagnostics.finding import Finding
from pipeline.diagnostics.minutes.nonlinear_variants import nonlinear_variants
from pipeline.features.minutes.schema import ORDER_FLOW
from pipeline.folds.named import SEALED_SPLITS, named_splits
from pipeline.folds.splits import Folds
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.models.spec import TreeHeadsSpec
from pipeline.stages import minute_probes, probe_inputs
from pipeline.stages.contract import StageResult
from pipeline.stages.diagnostics import METADATA_ROWS, REPORT_ROWS, Diagnostic, presented
from pipeline.stages.minute_diagnostics import MINUTE_DIAGNOSTICS
from pipeline.stages.minute_probes import NO_FLOW
from pipeline.stages.pinned import FOLD_TABLES, PINNED
from pipeline.stages.registry import DIAGNOSTICS, STAGES
from pipeline.studies import STUDIES
from tests.diagnostics.minutes.made_run import COLUMNS, CONFIG, MadeRun, made_run, made_study

STUDY = made_study()
NAMED = {each.name: each for each in MINUTE_DIAGNOSTICS}
EXPECTED = {
    "run_diagnosis": ("NEEDS_MANUAL_REVIEW", "PRICE_PLAN_OR_ENTRY_NOT_TRADABLE"),
    "single_features": ("PROMISING_SINGLE_FEATURE", "NO_STABLE_SINGLE_FEATURE"),
    "condition_pairs": ("NO_STABLE_CONDITION_PAIR", "NO_STABLE_CONDITION_PAIR"),  # pairs of 4,700 rows are too few
    "low_mae_labels": ("PROMISING_LOW_MAE_LABEL", "NO_STABLE_LOW_MAE_LABEL"),
    "conditional_entry": ("PROMISING_WITH_HINDSIGHT_ONLY", "PROMISING_WITH_HINDSIGHT_ONLY"),  # its filter is an oracle
    "good_trade_structure": ("PROMISING_TREE_STRUCTURE", "NO_STABLE_TREE_STRUCTURE"),
    "nonlinear_probe": ("PROMISING_DIAGNOSTIC_ONLY", "NO_STABLE_NONLINEAR_PM_EDGE"),
    "dynamic_exit_search": ("NO_ROBUST_DYNAMIC_EXIT", "NO_ROBUST_DYNAMIC_EXIT"),  # entered at every minute
    "direction_opportunity": ("DATASET_HAS_THREE_CLASSES", "DATASET_HAS_THREE_CLASSES"),
    "order_flow_ablation": ("ORDER_FLOW_ACCEPTED", "ORDER_FLOW_NOT_ACCEPTED"),
    "state_aware_continue": ("NOT_READY_FOR_FORMAL_CHAIN", "NOT_READY_FOR_FORMAL_CHAIN"),
}


@pytest.fixture(scope="module")
def planted() -> MadeRun:
    return made_run()


@pytest.fixture(scope="module")
def noise() -> MadeRun:
    return made_run(drift=0.0)


@pytest.fixture
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = partial(nonlinear_variants, trees=TreeHeadsSpec(rounds=25))
    monkeypatch.setattr(minute_probes, "nonlinear_variants", quick)


def answered(name: str, run: MadeRun) -> StageResult:
    return presented(NAMED[name], STUDY, NAMED[name].run(STUDY, run))


@pytest.mark.usefixtures("few_trees")
@pytest.mark.parametrize("name", NAMED)
def test_each_answers_what_is_planted_and_what_is_not(name: str, planted: MadeRun, noise: MadeRun) -> None:
    """Pins a diagnostic that dies on a run, promises on noise, misses a plant, or reads a stage it does not name."""
    for run, status in zip((planted, noise), EXPECTED[name], strict=True):
        run.read.clear()
        result = answered(name, run)
        said = json.loads(result.files["finding.json"])
        assert said["status"] == status
        assert said["purpose"] == "diagnostic only"
        assert said["rule"]
        assert said["counts"]
        assert all(set(each) == {"side", "candidate", "reason"} for each in said["skipped"])
        assert result.files["report.html"].count(b"data:image/png;base64,") >= 1
        assert run.read <= {*PINNED, *NAMED[name].reads}
        assert not result.trials


def test_they_are_registered_and_apart() -> None:
    """Pins a probe that nobody can run, a name twice, and one that applies to a study of sessions."""
    assert len(NAMED) == 11
    names = [each.name for each in DIAGNOSTICS]
    assert set(NAMED) <= set(names)
    assert len({*names, *STAGES}) == len(names) + len(STAGES)
    minutes, sessions = STUDIES["perp_minute"], STUDIES["ashare_daily"]
    assert all(each.applies_to(minutes) and not each.applies_to(sessions) for each in MINUTE_DIAGNOSTICS)
    open_only = minutes.model_copy(update={"folds": minutes.folds.model_copy(
        update={"locked_share": 0.0, "stress_share": 0.0})})
    assert not any(each.applies_to(open_only) for each in MINUTE_DIAGNOSTICS)


def test_an_answer_is_kept_while_what_it_reads_did_not_change() -> None:
    """Pins a changed gate that runs eleven probes anew, and a changed plan that keeps an old answer."""
    study = STUDIES["perp_minute"]
    gates = study.model_copy(update={"promotion": study.promotion.model_copy(update={"bootstrap_samples": 7})})
    plan = study.labels.plan.model_copy(update={"target_distance_bps": 13.0})
    labels = study.model_copy(update={"labels": study.labels.model_copy(update={"plan": plan})})
    for each in MINUTE_DIAGNOSTICS:
        version = each.stage.code_version(study)
        assert each.stage.code_version(gates) == version
        assert each.stage.code_version(labels) != version


def spoiled(run: MadeRun) -> MadeRun:
    """The run with nonsense in everything that is sealed: labels, features, bars, scores."""
    folds = Folds(*(run.tables["folds", name] for name in FOLD_TABLES))
    labels = run.tables["labels", "labels"]
    named = labels.select(KEY).with_columns(named_splits(folds, labels))
    sealed = named.filter(pl.col("split_id").is_in(SEALED_SPLITS)).select("session").unique()["session"].implode()
    inside = pl.col("session").is_in(sealed)

    def ruin(frame: pl.DataFrame) -> pl.DataFrame:
        kept = {"label_start", "label_end", "role", "split", "member"}
        numbers = [name for name, dtype in frame.schema.items() if dtype.is_numeric() and name not in kept]
        return frame.with_columns(
            pl.when(inside).then(pl.lit(77).cast(frame.schema[name])).otherwise(name).alias(name) for name in numbers)

    places = {"labels_labels": ("labels", "labels"), "features_features": ("features", "features"),
              "panel_panel": ("panel", "panel"), "models_scores": ("models", "scores"),
              "predictions_predictions": ("predictions", "predictions")}
    return run.with_tables(**{name: ruin(run.tables[place]) for name, place in places.items()})


def seen(run: MadeRun) -> dict[str, Any]:
    """Everything that a probe is given of a run, except the stored trades."""
    inputs = probe_inputs.probe_inputs(STUDY, run)
    return {
        "rows": inputs.rows, "blocks": inputs.blocks, "tune": probe_inputs.decided_on_tune(STUDY, run),
        "fit": probe_inputs.decided_out_of_sample(STUDY, run, inputs.blocks),
        "bars": probe_inputs.seen_bars(run, inputs.rows).frame,
        "known": probe_inputs.bars_as_known(run, inputs.rows).frame,
    }  # fmt: skip


def test_no_sealed_row_reaches_a_probe(planted: MadeRun) -> None:
    """Pins a probe that looks at validation_locked or latest_stress: with nonsense there it is given the same."""
    nonsense = spoiled(planted)
    assert not nonsense.tables["labels", "labels"].equals(planted.tables["labels", "labels"])
    before, after = seen(planted), seen(nonsense)
    assert all(before[name].equals(after[name]) for name in before)
    assert set(before["rows"]["split_id"]) == {"fit_inner", "tune_inner"}
    assert before["bars"]["session"].max() == before["rows"]["session"].max()


def test_what_a_probe_is_given(planted: MadeRun) -> None:
    """Pins rows of a block that is not theirs, a cap that keeps the oldest, and blocks too near for a longer look."""
    inputs = probe_inputs.probe_inputs(STUDY, planted)
    assert inputs.features == COLUMNS
    assert inputs.purge_minutes == 45
    blocks = inputs.blocks.group_by("block").agg(pl.col("minute").min()).sort("minute")
    assert blocks["block"].to_list() == ["fit_inner", "E1", "E2", "E3"]
    fit = inputs.blocks.filter(pl.col("block") == "fit_inner")
    capped = inputs.capped(100)
    assert capped.filter(pl.col("block") == "fit_inner")["minute"].to_list() == fit["minute"].tail(100).to_list()
    assert capped.height == inputs.blocks.height - fit.height + 100
    wide = probe_inputs.purged_for(inputs.blocks, 60).group_by("block").agg(
        first=pl.col("minute").min(), last=pl.col("minute").max()).sort("first")
    apart = (wide["first"].shift(-1) - wide["last"]).drop_nulls().dt.total_minutes()
    assert apart.to_list() == [60, 60, 60]


def test_a_study_without_books_loses_two_probes_in_words() -> None:
    """Pins a crash where order flow and book features have no values, and features that vanish unsaid."""
    plain = [name for name in COLUMNS if name not in ORDER_FLOW and "book" not in name]
    run = made_run(drift=0.0, columns=plain)
    nulls = run.tables["features", "features"].with_columns(ofi_l1_1m=pl.lit(None, pl.Float32))
    for frame in (run.tables["features", "features"], nulls):
        bare = run.with_tables(features_features=frame)
        ablation = NAMED["order_flow_ablation"].run(STUDY, bare)
        assert (ablation.status, ablation.score) == (NO_FLOW, None)
        assert "does not apply: 16 of 16" in ablation.text
        stay = NAMED["state_aware_continue"].run(STUDY, bare)
        assert stay.status == "NOT_READY_FOR_FORMAL_CHAIN"
        assert "book_microprice_basis_bps" in stay.text
    screen = NAMED["single_features"].run(STUDY, bare)
    assert f"{70 - len(plain)} features of the schema have no values" in screen.text
    assert screen.counts["features"] == len(plain)


def test_a_manager_that_never_opens_is_said(planted: MadeRun) -> None:
    """Pins a crash of state-aware Continue and of the run diagnosis where both sides are switched off."""
    shut = CONFIG.open.long.model_copy(update={"min_direction_prob": 1.01})
    config = CONFIG.model_copy(update={"open": CONFIG.open.model_copy(update={"long": shut, "short": shut})})
    run = planted.with_tables(backtest_trades=planted.tables["backtest", "trades"].clear())
    run.files_held = planted.files_held | {("positions", "policy.json", "locked"): config.model_dump_json().encode()}
    stay = NAMED["state_aware_continue"].run(STUDY, run)
    assert stay.status == "NOT_READY_FOR_FORMAL_CHAIN"
    assert "no position is open in fit_inner, E1, E2, E3" in stay.text
    assert "auc" in stay.tables["metrics_oracle"].columns
    assert NAMED["run_diagnosis"].run(STUDY, run).status == "NO_VALIDATION_TRADE"


def test_a_long_table_is_whole_in_the_store_and_short_for_people() -> None:
    """Pins a report of 10^5 rows, a cut that is not said, and a finding that no program can read."""
    table = pl.DataFrame({"value": range(12_345)})
    skipped = pl.DataFrame({"side": ["long"], "candidate": ["x"], "reason": ["too few"]})
    found = Finding(1.0, "SOME", "Words.", {"metrics": table, "skipped": skipped}, rule="a rule", counts={"rows": 5})
    made = Diagnostic("probe", "Probe", "What?", "", lambda _: True, lambda *_: found, (), (), ())
    result = presented(made, STUDY, found)
    page = result.files["report.html"].decode()
    assert result.tables["metrics"].height == 12_345
    assert f"metrics: the first {REPORT_ROWS} of 12,345 rows" in page
    assert len(re.findall("<tr><td", page)) == REPORT_ROWS + 1
    assert len(result.metadata["metrics"]) == METADATA_ROWS
    assert json.loads(result.files["finding.json"]) == {
        "name": "probe", "title": "Probe", "asks": "What?", "purpose": "diagnostic only", "rule": "a rule",
        "counts": {"rows": 5}, "tables": {"metrics": 12_345, "skipped": 1}, "skipped": skipped.to_dicts(),
        "score": 1.0, "status": "SOME", "text": "Words.",
    }  # fmt: skip
