"""Every stage by its name, in the order in which a study runs them, and the diagnostics beside them."""

from pipeline.stages.ablation import ABLATION
from pipeline.stages.candidates import CANDIDATE
from pipeline.stages.evaluation import BACKTEST, SCORECARD
from pipeline.stages.market import FEATURES, LABELS, PANEL
from pipeline.stages.minute_diagnostics import MINUTE_DIAGNOSTICS
from pipeline.stages.research import CALIBRATORS, FOLDS, MODELS, POSITIONS, PREDICTIONS
from pipeline.stages.serving import CHAMPION, INFERENCE, PARITY

STAGES = {
    stage.name: stage
    for stage in (
        PANEL, FEATURES, LABELS, FOLDS, MODELS, CALIBRATORS, POSITIONS, PREDICTIONS, BACKTEST, SCORECARD,
        CANDIDATE, CHAMPION, INFERENCE, PARITY,
    )
}  # fmt: skip
DIAGNOSTICS = (ABLATION, *MINUTE_DIAGNOSTICS)
