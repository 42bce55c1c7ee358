"""The eleven diagnostics of a study of minutes: what each asks and what it reads. `minute_probes` runs them."""

from __future__ import annotations

from importlib import import_module

from pipeline.diagnostics.finding import Finding
from pipeline.folds.spec import LOCKED
from pipeline.frames import MINUTE
from pipeline.stages.contract import Reader
from pipeline.stages.diagnostics import Diagnostic
from pipeline.study import Study

NEEDS = "decisions by the minute and a locked stretch"
PROBES = "pipeline.stages.minute_probes"
LIBRARY = (
    PROBES, "pipeline.diagnostics.minutes", "pipeline.asof", "pipeline.features", "pipeline.labels", "pipeline.folds",
    "pipeline.models", "pipeline.calibration", "pipeline.positions",
)  # fmt: skip


def _by_minute(study: Study) -> bool:
    return study.row_key[-1] == MINUTE and LOCKED in study.folds.splits


def _diagnostic(
    name: str, title: str, asks: str, reads: tuple[str, ...] = ("folds",),
    parts: tuple[str, ...] = ("labels", "features"),
) -> Diagnostic:
    def run(study: Study, read: Reader) -> Finding:
        # Imported when it runs: the libraries that fit take 2 s, and every run of the graph lists the diagnostics.
        found: Finding = getattr(import_module(PROBES), f"run_{name}")(study, read)
        return found

    return Diagnostic(name, title, asks, NEEDS, _by_minute, run, reads, parts, LIBRARY)


SCORED = ("folds", "models", "calibrators")
DECIDED = (*SCORED, "positions")
MINUTE_DIAGNOSTICS = (
    _diagnostic(
        "run_diagnosis", "Run diagnosis", "Where in the run were the trades lost?",
        (*DECIDED, "backtest"), ("labels", "features", "policy"),
    ),
    _diagnostic(
        "single_features", "Single-feature screen", "Which bucket of which feature alone earns on every block?",
    ),
    _diagnostic(
        "condition_pairs", "Condition pairs", "Which two conditions together earn where each alone may not?",
    ),
    _diagnostic(
        "low_mae_labels", "Low-MAE label", "Is a target without a deep drawdown easier to foresee?",
    ),
    _diagnostic(
        "conditional_entry", "Conditional entry (reads the future)",
        "What could entries earn if the minutes with an opportunity were known? (Reads the future: never live.)",
    ),
    _diagnostic(
        "good_trade_structure", "Good-trade structure", "Does anything known at the decision set good trades apart?",
    ),
    _diagnostic(
        "nonlinear_probe", "Nonlinear position-manager probe",
        "Do trees in place of the linear heads give trades that pay?",
        SCORED, ("labels", "features", "policy"),
    ),
    _diagnostic(
        "dynamic_exit_search", "Dynamic-exit search", "Would a trailing plan have earned on every block?",
    ),
    _diagnostic(
        "direction_opportunity", "Direction-opportunity dataset",
        "What would direction labels by opportunity look like?",
    ),
    _diagnostic(
        "order_flow_ablation", "Order-flow ablation", "Are the order-flow features worth having?",
        DECIDED,
    ),
    _diagnostic(
        "state_aware_continue", "State-aware Continue", "Does Continue gain from knowing its position?",
        (*DECIDED, "predictions"), ("labels", "features", "policy"),
    ),
)  # fmt: skip
