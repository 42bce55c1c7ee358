"""What the commands of `foldgate` do. Parsing is in `cli.py`; heavy imports happen here, when a command runs."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime, timedelta
from datetime import time as wall_time
from pathlib import Path
from zoneinfo import ZoneInfo

from assets.arguments import day as day_of
from assets.arguments import month
from assets.console import Console
from assets.new_homes import absences, imported_settings, live_settings, simulated_settings, sizes_of, sold
from pipeline.asof.spec import MarketSpec
from pipeline.clock import instant
from pipeline.errors import BadInput, FoldgateError, IncompleteTables, ParityBroken, PromotionRefused
from pipeline.studies import STUDIES
from resources.environments import NOT_LIVE, SETTINGS_FILE, Environment, create_environment
from resources.freshness import latest_decided

Command = Callable[[Path, argparse.Namespace], int | None]
PROJECT = Path(__file__).resolve().parent.parent
PAGE = Path("docs") / "proof.md"
TEMPLATE = PROJECT / "dagster_home" / "dagster.yaml"

@contextmanager
def _runner(environment: Environment, console: Console) -> Iterator["Runner"]:  # type: ignore[name-defined]  # noqa: F821, UP037
    """A runner on the environment's persistent Dagster instance."""
    import dagster as dg

    from assets.definitions import build_definitions
    from assets.runs import Runner

    environment.watch = console.progress
    with dg.DagsterInstance.get() as instance:
        yield Runner(environment, instance, build_definitions, console.step)


def demo(home: Path, arguments: argparse.Namespace) -> int:
    """Backfill, research, promotion, then live sessions one by one, and the report."""
    console = Console("demo")
    settings = imported_settings(arguments, Path(arguments.data)) if arguments.data else simulated_settings(arguments)
    _clear(home)
    environment = create_environment(home, settings, TEMPLATE)
    eve, *live = _demo_sessions(environment, arguments.live_sessions)
    console.say(f"home {home}; history to {eve}, then {len(live)} live sessions")
    _say_absent(environment, console)
    environment.move_clock(environment.study.market.decided_at(eve))
    with _runner(environment, console) as runner:
        runner.ingest()
        runner.market()
        runner.research()
        promoted = _promote(runner, console)
        inferred = _live(runner, live, console) if promoted else []
        _write_report(environment, home / "report.html", console)
    if promoted:
        _require_exact(environment, inferred)
        console.say(f"{len(inferred)} sessions inferred; every one rebuilt by the research path, bit for bit")
    console.finish("champion serves" if promoted else "no champion: see the reasons above and the report")
    return 0


def _clear(home: Path) -> None:
    """Delete an earlier demo; never a folder that is something else."""
    if not home.exists() or not any(home.iterdir()):
        return
    settings = home / SETTINGS_FILE
    # Read as plain JSON, so that a demo of an older version can be replaced too.
    if not settings.exists() or json.loads(settings.read_text()).get("source") not in NOT_LIVE:
        raise BadInput(
            "a demo begins in an empty folder, or replaces an earlier demo",
            f"{home} holds something else",
            "choose another home with --home",
        )
    shutil.rmtree(home)


def _demo_sessions(environment: Environment, asked: int | None) -> list[date]:
    """The eve of the live sessions and the live sessions, by the announced calendar: the lake is still empty."""
    sizes, settings = sizes_of(environment.study), environment.settings
    count = sizes.live_sessions if asked is None else asked
    if count < 1:
        raise BadInput("a demo infers at least one live session", count, "leave out --live-sessions")
    assert settings.first_session
    assert settings.last_session
    sessions = environment.announced_calendar().between(settings.first_session, settings.last_session)
    if len(sessions) <= count + sizes.history:
        raise BadInput(
            f"history must outlast the live sessions by {sizes.history} sessions",
            f"{len(sessions)} sessions",
            "ask for fewer live sessions",
        )
    return sessions[-count - 1 :]


def _say_absent(environment: Environment, console: Console) -> None:
    """What the registered study has and this environment goes without."""
    for told in absences(STUDIES[environment.study.name], environment.source.tables()):
        console.say(told)


def _promote(runner, console: Console) -> bool:  # type: ignore[no-untyped-def]
    runner.judged("candidate")
    try:
        runner.stages(["champion"])
    except PromotionRefused as refused:
        console.say("promotion refused:")
        for reason in refused.observed.split("; "):
            console.say(f"  - {reason}")
        return False
    return True


