"""Daily top-10 of China A-shares, T+1 open to T+3 close. Values only; the sources are in docs/decisions.md."""

from datetime import time

from pipeline.asof.spec import MarketSpec, TableUse, UniverseSpec
from pipeline.backtests.spec import ExecutionSpec
from pipeline.calibration.spec import CalibrationSpec
from pipeline.folds.spec import FoldSpec
from pipeline.gates.spec import GateSpec, PromotionSpec
from pipeline.labels.spec import HeadSpec, LabelSpec
from pipeline.models.spec import (
    BoostedSpec,
    DailyPathSpec,
    IntradayPathSpec,
    LinearSpec,
    MultiPathNetSpec,
    TowerSpec,
    TrainingSpec,
)
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
        MultiPathNetSpec(
            epochs=2,
            intraday=IntradayPathSpec(sessions=3, kernels=(3, 9), width=8),
            daily=DailyPathSpec(window=20, features=(  # the five states are told apart by these: docs/architecture.md
                "return_1", "overnight_return_1", "intraday_return_1", "return_5", "return_20", "RSQR20", "CNTD20",
                "close_streak_10", "upper_shadow_5", "KSFT2", "VMA20", "max_drawdown_20", "drawdown_recovery_20",
                "IMXD20", "amount_expansion_5", "turnover_5", "VMA5", "VSUMD20", "limit_position", "limit_up_closes_5",
                "limit_up_streak_10", "limit_up_one_price_20", "limit_up_opened_below_20", "KLEN", "STD5", "RSV20",
                "CORR5", "late_reversal",
            )),
            towers=(
                TowerSpec(name="accumulation", features=(
                    "flow_small_1", "flow_small_5", "flow_small_20", "flow_medium_1", "flow_medium_5", "flow_medium_20",
                    "flow_large_1", "flow_large_5", "flow_large_20", "flow_extra_large_1", "flow_extra_large_5",
                    "flow_extra_large_20", "amount_expansion_5", "turnover_5", "turnover_20",
                )),
                TowerSpec(name="event", categories=(
                    "limit_up_streak_10", "limit_up_closes_5", "limit_up_touches_1", "limit_down_closes_5",
                    "limit_down_touches_1", "suspended_sessions_20",
                )),
                TowerSpec(name="quality", features=(
                    "amihud_20", "amount_percentile", "turnover_percentile", "bars_60", "suspended_sessions_60",
                    "pe_ttm_missing", "pb_missing", "ps_ttm_missing", "turnover_missing", "flow_gross_missing",
                ), categories=("liquidity_bucket",)),
                TowerSpec(name="context", features=(
                    "market_cap_percentile", "float_cap_percentile", "listing_age_log", "listed_under_60",
                    "listed_under_250", "market_return_5", "breadth_5", "style_size_5", "market_turnover",
                    "risk_appetite",
                ), categories=("board", "industry", "size_bucket")),
            ),
            execution=(
                "amount_percentile", "amihud_20", "limit_up_closes_1", "limit_down_closes_1", "limit_up_touches_1",
                "limit_down_touches_1", "day_close_location", "last_return", "suspended_sessions_20",
            ),
            regime=(
                "market_return_1", "market_return_5", "market_return_20", "market_return_60", "market_volatility_20",
                "breadth_1", "breadth_5", "dispersion_1", "dispersion_5", "style_size_1", "style_size_5",
                "style_size_20", "market_turnover", "limit_up_share", "limit_down_share", "risk_appetite",
            ),
        ),
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
