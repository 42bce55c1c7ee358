"""Daily top-10 of China A-shares, T+1 open to T+3 close. Values only; the sources are in docs/decisions.md."""

from datetime import time

from pipeline.asof.spec import MarketSpec, TableUse, UniverseSpec
from pipeline.backtests.spec import ExecutionSpec
from pipeline.calibration.spec import CalibrationSpec
from pipeline.folds.spec import FoldSpec
from pipeline.gates.spec import GateSpec, PromotionSpec
from pipeline.labels.spec import HeadSpec, LabelSpec
from pipeline.models.spec import BoostedSpec, LinearSpec, SequenceNetSpec, TrainingSpec
from pipeline.positions.spec import PolicySpec
from pipeline.study import Study

STUDY = Study(
    name="ashare_daily",
    title="China A-shares, daily top 10, T+1 open to T+3 close",
    market=MarketSpec(vendor="tushare", exchange="SSE", zone="Asia/Shanghai", decision_time=time(20, 30),
                      bars_per_session=48, benchmark="000300.SH"),
    tables=(
        TableUse(table="trade_cal"),
        TableUse(table="stock_basic"),
        TableUse(table="daily"),
        TableUse(table="adj_factor"),
        TableUse(table="daily_basic"),
        TableUse(table="namechange", required=False, loses="the ST audit, and ST before stock_st begins"),
        TableUse(table="stock_st", required=False, loses="ST by date; namechange intervals stand in"),
        TableUse(table="bse_mapping", required=False, loses="one identity for old and new BSE codes"),
        TableUse(table="stk_limit", required=False, loses="the vendor's cross-check of computed limits"),
        TableUse(table="suspend_d", required=False, loses="the difference between suspended and missing"),
        TableUse(table="index_daily", required=False, loses="the index as a benchmark"),
        TableUse(table="index_member_all", required=False, loses="industries; all names are unmapped"),
        TableUse(table="moneyflow", required=False, loses="order-size flow features"),
        TableUse(table="stk_mins", required=False, loses="Path A and the intraday features"),
    ),
    universe=UniverseSpec(boards=("main", "chinext", "star", "bse"), seasoning_sessions=60, exclude_st=True),
    features=("alpha158", "returns", "cross_section", "context", "limits", "flow", "regime", "intraday"),
    labels=LabelSpec(
        family="executable", exit_session=3, max_exit_delay=10, tail=0.2,
        heads=(
            HeadSpec(name="rank", kind="rank"),
            HeadSpec(name="q", kind="probability"),
            HeadSpec(name="buy_block", kind="probability"),
            HeadSpec(name="downlock", kind="probability"),
            HeadSpec(name="fragility", kind="regression"),
            HeadSpec(name="intraday_aux", kind="rank"),
        ),
    ),
    folds=FoldSpec(scheme="cpcv", n_groups=6, n_test_groups=2, embargo_sessions=0, tune_share=0.2, locked_share=0.15),
    members=(
        LinearSpec(),
        BoostedSpec(),
        SequenceNetSpec(sequence_features=(
            "KMID", "KLEN", "KSFT", "ROC5", "ROC10", "ROC20", "MA5", "STD5", "RSV5", "CORR5", "VMA5", "VSTD5",
            "WVMA5", "SUMP5", "VSUMP5", "OPEN0",
        )),
    ),
    training=TrainingSpec(seed=7, threads=1, serving_batch=64),
    calibration=CalibrationSpec(),
    policy=PolicySpec(top_k=10),
    execution=ExecutionSpec(sleeves=3, exit_session=3, buy_cost_bps=12.6, sell_cost_bps=17.6, random_books=200),
    promotion=PromotionSpec(
        gates=(
            GateSpec(name="folds_overlap", bound=0),
            GateSpec(name="folds_coverage", bound=1),
            GateSpec(name="quarantined", bound=0.05),
            GateSpec(name="impossible_fills", bound=0),
            GateSpec(name="rank_ic", bound=0),
            GateSpec(name="net_excess", bound=0),
            GateSpec(name="worst_path", bound=0),
            GateSpec(name="probabilistic_sharpe", bound=0.95),
            GateSpec(name="deflated_sharpe", bound=0.90),
            GateSpec(name="overfitting", bound=0.5, optional=True),
            GateSpec(name="track_record", bound=1),
            GateSpec(name="calibration", bound=1.02),
            GateSpec(name="break_even", bound=1),
            GateSpec(name="capacity", bound=0.8),
            GateSpec(name="locked_excess", bound=0),
            GateSpec(name="locked_openings", bound=1),
            GateSpec(name="replay", bound=0, applies_to="candidate"),
            GateSpec(name="weights", bound=0, applies_to="candidate"),
            GateSpec(name="refit_correlation", bound=0.5, applies_to="candidate"),
        ),
    ),
)
