"""Predictions -> orders, by the kind of policy that a bundle holds: the one place in serving that tells kinds apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import polars as pl

from pipeline.errors import BadInput, IncompleteTables
from pipeline.frames import MINUTE, MINUTE_ROW, ROW
from pipeline.labels.price_plan import PricePlan, price_plan_context
from pipeline.positions.manager import decide, predicted_edges
from pipeline.positions.manager_spec import ManagerConfig, PlanNumbers
from pipeline.positions.policy import Policy, select
from pipeline.serving.record_files import RecordBook
from pipeline.serving.records import MINUTES, TOP10

TAGS = ("code", "board", "industry")
ENTRY_SCHEMA: dict[str, pl.DataType] = {
    "session": pl.Date(),
    "rank": pl.Int32(),
    "instrument": pl.String(),
    "minute": pl.Datetime("us", "UTC"),
    "side": pl.String(),
    "weight": pl.Float64(),
    "score": pl.Float64(),
    "price": pl.Float64(),
    "target_price": pl.Float64(),
    "stop_price": pl.Float64(),
    "entry_prob": pl.Float64(),
    "direction_prob": pl.Float64(),
    "market_risk_prob": pl.Float64(),
}
"""Orders of a position manager: `weight` is the planned ratio, `score` the predicted edge in bps."""


class Decision(NamedTuple):
    """What the position manager would open, were it flat; where it would not: no side, ratio 0, no edge."""

    side: str | None
    planned_ratio: float
    predicted_edge_bps: float | None


class Selector(Protocol):
    """What inference must know of a bundle's policy."""

    @property
    def policy(self) -> Policy | ManagerConfig: ...

    @property
    def alpha(self) -> str:
        """The served column that becomes `score`."""
        ...

    @property
    def key(self) -> tuple[str, ...]:
        """Key of panel, features and predictions."""
        ...

    @property
    def panel_columns(self) -> tuple[str, ...]:
        """What panel rows carry beside key and `eligible`."""
        ...

    @property
    def book(self) -> RecordBook:
        """Where its decisions are recorded."""
        ...

    def standing(self, panel: pl.DataFrame, features: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
        """Panel rows with `eligible` as it is scored, and counts of what was left out.

        The panel's newest session is the one that is scored. Too few rows, or rows that lack what they must have,
        are an error.
        """
        ...

    def orders(self, predictions: pl.DataFrame, today: pl.DataFrame) -> pl.DataFrame:
        """What is ordered, by `session` and `rank`; an error where nothing is and something must be."""
        ...


@dataclass(frozen=True)
class TopKSelector:
    """The best names of a session."""

    policy: Policy
    key: tuple[str, ...] = ROW
    panel_columns: tuple[str, ...] = TAGS
    book: RecordBook = TOP10

    @property
    def alpha(self) -> str:
        return self.policy.alpha

    def standing(self, panel: pl.DataFrame, features: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
        """Every eligible name of every session has features, and there are names enough."""
        lacking = panel.filter("eligible").join(features, on=list(self.key), how="anti").sort(self.key)
        if not lacking.is_empty():
            first = lacking.select(self.key).row(0)
            raise IncompleteTables(
                "every eligible name of the window has a features row",
                f"{len(lacking)} lack one, first {first[1]} on {first[0]}",
                "materialise the features of every session of the window",
            )
        today = panel.filter(pl.col("session") == pl.col("session").max())
        eligible, wanted = int(today["eligible"].sum()), self.policy.top_k
        if eligible < wanted:
            raise BadInput(
                f"at least {wanted} names are eligible",
                f"{eligible} of {len(today)} listed",
                "see the panel's exclusions of the session; the vendor's tables may be incomplete",
            )
        return panel, {}

    def orders(self, predictions: pl.DataFrame, today: pl.DataFrame) -> pl.DataFrame:
        """`ORDER_SCHEMA` and `TAGS`; an empty list is no selection."""
        orders = select(predictions, self.policy).join(today.select(*self.key, *TAGS), on=list(self.key), how="left")
        if orders.is_empty():
            raise BadInput(
                "a selection holds at least one name",
                f"none of {len(predictions)} passes {self.policy}",
                "the policy's filters refuse the whole session; hold cash",
            )
        return orders


@dataclass(frozen=True)
class ManagerSelector:
    """Every minute at which a position manager would open, were it flat. Nothing here looks at what came of it.

    Parameters
    ----------
    policy : ManagerConfig
    plan : PricePlan
        The one that the labels were made with.
    alpha : str
    """

    policy: ManagerConfig
    plan: PricePlan
    alpha: str
    key: tuple[str, ...] = MINUTE_ROW
    panel_columns: tuple[str, ...] = ("close",)
    book: RecordBook = MINUTES

    @cached_property
    def context(self) -> dict[str, object]:
        """The plan as it travels."""
        return price_plan_context(self.plan)

    @cached_property
    def numbers(self) -> PlanNumbers:
        """What the manager reads of the plan."""
        return PlanNumbers.from_context(self.context)

    def standing(self, panel: pl.DataFrame, features: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
        """Minutes whose features are not complete are not scored; one that is must remain."""
        known = features.select(*self.key, has_features=pl.lit(True))
        joined = panel.join(known, on=list(self.key), how="left", maintain_order="left")
        scored = pl.col("eligible") & pl.col("has_features").fill_null(False)
        standing = joined.with_columns(eligible=scored).drop("has_features")
        eligible, kept = int(panel["eligible"].sum()), int(standing["eligible"].sum())
        if not kept:
            raise BadInput(
                "at least one eligible minute has complete features",
                f"{eligible} of {len(panel)} minutes are eligible, {len(features)} have features",
                "see the panel's exclusions and data_quality_flag of the session",
            )
        return standing, {"minutes": len(panel), "eligible": eligible, "without_features": eligible - kept}

    def decided(self, predictions: pl.DataFrame) -> pl.DataFrame:
        """`decide` on served columns: every row with both sides' edges, `side` and `planned_ratio`."""
        named = predictions.rename(lambda column: column.removesuffix("_pred"))
        return decide(predicted_edges(named, self.numbers), self.policy, self.numbers)

    def orders(self, predictions: pl.DataFrame, today: pl.DataFrame) -> pl.DataFrame:
        """`ENTRY_SCHEMA`; a day without an entry is a decision too."""
        opened = self.decided(predictions).filter(pl.col("side").is_not_null(), pl.col("planned_ratio") > 0)
        priced = opened.join(
            today.select(*self.key, price="close"), on=list(self.key), how="left", maintain_order="left"
        )
        ranked = priced.sort(MINUTE, "instrument").with_row_index("rank", offset=1)
        sided = {"score": "predicted_edge_bps", "entry_prob": "entry_prob"}
        return ranked.with_columns(
            *(self._of_side(f"long_{name}", f"short_{name}").alias(column) for column, name in sided.items()),
            self._of_side("direction_long_prob", "direction_short_prob").alias("direction_prob"),
            weight="planned_ratio",
            target_price=self._barrier(self.plan.target_distance_bps),
            stop_price=self._barrier(-self.plan.stop_distance_bps),
        ).select(pl.col(name).cast(kind) for name, kind in ENTRY_SCHEMA.items())

    @staticmethod
    def _of_side(long: str, short: str) -> pl.Expr:
        return pl.when(pl.col("side") == "LONG").then(long).otherwise(short)

    @staticmethod
    def _barrier(gain_bps: float) -> pl.Expr:
        """The price at which the trade has gained `gain_bps` as the barriers count: a share of the entry price."""
        signed = pl.when(pl.col("side") == "LONG").then(1.0 + gain_bps / 1e4).otherwise(1.0 - gain_bps / 1e4)
        return pl.col("price") * signed


def decisions(decided: pl.DataFrame) -> list[Decision]:
    """The decision of every row of `positions.manager.decide`, in its order."""
    edge = pl.when(side="LONG").then("long_predicted_edge_bps").when(side="SHORT").then("short_predicted_edge_bps")
    return [Decision(*row) for row in decided.select("side", "planned_ratio", edge).iter_rows()]


def selector(study: Mapping[str, Any], policy: bytes) -> Selector:
    """What the policy of a bundle is and does.

    Parameters
    ----------
    study : mapping
        `study.json`.
    policy : bytes
        `policy.json`.

    Raises
    ------
    BadInput
        A family of policies that nothing here serves.
    """
    spec = study["policy"]
    if spec["family"] == "top_k":
        return TopKSelector(Policy.model_validate_json(policy))
    if spec["family"] == "position_manager":
        plan = PricePlan.model_validate(study["labels"]["plan"])
        return ManagerSelector(ManagerConfig.model_validate(json.loads(policy)), plan, spec["alpha"])
    raise BadInput(
        "a bundle's policy is of a family that is served", spec["family"], "one of top_k, position_manager"
    )
