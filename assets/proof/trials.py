"""Trial ledger and overfitting gates: what was scored is counted, what was counted stays, and the count refuses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from assets.proof.contract import BROKEN, HELD, Progress, Size
from assets.proof.homes import HomePlan, judged_home, runner_of
from assets.proof.trial_chain import tampered
from assets.proof.trial_numbers import golden
from assets.proof.trial_search import DAYS, NAIVE, SEARCH, Search, searches, searches_table
from pipeline.diagnostics.finding import Finding
from pipeline.folds.spec import LOCKED
from pipeline.gates.ledger import Ledger, Trial
from pipeline.studies import STUDIES
from pipeline.study import Study
from resources.environments import SETTINGS_FILE, Environment

REFUSED_SHARE = 0.95  # a bound of 0.9 on the deflated ratio lets 8 of 1,500 such searches through
LONG_LEDGER = 60


@dataclass(frozen=True)
class Sizes:
    """How much is asked: studies, searches of each skill, and the annual Sharpe ratios of the one that has skill."""

    studies: int | None
    searches: int
    skilled: int
    skills: tuple[float, ...]


SIZES: dict[Size, Sizes] = {"small": Sizes(1, 2, 0, ()), "full": Sizes(None, 100, 20, (1.0, 2.0, 3.0, 4.0))}


def run(size: Size, folder: Path, progress: Progress) -> Finding:
    """Recorded by construction, golden numbers, searches among noise, and ledgers changed at every row."""
    asked = SIZES[size]
    studies = list(STUDIES.values())[: asked.studies]
    recorded, changed = [], []
    for study in studies:
        progress(f"{study.name}: scored configurations", 0.0)
        home = folder / study.name
        recorded += recordings(study, home)
        progress(f"{study.name}: its ledger changed at every row", 0.3)
        changed.append(tampered(home / "ledger" / study.name).insert_column(0, pl.lit(study.name).alias("ledger")))
    if size == "full":
        changed.append(tampered(long_ledger(folder / "long")).insert_column(0, pl.lit("60 rows").alias("ledger")))
    found: list[tuple[Study, list[Search]]] = []
    for study in studies:
        noise = searches(study, folder, asked.searches, (0.0,), progress)
        found.append((study, noise + searches(study, folder, asked.skilled, asked.skills, progress)))
    return finding(pl.DataFrame(recorded), golden(), found, pl.concat(changed))


def long_ledger(root: Path) -> Path:
    """A ledger with more rows than a small run leaves."""
    Ledger(root).append(
        Trial(f"configuration {i}", str(i), "long", "paths", DAYS[:30], [((i * j) % 7) / 100 for j in range(30)])
        for i in range(LONG_LEDGER)
    )
    return root


def recordings(study: Study, home: Path) -> list[dict[str, Any]]:
    """A small run with two members, then again, then with another configuration, and with a store that fails.

    Only the backtest runs again: a configuration is all that was chosen, and what was chosen is what changes.
    """
    wanted = HomePlan(2, market={"sessions": 110} if study.market.decides == "session" else {"days": 12})
    environment = judged_home(study, home, wanted).environment
    rows = [counted(environment, "the run itself")]
    runner_of(environment).stages(["backtest"])
    rows.append(counted(environment, "the same again"))
    environment = another_configuration(home)
    runner_of(environment).stages(["backtest"])
    rows.append(counted(environment, "another configuration"))
    rows.append(_failed(another_configuration(home)))
    return rows


def another_configuration(home: Path) -> Environment:
    """The home with the first number of its first member twice as large."""
    path = home / SETTINGS_FILE
    settings = json.loads(path.read_text())
    member = settings["overrides"]["members"][0]
    chosen = next(name for name, value in member.items() if isinstance(value, float))
    member[chosen] *= 2
    path.write_text(json.dumps(settings))
    return Environment(home)


def counted(environment: Environment, what: str) -> dict[str, Any]:
    """Configurations that the stored backtests scored, by their own tables, beside the ledger's rows."""
    ledger = environment.ledger(environment.study.name).rows()
    return {
        "study": environment.study.name,
        "after": what,
        "scored": scored(environment),
        "recorded": ledger.height,
        "ensemble's returns equal": _equal_returns(environment, ledger),
    }


def scored(environment: Environment) -> int:
    """Every distinct configuration that ran: the ensemble and each member alone, on the paths and on the locked rows.

    Counted from the runs' settings, not from what the backtest said of its trials.
    """
    study = environment.study
    excess = environment.artifacts.table(study.name, "backtest", "excess")
    kinds = {"locked" if book == LOCKED else "paths" for book in excess["book"].unique()}
    together = study.ensemble_names
    configurations = 1 + sum((member.name,) != together for member in study.members)
    return configurations * len(kinds) * len(_configured(environment))


