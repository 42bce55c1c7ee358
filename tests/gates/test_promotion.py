"""Who may serve: every reason to refuse, and the pointer under races and rollbacks."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.errors import PromotionRefused, Tampered
from pipeline.gates.chain import Chain
from pipeline.gates.evaluate import VERDICT_SCHEMA
from pipeline.gates.promotion import Champions, Judgement, reasons_to_refuse
from pipeline.gates.spec import GateSpec, PromotionSpec

NOW = datetime(2026, 3, 2, 21, tzinfo=UTC)
SPEC = PromotionSpec(
    gates=(
        GateSpec(name="net_excess", bound=0.0),
        GateSpec(name="overfitting", bound=0.5, optional=True),
        GateSpec(name="replay", bound=0.0, applies_to="candidate"),
    ),
    max_age_days=30,
)
ANCHORS = {"evaluation": "e" * 64, "ledger_head": "1" * 64, "now": NOW}


def verdict(gate: str, subject: str, **changes: Any) -> dict[str, Any]:
    bound = next(spec.bound for spec in SPEC.gates if spec.name == gate)
    return {
        "gate": gate, "status": "pass", "value": 1.0, "bound": bound, "rule": "", "detail": "seen",
        "evaluation_hash": subject,
    } | changes  # fmt: skip


def judgements(*rows: dict[str, Any], age: timedelta = timedelta(days=1)) -> dict[str, Judgement]:
    """Green verdicts of both sides; `rows` replace the evaluation's."""
    evaluation = rows or (verdict("net_excess", "E"), verdict("overfitting", "E"))
    return {
        "evaluation": Judgement(pl.DataFrame(list(evaluation), schema=VERDICT_SCHEMA), "E", NOW - age),
        "candidate": Judgement(pl.DataFrame([verdict("replay", "B")], schema=VERDICT_SCHEMA), "B", NOW),
    }


def refusals(*rows: dict[str, Any], **arguments: Any) -> list[str]:
    return reasons_to_refuse(judgements(*rows, **arguments), SPEC, now=NOW)


def test_green_on_both_sides_is_no_reason() -> None:
    """Pins a gate that refuses everything, which nobody would notice in the other tests."""
    assert refusals() == []


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"status": "fail"}], "net_excess: fail, 1 against 0, seen"),
        ([{"status": "fail", "value": 0.5, "low": -2.0}], "net_excess: fail, 0.5 (from -2) against 0, seen"),
        ([{"status": "missing", "value": None}], "net_excess: missing, seen"),
        ([{"status": "not_applicable"}], "net_excess: not_applicable, 1 against 0, seen"),
        ([{"status": "unheard of"}], "net_excess: unheard of, 1 against 0, seen"),
        ([{"status": None}], "net_excess: None, 1 against 0, seen"),
        ([], "net_excess: missing"),
        ([{}, {}], "net_excess: judged twice"),
        ([{"status": "fail"}, {}], "net_excess: judged twice"),
        ([{"evaluation_hash": "F"}], "net_excess: judged another hash (F, now E)"),
        ([{"bound": -1.0}], "net_excess: judged against the bound -1.0, the study says 0.0"),
    ],
    ids=[
        "red", "red with an interval", "missing evidence", "not applicable", "unknown status", "no status",
        "no verdict", "twice", "twice, once green", "other hash", "bound moved",
    ],
)  # fmt: skip
def test_every_reason_against_a_gate(rows: list[dict[str, Any]], reason: str) -> None:
    """Pins each way in which a gate that was not passed could be overlooked."""
    given = [verdict("net_excess", "E", **changes) for changes in rows]
    assert refusals(*given, verdict("overfitting", "E")) == [reason]


def test_not_applicable_counts_only_where_the_spec_says_so() -> None:
    """Pins PBO of one configuration: allowed by the study, not by the gate."""
    assert refusals(verdict("net_excess", "E"), verdict("overfitting", "E", status="not_applicable")) == []


def test_verdicts_go_stale() -> None:
    """Pins old verdicts, verdicts from the future, and rewritten history."""
    assert refusals(age=timedelta(days=30)) == []
    assert refusals(age=timedelta(days=30, seconds=1))[0].startswith("stale: the evaluation verdicts are older")
    assert "dated in the future" in refusals(age=-timedelta(seconds=1))[0]
    rewritten = reasons_to_refuse(judgements(), SPEC, now=NOW, rewritten=["panel/2025-11"])
    assert rewritten == ["stale: panel/2025-11 was rewritten after it was pinned"]


def test_both_sides_are_needed() -> None:
    """Pins a champion judged on its recipe alone, or by a study that names no gate for its weights."""
    alone = {"evaluation": judgements()["evaluation"]}
    assert reasons_to_refuse(alone, SPEC, now=NOW) == ["replay: missing, no candidate was judged"]
    lax = SPEC.model_copy(update={"gates": SPEC.gates[:2]})
    assert reasons_to_refuse(judgements(), lax, now=NOW) == ["candidate: the study names no gate for it"]
    none = SPEC.model_copy(update={"gates": ()})
    assert len(reasons_to_refuse({}, none, now=NOW)) == 2


def test_every_reason_is_given_at_once() -> None:
    """Pins a refusal that names one reason a day."""
    found = refusals(verdict("net_excess", "E", status="fail"), age=timedelta(days=99))
    assert [reason.split(":")[0] for reason in found] == ["net_excess", "overfitting", "stale"]


