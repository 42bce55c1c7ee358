"""`foldgate`: names an environment's home, sets DAGSTER_HOME, and runs Dagster's own machinery over it."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from assets import commands, new_homes
from pipeline.errors import FoldgateError
from resources.environments import HOME_VARIABLE

PROJECT = Path(__file__).resolve().parent.parent
HomeOf = Callable[[argparse.Namespace], str]
INSTANT_HELP = (
    "an open session, YYYY-MM-DD; of a study that decides by the minute the minute's open in UTC, 2026-06-30T13:05"
)
EPILOG = "Nothing here is investment advice. Every command has --help."
DESCRIPTION = """From raw market tables to a gated champion, every number traceable.
Begin with `foldgate demo`, then look around with `foldgate ui`."""


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, "", False) else super()._get_help_string(action)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did what it says, 1 on a broken rule, 2 on wrong usage."""
    arguments = build_parser().parse_args(argv)
    home = Path(
        arguments.home or os.environ.get(HOME_VARIABLE) or PROJECT / "dagster_home" / arguments.home_of(arguments)
    ).resolve()
    os.environ[HOME_VARIABLE] = os.environ["DAGSTER_HOME"] = str(home)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning made two busy cores ten times slower
    warnings.filterwarnings("ignore", message=".*(currently in beta|currently in preview).*")
    try:
        return int(arguments.run(home, arguments) or 0)
    except FoldgateError as broken:
        print(f"foldgate {arguments.command}: {type(broken).__name__}", file=sys.stderr)
        print(
            f"  rule:     {broken.rule}\n  observed: {broken.observed}\n  remedy:   {broken.remedy}",
            file=sys.stderr,
        )
        return 1
    except BrokenPipeError:  # `foldgate trace … | head` closed the pipe: not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def build_parser() -> argparse.ArgumentParser:
    """All commands with their help."""
    parser = argparse.ArgumentParser(prog="foldgate", description=DESCRIPTION, epilog=EPILOG)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str, run: commands.Command, text: str, default_home: str = "demo", home_of: HomeOf | None = None
    ) -> argparse.ArgumentParser:
        made = subparsers.add_parser(
            name,
            help=text,
            description=text,
            epilog=EPILOG,
            formatter_class=Help,
        )
        made.add_argument(
            "--home",
            default="",
            help=f"the environment's folder (else ${HOME_VARIABLE}, else dagster_home/{default_home})",
        )
        made.set_defaults(run=run, home_of=home_of or (lambda _: default_home))
        return made

    def add_study(command: argparse.ArgumentParser) -> None:
        command.add_argument("--study", default="", help="one of the registered studies; else the first one")

    demo = add(
        "demo",
        commands.demo,
        "Build everything on a simulated market, or on a folder of the vendor's tables, and run sessions as if live.",
        home_of=new_homes.demo_home,
    )
    add_study(demo)
    demo.add_argument(
        "--profile", default="demo", choices=["tiny", "demo", "market", "long"],
        help="size of the simulated market (`market` of sessions, `long` of minutes)",
    )
    demo.add_argument("--data", default="", help="folder of the vendor's tables (Parquet or CSV) to use instead")
    demo.add_argument("--sessions", type=int, help="newest days of that folder; else 183 of minutes, or all")
    demo.add_argument(
        "--null", action="store_true", help="simulate a market without any signal: promotion must be refused"
    )
    demo.add_argument("--seed", type=int, help="seed of the simulated market")
    demo.add_argument(
        "--live-sessions", type=int, help="sessions inferred one by one as if live; else 10, or 3 days of minutes"
    )

    ui = add(
        "ui",
        commands.ui,
        "Open the Dagster web UI on an environment (loopback only unless --host says otherwise).",
    )
    ui.add_argument("--host", default="127.0.0.1", help="address to bind")
    ui.add_argument("--port", type=int, default=3000, help="port to bind")

    imported = add(
        "import",
        commands.import_folder,
        "Make an environment from a folder of the vendor's tables.",
        "imported",
        new_homes.import_home,
    )
    add_study(imported)
    imported.add_argument("folder", help="folder with one Parquet or CSV file a table, or Hive partitions of it")
    imported.add_argument("--sessions", type=int, help="newest days of that folder; else 183 of minutes, or all")

    init = add(
        "init",
        commands.init,
        "Make an environment that reads the real vendor (Tushare's token from $TUSHARE_TOKEN; Binance asks for none).",
        "tushare",
        new_homes.live_home,
    )
    add_study(init)
    init.add_argument("--books", default="", help="folder of book snapshots, where the vendor sells none")
    init.add_argument("--first-session", required=True, help="where history begins, YYYY-MM-DD")
    init.add_argument("--notify", default="", help="command run with the message of a failed daily job")
    init.add_argument("--retry-until", default="23:00", help="local hour after which incomplete tables fail the day")

    backfill = add("backfill", commands.backfill, "Fetch what the lake lacks and rebuild panel, features and labels.")
    backfill.add_argument("--first-month", help="YYYY-MM; else where history begins")
    backfill.add_argument("--last-month", help="YYYY-MM; else the current month")

    add(
        "train",
        commands.train,
        "Research from folds to scorecard, then refit the candidate; an interrupted run resumes at split x member.",
    )

    infer = add(
        "infer",
        commands.infer,
        "The daily job for one session: fetch, refresh, infer. Exits 1 when it could not.",
    )
    infer.add_argument("--session", default="", help="YYYY-MM-DD; else the latest whose decision time has passed")
    infer.add_argument("--wait", action="store_true", help="ask again while tables are incomplete, until the set hour")

    parity = add("parity", commands.parity, "Rebuild recorded sessions by the research path and compare bit for bit.")
    parity.add_argument("--session", default="", help="YYYY-MM-DD; else every recorded session")

    champion = add("champion", commands.champion, "Show, promote or roll back the champion: the bundle that may serve.")
    champion.add_argument(
        "action",
        choices=["show", "promote", "rollback"],
        help="its history; move the pointer if every gate is green; or back to an earlier bundle",
    )
    champion.add_argument("--to", default="", help="bundle hash (or its beginning) to roll back to")
    champion.add_argument("--why", default="", help="reason of a rollback, recorded")

    report = add("report", commands.report, "Write the self-contained HTML report of the environment's last run.")
    report.add_argument("--output", default="", help="file to write (else report.html in the home)")

    trace = add(
        "trace",
        commands.trace,
        "From a number to its origin: what it was made from, down to vendor rows and when each was known.",
    )
    trace.add_argument("asset", help="panel, features, labels, predictions or inference")
    trace.add_argument("instrument", help="any code of the security: 600000.SH, or 600000; or a symbol: BTCUSDT")
    trace.add_argument("session", help=INSTANT_HELP)
    trace.add_argument("column", help="a column of the asset, for example close, MA20, ret, score, taker_imbalance_5m")
    trace.add_argument("--rows", type=int, default=10, help="newest rows shown of each table; 0 shows all")

    why = add(
        "why",
        commands.why,
        "Why a name or a minute was selected; else which rule excluded, which limit or gate stopped, what came first.",
    )
    why.add_argument("code", help="any code of the security: 600000.SH, or 600000; or a symbol: BTCUSDT")
    why.add_argument("session", help=INSTANT_HELP)

    check = add(
        "check",
        commands.check,
        "A factor author's loop: laws, look-back, coverage, rank IC and turnover. Exits 1 when a law is red.",
    )
    check.add_argument("what", choices=["feature"], help="what to check")
    check.add_argument(
        "name", help="a feature, a family for all of its features, or (of sessions) a channel of Path A bar by bar"
    )

    diagnose = add(
        "diagnose",
        commands.diagnose,
        "Run a diagnostic, print what it found and write its HTML report. It trains nothing that serves.",
    )
    diagnose.add_argument("name", nargs="?", default="", help="which one; without it, all are listed")

    prove = add(
        "prove",
        commands.prove,
        "Put the house's claims to tests that could refute them, and write the page of what was found.",
        "proof",
    )
    prove.add_argument("names", nargs="*", default=[], help="which proofs; without a name, all of them")
    prove.add_argument("--small", action="store_true", help="the size that the tests run; nothing is published")
    prove.add_argument("--output", default="", help="page to write (else docs/proof.md; proof.md in the home if small)")

    add("prune", commands.prune, "Delete superseded stage results that no champion, pin or record reaches.")

    add(
        "doctor",
        commands.doctor,
        "What would go wrong today: packages, disk, token, calendar, tables, stages, ledger, champion.",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
