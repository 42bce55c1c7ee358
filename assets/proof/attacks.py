"""Promotion attacks: no way to a champion past its gates, one at a time, by twos, or by hand."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, pairwise
from pathlib import Path

import dagster as dg
import polars as pl

from assets.proof.attack_list import (
    Attack,
    bundle_attacks,
    ledger_attacks,
    pointer_attacks,
    side_attacks,
    verdict_attacks,
)
from assets.proof.attack_stand import Outcome, Stand, attempt, build_stand, bundle_folder, rewrite, serve
from assets.proof.contract import BROKEN, HELD, Progress, Size
from assets.proof.homes import HomePlan, runner_of
from pipeline.diagnostics.finding import Finding
from pipeline.errors import FoldgateError
from pipeline.studies import STUDIES
from resources.environments import Environment

REGIONS: dict[Size, int] = {"small": 1, "full": 16}
OF_A_FAMILY: dict[Size, int | None] = {"small": 2, "full": None}
Row = dict[str, object]


def run(size: Size, folder: Path, progress: Progress) -> Finding:
    """Every attack on a home of each study; in the small version of the first study, and fewer regions."""
    studies = list(STUDIES.values())[: 1 if size == "small" else None]
    rows: list[Row] = []
    controls: list[Row] = []
    for study in studies:
        progress(f"{study.name}: home", 0.0)
        wanted = HomePlan(market={"sessions": 110} if study.market.decides == "session" else {"days": 12})
        stand = build_stand(study, folder / study.name, wanted)
        rows += attacked(stand, study.name, folder / "copy", size, progress)
        controls += control(stand, study.name, folder / "copy")
    return finding(rows, controls)


def attacked(stand: Stand, study: str, copy: Path, size: Size, progress: Progress) -> list[Row]:
    """What came of every attack alone, of pairs of families, and of the same by hand through Dagster."""
    environment = stand.copy(copy)
    rows = len(list((environment.home / "ledger" / study).glob("0*.json")))
    families: dict[str, list[Attack]] = {}
    for attack in (
        *verdict_attacks(environment.study),
        *side_attacks(environment.study),
        *bundle_attacks(bundle_folder(environment), REGIONS[size]),
        *ledger_attacks(rows),
        *pointer_attacks(REGIONS[size], 1),
    ):
        families.setdefault(attack.family, []).append(attack)
    single = [attack for members in families.values() for attack in _spread(members, OF_A_FAMILY[size])]
    one_each = [members[0] for members in families.values() if not members[0].serves]
    # In the small version each family meets the next one alone.
    pairs = list(combinations(one_each, 2)) if size == "full" else list(pairwise(one_each))
    found: list[Row] = []
    for i, attack in enumerate(single):
        progress(f"{study}: {attack.family}", i / (len(single) + len(pairs)))
        found.append(_row(study, attack.family, attack.name, _one(stand.copy(copy), [attack])))
    for i, pair in enumerate(pairs):
        progress(f"{study}: two at once", (len(single) + i) / (len(single) + len(pairs)))
        name = " + ".join(attack.family for attack in pair)
        found.append(_row(study, "two at once", name, _one(stand.copy(copy), pair)))
    for attack in (each for each in one_each if each.family in ("gate red", "a judgement is forgotten")):
        environment = stand.copy(copy)
        attack.apply(environment)
        found.append(_row(study, "by hand in Dagster", attack.family, _through_dagster(environment)))
    return found


def _spread(attacks: list[Attack], count: int | None) -> list[Attack]:
    """The first, the last, and others evenly between."""
    if count is None or count >= len(attacks):
        return attacks
    return [attacks[round(i * (len(attacks) - 1) / (count - 1))] for i in range(count)]


def _one(environment: Environment, attacks: Iterable[Attack]) -> Outcome:
    """The outcome after one attack or two. A second that finds no ground left after the first is none."""
    asked = list(attacks)
    for attack in asked:
        try:
            attack.apply(environment)
        except (FoldgateError, OSError, KeyError):
            if attack is asked[0]:
                raise
    fresh = Environment(environment.home)
    return serve(fresh, fresh.home / "work") if asked[0].serves else attempt(fresh)


def _through_dagster(environment: Environment) -> Outcome:
    """The asset itself, as the UI's button would materialise it."""
    champions = environment.champions(environment.study.name)
    before = champions.current()
    try:
        runner_of(Environment(environment.home)).stages(["champion"])
    except (FoldgateError, dg.DagsterError) as refused:
        recorded = champions.history()[-1]["kind"] == "refused"
        return Outcome(champions.current() != before, recorded, type(refused).__name__)
    return Outcome(champions.current() != before, False, "nothing")


def control(stand: Stand, study: str, copy: Path) -> list[Row]:
    """The same home without an attack is promoted: as it lies, and after a rewrite that changes nothing."""
    untouched = attempt(stand.copy(copy))
    environment = stand.copy(copy)
    rewrite(environment, "scorecard")
    rewrite(environment, "candidate")
    rewritten = attempt(Environment(environment.home))
    served = serve(Environment(environment.home), copy / "work")
    return [
        _row(study, "no attack", "as it lies", untouched),
        _row(study, "no attack", "rewritten unchanged", rewritten),
        _row(study, "no attack", "served after promotion", served),
    ]


def _row(study: str, family: str, name: str, outcome: Outcome) -> Row:
    return {
        "study": study, "attack": family, "on": name, "promoted": outcome.moved, "recorded": outcome.recorded,
        "refused by": outcome.by,
    }  # fmt: skip


def finding(rows: list[Row], controls: list[Row]) -> Finding:
    """Held where no attack moved the pointer or served, none crashed, and every control was promoted."""
    attempts, control_rows = pl.DataFrame(rows), pl.DataFrame(controls)
    promotions = int(attempts["promoted"].sum())
    crashes = attempts.filter(pl.col("refused by").str.starts_with("crash"))
    promoted_controls = int(control_rows["promoted"].sum())
    held = promotions == 0 and crashes.is_empty() and promoted_controls == len(control_rows) and len(attempts) > 0
    by_family = (
        attempts.group_by("attack", maintain_order=True)
        .agg(
            attempts=pl.len(),
            promotions=pl.col("promoted").sum(),
            recorded=pl.col("recorded").sum(),
            refused_by=pl.col("refused by").unique(maintain_order=True).sort().str.join("; "),
        )
        .rename({"refused_by": "refused by"})
    )
    text = (
        f"{len(attempts):,} attempts on {attempts['study'].n_unique()} studies in {by_family.height} families: "
        f"{promotions} promotions. The champion stage ran by hand on a copy of a home whose every gate was green, "
        f"after one change or two; a changed pointer was then asked to serve. {int(attempts['recorded'].sum()):,} "
        f"refusals stand in the champion's records, the rest where the records themselves were the target. "
        f"{promoted_controls} of {len(control_rows)} controls without an attack were promoted or served."
    )
    wrong = attempts.filter("promoted").vstack(crashes)
    if len(wrong):
        named = "; ".join(f"{row['attack']} ({row['on']})" for row in wrong.head(5).iter_rows(named=True))
        text += f" Not refused with a rule: {named}."
    return Finding(
        score=float(promotions),
        status=HELD if held else BROKEN,
        text=text,
        tables={"attacks": by_family, "controls": control_rows, "attempts": attempts},
        rule="held when no attempt promotes, each is refused by a typed rule, and every control is promoted",
        counts={"attempts": len(attempts), "promotions": promotions, "families": by_family.height},
    )