def test_a_refusal_is_recorded_and_the_champion_stays(tmp_path: Path) -> None:
    """Pins a failed promotion that empties the pointer or leaves no trace; repeating it adds nothing."""
    champions = Champions(tmp_path)
    champions.promote("aaaa", [], **ANCHORS)
    for _ in range(2):
        with pytest.raises(PromotionRefused, match="net_excess: fail; stale"):
            champions.promote("bbbb", ["net_excess: fail", "stale"], **ANCHORS)
    assert champions.current()["bundle"] == "aaaa"  # type: ignore[index]
    assert [row["kind"] for row in champions.history()] == ["promoted", "refused"]


def test_the_first_candidate_may_be_refused(tmp_path: Path) -> None:
    """Pins a refusal that serves because nothing else does."""
    champions = Champions(tmp_path)
    with pytest.raises(PromotionRefused):
        champions.promote("aaaa", ["red"], **ANCHORS)
    assert champions.current() is None


def test_promoting_the_champion_again_changes_nothing(tmp_path: Path) -> None:
    """Pins a daily job that fills the record with the same promotion."""
    champions = Champions(tmp_path)
    first = champions.promote("aaaa", [], **ANCHORS)
    assert champions.promote("aaaa", [], **ANCHORS | {"now": NOW + timedelta(days=1)}) == first
    assert len(champions.history()) == 1


def test_rollback_moves_the_pointer_and_says_why(tmp_path: Path) -> None:
    """Pins a rollback that forgets what it left, and one that cannot be undone."""
    champions = Champions(tmp_path)
    for bundle in ("aa11", "bb22"):
        champions.promote(bundle, [], **ANCHORS)
    body = champions.rollback("aa", "drift", now=NOW)
    assert (body["bundle"], body["kind"], body["reasons"]) == ("aa11", "rolled_back", ["drift"])
    assert champions.current() == body
    assert champions.rollback("aa11", "again", now=NOW) == body
    assert champions.rollback("bb", "was fine", now=NOW)["bundle"] == "bb22"
    assert [row["kind"] for row in champions.history()] == ["promoted"] * 2 + ["rolled_back"] * 2


@pytest.mark.parametrize("name", ["", "ff", "refused", "a"])
def test_rollback_needs_one_earlier_champion(name: str, tmp_path: Path) -> None:
    """Pins a rollback to what never served, to a refused bundle, or to whichever of two a prefix hits."""
    champions = Champions(tmp_path)
    for bundle in ("aa11", "aa22"):
        champions.promote(bundle, [], **ANCHORS)
    with pytest.raises(PromotionRefused):
        champions.promote("refused", ["red"], **ANCHORS)
    with pytest.raises(PromotionRefused, match="a rollback names"):
        champions.rollback(name, "why", now=NOW)
    assert champions.current()["bundle"] == "aa22"  # type: ignore[index]


def test_an_edited_pointer_is_seen(tmp_path: Path) -> None:
    """Pins a champion changed by hand in its file."""
    champions = Champions(tmp_path)
    champions.promote("aaaa", [], **ANCHORS)
    path = tmp_path / "000001.json"
    path.write_text(path.read_text().replace("aaaa", "evil"))
    with pytest.raises(Tampered):
        champions.current()


def test_a_run_reports_its_own_promotion(tmp_path: Path) -> None:
    """Pins a run that reads the pointer back after another process has moved it on."""

    class Busy(Chain):
        """A chain on which another process promotes right after each append."""

        def append(self, build):
            row = super().append(build)
            Champions(self.root).promote("other", [], **ANCHORS)
            return row

    champions = Champions(tmp_path)
    champions.chain = Busy(tmp_path)
    assert champions.promote("mine", [], **ANCHORS)["bundle"] == "mine"
    assert champions.rollback("mine", "why", now=NOW)["kind"] == "rolled_back"
    assert champions.current()["bundle"] == "other"  # type: ignore[index]


PROMOTER = """
import json, sys, time
from datetime import UTC, datetime
from pathlib import Path
from pipeline.gates.promotion import Champions
name, root = sys.argv[1], Path(sys.argv[2])
(root / f"ready.{name}").touch()
while len(list(root.glob("ready.*"))) < 2:
    time.sleep(0.001)
for i in range(15):
    made = Champions(root / "champions").promote(f"{name}{i}", [], evaluation="e", ledger_head="h",
                                                 now=datetime(2026, 3, 2, tzinfo=UTC))
    assert made["bundle"] == f"{name}{i}", made
"""


def test_two_processes_promote_at_once(tmp_path: Path) -> None:
    """Pins a lost promotion, and a run that reports another run's champion as its own."""
    running = [
        subprocess.Popen([sys.executable, "-c", PROMOTER, name, str(tmp_path)], cwd=Path(__file__).parents[2])
        for name in "xy"
    ]
    assert [process.wait(60) for process in running] == [0, 0]
    champions = Champions(tmp_path / "champions")
    history = [row["bundle"] for row in champions.history()]
    assert sorted(history) == sorted(f"{name}{i}" for name in "xy" for i in range(15))
    assert champions.current()["bundle"] == history[-1]  # type: ignore[index]
    assert json.loads((tmp_path / "champions" / "000030.json").read_text())["number"] == 30
