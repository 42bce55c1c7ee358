"""The heads of the five models of a minute's decision, and the label column that each is fitted on."""

from __future__ import annotations

from typing import Literal, get_args

from pipeline.labels.spec import HeadSpec, PopulationSpec

EntryPopulation = Literal["none", "direction_label", "side_opportunity"]
Side = Literal["LONG", "SHORT"]
SIDES: tuple[Side, ...] = get_args(Side)


def five_models(entry_population: EntryPopulation = "none", least_bps: float = 40.0) -> tuple[HeadSpec, ...]:
    """Direction (a softmax), entry, continue, exit and risk over the columns of `minute_heads.minute_labels`.

    Parameters
    ----------
    entry_population : str
        Fit rows of the entry heads, each on its own side's.
    least_bps : float
        Max achievable net edge from which a row is a `side_opportunity`.
    """
    sided = {side: side.lower() for side in SIDES}
    direction = [
        HeadSpec(
            name=f"direction_{way}_prob",
            kind="probability",
            target=f"{way}_target",
            model="direction",
            softmax="direction",
        )
        for way in (*sided.values(), "neutral")
    ]
    populations = {side: entry_rows(entry_population, side, least_bps) for side in SIDES}
    entry = [
        *(
            _probability("entry", f"{own}_entry").model_copy(update={"population": populations[side]})
            for side, own in sided.items()
        ),
        *(
            HeadSpec(
                name=f"{own}_expected_net_edge_bps",
                kind="regression",
                target=f"{own}_actual_plan_net_edge_bps",
                model="entry",
                population=populations[side],
            )
            for side, own in sided.items()
        ),
    ]
    stay = [_probability("continue", f"{own}_continue") for own in sided.values()] + [
        HeadSpec(name=f"{own}_expected_continue_edge_bps", kind="regression", model="continue")
        for own in sided.values()
    ]
    leave = [f"{own}_{what}" for what in ("exit", "exit_adverse", "exit_reversal") for own in sided.values()]
    risk = ["market_risk", *(f"{own}_position_risk" for own in sided.values()), "market_drawdown", "spike"]
    risk += ["volatility_expansion", "position_drawdown", "liquidity_deterioration"]
    return (
        *direction,
        *entry,
        *stay,
        *(_probability("exit", name) for name in (*leave, "exit_stagnation")),
        *(_probability("risk", name) for name in risk),
    )


def entry_rows(method: EntryPopulation, side: Side, least_bps: float) -> PopulationSpec | None:
    """The population of a side's entry heads."""
    if method == "none":
        return None
    columns = {"direction_label": "target", "side_opportunity": "max_achievable_net_edge_bps"}
    return PopulationSpec(method=method, side=side, column=f"{side.lower()}_{columns[method]}", least_bps=least_bps)


def _probability(model: str, name: str) -> HeadSpec:
    return HeadSpec(name=f"{name}_prob", kind="probability", target=f"{name}_target", model=model)