def _live(runner, sessions: list[date], console: Console) -> list[date]:  # type: ignore[no-untyped-def]
    """Advance the simulated now session by session; each is checked by the research path a session later.

    Returns the sessions that were inferred: one whose tables never become complete has a recorded NO_SELECTION.
    """
    from assets.daily import check_session, deadline, run_session

    environment, inferred = runner.environment, list[date]()
    for session in sessions:
        environment.move_clock(runner.study.market.decided_at(session))
        try:
            run_session(runner, session)
        except IncompleteTables as absent:
            console.say(f"no selection, incomplete: {absent.observed}")
            environment.move_clock(max(deadline(environment, runner.study, session), environment.clock.now()))
            with suppress(IncompleteTables):
                run_session(runner, session)
            continue
        if inferred:
            check_session(runner, inferred[-1])
        inferred.append(session)
    if inferred:
        check_session(runner, inferred[-1])
    return inferred


def _require_exact(environment: Environment, sessions: Sequence[date]) -> None:
    """Every session's parity report is exact; else the first difference is raised."""
    wanted = [session.isoformat() for session in sessions]
    report = environment.artifacts.table(environment.study.name, "parity", "report", partitions=wanted)
    different = report.filter(~report["exact"])
    if len(different):
        raise ParityBroken(
            "live values equal the research path's, bit for bit",
            different.row(0, named=True),
            "`foldgate trace` shows the raw rows behind both; do not serve before they agree",
        )


def _write_report(environment: Environment, target: Path, console: Console) -> None:
    from assets.report import write_report

    write_report(environment, target)
    console.say(f"report {target}")


def report(home: Path, arguments: argparse.Namespace) -> int:
    _write_report(
        Environment(home),
        Path(arguments.output) if arguments.output else home / "report.html",
        Console("report"),
    )
    return 0


def ui(home: Path, arguments: argparse.Namespace) -> int:
    """`dagster dev` on the environment: web server and daemon, bound to loopback."""
    Environment(home)
    return subprocess.call(
        [
            sys.executable,
            "-m",
            "dagster",  # not by its name: an environment that is not activated has no such command
            "dev",
            "-w",
            str(PROJECT / "workspace.yaml"),
            "-h",
            arguments.host,
            "-p",
            str(arguments.port),
        ],
        cwd=PROJECT,
    )


def import_folder(home: Path, arguments: argparse.Namespace) -> int:
    """Create the environment of a folder and ingest it whole."""
    console, settings = Console("import"), imported_settings(arguments, Path(arguments.folder))
    environment = create_environment(home, settings, TEMPLATE)
    assert settings.last_session
    environment.move_clock(_day_of_decision_over(environment.study.market, settings.last_session))
    with _runner(environment, console) as runner:
        runner.ingest()
    _say_absent(environment, console)
    console.finish("imported; go on with `foldgate backfill`, `foldgate train`")
    return 0


def _day_of_decision_over(market: MarketSpec, session: date) -> datetime:
    """The last minute of the day on which a session is decided."""
    return instant(session + timedelta(days=market.decision_days_later), wall_time(23, 59), ZoneInfo(market.zone))


def init(home: Path, arguments: argparse.Namespace) -> int:
    """An environment on the vendor itself; nothing is fetched yet."""
    console, settings = Console("init"), live_settings(arguments)
    environment = create_environment(home, settings, TEMPLATE)
    vendor = environment.vendor
    for told in absences(STUDIES[settings.study], sold(vendor, settings.books)):
        console.say(told)
    token = f"set {vendor.token_variable}, then " if vendor.token_variable else ""
    console.say(f"home {home}; {token}`foldgate backfill --home {home}`")
    return 0


def backfill(home: Path, arguments: argparse.Namespace) -> int:
    first, last = month(arguments.first_month), month(arguments.last_month)
    console, environment = Console("backfill"), Environment(home)
    with _runner(environment, console) as runner:
        runner.ingest(first, last)
        runner.market(first, last)
    console.finish("done")
    return 0


def train(home: Path, _: argparse.Namespace) -> int:
    console = Console("train")
    with _runner(Environment(home), console) as runner:
        runner.research()
        runner.judged("candidate")
    console.finish("judged; `foldgate champion promote` moves the pointer if every gate is green")
    return 0


def infer(home: Path, arguments: argparse.Namespace) -> int:
    """Exit code 1 and a notification when no selection could be made."""
    from assets.daily import RETRIED, RETRY_SECONDS, deadline_passed, run_session
    from resources.notification import notify

    console, environment = Console("infer"), Environment(home)
    session = _session_of(environment, arguments.session)
    with _runner(environment, console) as runner:
        while True:
            try:
                run_session(runner, session)
                break
            except FoldgateError as failure:
                late = deadline_passed(environment, environment.study, session)
                if late or not (arguments.wait and isinstance(failure, RETRIED)):
                    notify(environment.settings.notify, f"foldgate infer {session}: {failure}")
                    raise
                console.say(f"{failure.observed}; asking again in {RETRY_SECONDS} s")
            time.sleep(RETRY_SECONDS)
    console.finish(f"{session}: see {environment.records(environment.study.name)}")
    return 0


