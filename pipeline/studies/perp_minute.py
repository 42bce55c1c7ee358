"""One perpetual, a decision a minute, one position at a time. Values only; the sources are in docs/decisions.md."""

from datetime import time

from pipeline.asof.spec import MarketSpec, SymbolsSpec, TableUse
from pipeline.backtests.spec import PlanExecutionSpec
from pipeline.calibration.spec import CalibrationSpec, EnsembleSpec
from pipeline.folds.spec import FoldSpec
from pipeline.gates.spec import GateSpec, PromotionSpec
from pipeline.labels.minute_models import five_models
from pipeline.labels.minute_spec import PlanLabelSpec
from pipeline.labels.price_plan import PricePlan
from pipeline.models.spec import LinearHeadsSpec, TrainingSpec, TreeHeadsSpec
from pipeline.positions.manager_spec import ManagerSpec
from pipeline.study import Study

STUDY = Study(
    name="perp_minute",
    title="BTC-USDT perpetual, one-minute decisions, one position at a time",
    market=MarketSpec(vendor="binance", exchange="BINANCE_FUTURES", zone="UTC", decides="minute",
                      decision_time=time(0, 5), decision_days_later=1, bars_per_session=1440, sessions_per_year=365),
    tables=(
        TableUse(table="klines_1m"),
        TableUse(table="funding_rate", required=False, loses="funding and time to funding"),
        TableUse(table="book_1m", required=False, loses="spread, depth, microprice and order-flow features"),
    ),
    universe=SymbolsSpec(symbols=("BTCUSDT",)),
    features=("price", "volume", "spread", "book", "funding", "clock", "order_flow"),
    labels=PlanLabelSpec(heads=five_models(), plan=PricePlan(target_distance_bps=60.0, stop_distance_bps=30.0)),
    folds=FoldSpec(scheme="cpcv", n_groups=4, n_test_groups=2, tune_share=0.25, locked_share=0.15, stress_share=0.1),
    members=(LinearHeadsSpec(), TreeHeadsSpec(rounds=120)),
    training=TrainingSpec(seed=7, threads=1, serving_batch=64, row_cap=60_000),
    calibration=CalibrationSpec(),
    ensemble=EnsembleSpec(members=("heads_linear",)),
    policy=ManagerSpec(),
    execution=PlanExecutionSpec(),
    promotion=PromotionSpec(
        gates=(
            GateSpec(name="folds_overlap", bound=0),
            GateSpec(name="folds_coverage", bound=1),
            GateSpec(name="quarantined", bound=0.05),
            GateSpec(name="impossible_fills", bound=0),
            GateSpec(name="rank_ic", bound=0),
            GateSpec(name="net_excess", bound=0),
            GateSpec(name="net_return", bound=0),
            GateSpec(name="worst_path", bound=0),
            GateSpec(name="probabilistic_sharpe", bound=0.95),
            GateSpec(name="deflated_sharpe", bound=0.90),
            GateSpec(name="overfitting", bound=0.5, optional=True),
            GateSpec(name="track_record", bound=1),
            GateSpec(name="calibration", bound=1.02),
            GateSpec(name="break_even", bound=1),
            GateSpec(name="locked_excess", bound=0),
            GateSpec(name="locked_openings", bound=1),
            GateSpec(name="sealed_verdict", bound=0),
            GateSpec(name="replay", bound=0, applies_to="candidate"),
            GateSpec(name="weights", bound=0, applies_to="candidate"),
            GateSpec(name="refit_correlation", bound=0.5, applies_to="candidate"),
            GateSpec(name="conformance", bound=0, applies_to="candidate"),
        ),
    ),
)