def _configured(environment: Environment) -> list[str]:
    """Settings under which a backtest was asked for in this home, as this proof wrote them down."""
    path = environment.home / "asked.json"
    known = json.loads(path.read_text()) if path.exists() else []
    own = json.dumps(environment.settings.model_dump(mode="json")["overrides"], sort_keys=True)
    known += [] if own in known else [own]
    path.write_text(json.dumps(known))
    return list(known)


def _equal_returns(environment: Environment, ledger: pl.DataFrame) -> bool:
    """The newest recorded series of the ensemble, against the stored excess averaged over the paths."""
    excess = environment.artifacts.table(environment.study.name, "backtest", "excess")
    for kind, books in (("paths", excess.filter(pl.col("book") != LOCKED)), (LOCKED, excess.filter(book=LOCKED))):
        rows = ledger.filter(pl.col("label") == "ensemble", pl.col("rows").str.starts_with(kind))
        means = books.group_by("session", maintain_order=True).agg(pl.col("excess").mean()).sort("session")
        if len(means) and rows["returns"].to_list()[-1] != means["excess"].to_list():
            return False
    return True


def _failed(environment: Environment) -> dict[str, Any]:
    """Scored, and then the result could not be stored: a file lies where the store wants its folder."""
    place = environment.home / "artifacts" / "files" / environment.study.name / "backtest"
    place.rename(place.with_name("backtest.aside"))
    place.write_bytes(b"")
    try:
        runner_of(environment).stages(["backtest"])
        failed = False
    except Exception:  # whatever the store says: what counts is what the ledger holds afterwards
        failed = True
    place.unlink()
    place.with_name("backtest.aside").rename(place)
    return counted(environment, "a run that failed after scoring" if failed else "a run that was to fail")


def finding(
    recorded: pl.DataFrame, numbers: pl.DataFrame, found: list[tuple[Study, list[Search]]], changed: pl.DataFrame
) -> Finding:
    """Held where everything scored is recorded, every number agrees, searches are refused, and every change is seen."""
    noise = [one for _, every in found for one in every if one.skill == 0.0]
    refused, naive = sum(not one.passes for one in noise), sum(one.naive for one in noise)
    hidden = sum(one.hidden >= {*NAIVE, *SEARCH} for one in noise)
    tried, detected = int(changed["rows tried"].sum()), int(changed["detected"].sum())
    counts_equal = bool((recorded["scored"] == recorded["recorded"]).all())
    returns_equal = bool(recorded["ensemble's returns equal"].all())
    agreed = int(numbers["agrees"].sum())
    held = (
        counts_equal and returns_equal and agreed == len(numbers) and detected == tried > 0
        and bool(noise) and refused >= REFUSED_SHARE * len(noise)
    )  # fmt: skip
    claims = [
        ("scored configurations recorded", int(recorded["scored"].max()), int(recorded["recorded"].max())),  # type: ignore[arg-type]
        ("golden numbers agree", len(numbers), agreed),
        ("best of 200 worthless configurations refused", len(noise), refused),
        ("changes of a ledger detected", tried, detected),
    ]
    table = pl.DataFrame(claims, schema=["what", "of", "found"], orient="row")
    text = (
        f"Of {len(noise)} searches over 200 worthless configurations, the best hand-picked, the gates refuse "
        f"{refused}; tests that see the chosen series alone let {naive} through, and {hidden} pass everything once the "
        f"search is hidden from the ledger. {tried:,} changes of ledgers, at every row, were tried and {detected:,} "
        "detected. "
        f"{agreed} of {len(numbers)} statistics agree with published numbers or the paper's procedure. The ledger "
        f"counted exactly what ran ({int(recorded['recorded'].max())} rows at most), also where the result was lost."  # type: ignore[arg-type]
    )
    return Finding(
        score=refused / len(noise) if noise else None,
        status=HELD if held else BROKEN,
        text=text,
        tables={
            "ledger and gates": table,
            "searches": pl.concat([searches_table(study, every) for study, every in found]),
            "recorded": recorded,
            "numbers": numbers,
            "changes": changed,
        },
        rule="held when counts are equal, all numbers agree, every change is detected and at least "
        f"{REFUSED_SHARE:.0%} of the searches are refused",
        counts={"searches": len(noise), "changes": tried, "numbers": len(numbers)},
    )