def _session_of(environment: Environment, text: str) -> date:
    """The session asked for, or the latest one whose decision time has passed."""
    return day_of(text) if text else latest_decided(environment)


def parity(home: Path, arguments: argparse.Namespace) -> int:
    """Exit code 1 when any recorded session differs from the research path."""
    from assets.daily import check_session

    console, environment = Console("parity"), Environment(home)
    recorded = sorted(environment.artifacts.current(environment.study.name, "inference"))
    wanted = [arguments.session] if arguments.session else recorded
    if not wanted:
        raise BadInput("parity needs recorded sessions", 0, "run `foldgate infer` first")
    with _runner(environment, console) as runner:
        for session in wanted:
            check_session(runner, day_of(session))
    _require_exact(environment, [date.fromisoformat(session) for session in wanted])
    console.finish(f"{len(wanted)} sessions, exact")
    return 0


def champion(home: Path, arguments: argparse.Namespace) -> int:
    """Show the pointer and its history, re-run the promotion stage, or roll back."""
    console, environment = Console("champion"), Environment(home)
    champions = environment.champions(environment.study.name)
    if arguments.action == "show":
        for row in champions.history():
            why = "; ".join(row["reasons"])[:160]
            console.say(f"{row['number']:>4} {row['at'][:19]} {row['kind']:<12} {row['bundle'][:12]} {why}")
        serving = champions.current()
        console.finish(f"serving {serving['bundle'][:12]}" if serving else "no champion")
        return 0
    if arguments.action == "rollback":
        if not arguments.why:
            raise BadInput("a rollback is recorded with its reason", "no --why", "say why")
        body = champions.rollback(arguments.to, arguments.why, now=environment.clock.now())
        console.finish(f"serving {body['bundle'][:12]}")
        return 0
    with _runner(environment, console) as runner:
        return 0 if _promote(runner, console) else 1


def trace(home: Path, arguments: argparse.Namespace) -> int:
    from assets.tracing import trace_value

    return trace_value(
        Environment(home), arguments.asset, arguments.instrument, arguments.session, arguments.column, arguments.rows
    )


def why(home: Path, arguments: argparse.Namespace) -> int:
    from assets.explaining import explain

    return explain(Environment(home), arguments.code, arguments.session)


def check(home: Path, arguments: argparse.Namespace) -> int:
    from assets.feature_check import check_feature

    return check_feature(Environment(home), arguments.name)


def diagnose(home: Path, arguments: argparse.Namespace) -> int:
    """List the diagnostics, or run one; an unchanged one is kept and printed again."""
    from assets.diagnosing import asked_for, list_all, show

    console, environment = Console("diagnose"), Environment(home)
    if not arguments.name:
        import dagster as dg

        with dg.DagsterInstance.get() as instance:
            list_all(environment, instance)
        return 0
    diagnostic = asked_for(environment, arguments.name)
    with _runner(environment, console) as runner:
        runner.stages([diagnostic.name])
    console.finish(f"report {show(environment, diagnostic)}")
    return 0


def prove(home: Path, arguments: argparse.Namespace) -> int:
    """Run proofs one after the other; 1 when one is broken, after all have run."""
    from assets.proof.contract import HELD
    from assets.proving import EVERY_SIZE, PUBLISHED, asked_for, run_proof, write_page
    from assets.stage_runner import paced

    console, size = Console("prove"), "small" if arguments.small else PUBLISHED
    wanted, broken = asked_for(arguments.names), 0
    page = Path(arguments.output) if arguments.output else home / "proof.md" if arguments.small else PROJECT / PAGE
    for proof in wanted:
        with paced(lambda text, done, name=proof.name: console.progress(f"{name}: {text}, {done:.0%}")) as progress:
            said = run_proof(proof, size, home, progress).said
        console.step(f"{proof.name}: {said['status']}", said["seconds"])
        broken += said["status"] != HELD
        write_page(home, [size] if arguments.small else EVERY_SIZE, page)
    console.finish(f"{len(wanted) - broken} of {len(wanted)} held; page {page}")
    return 1 if broken else 0


def prune(home: Path, _: argparse.Namespace) -> int:
    from assets.pruning import prune as forget

    deleted = forget(Environment(home))
    Console("prune").finish(f"{len(deleted)} files deleted; raw tables keep every revision")
    return 0


def doctor(home: Path, _: argparse.Namespace) -> int:
    from assets.doctor import examine

    return examine(home, sys.stdout)
