"""Running jobs in this process: the same code for the command line, the daily op and the tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import dagster as dg
from dagster._core.errors import DagsterAssetCheckFailedError

from assets.jobs import RESEARCH_STAGES
from assets.keys import stage_key
from assets.partitions import MEMBER, SPLIT
from pipeline.stages.contract import months
from pipeline.study import Study
from resources.environments import Environment
from resources.freshness import latest_decided

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
Report = Callable[[str, float], None]
Build = Callable[[Environment], dg.Definitions]


class Runner:
    """Executes jobs of one environment on one Dagster instance.

    Parameters
    ----------
    build : callable
        Environment -> its definitions (handed in, because the definitions hold the daily job, which runs this).
    report : callable
        Told each step's name and its seconds when it is done.
    """

    def __init__(
        self,
        environment: Environment,
        instance: dg.DagsterInstance,
        build: Build,
        report: Report = lambda step, seconds: None,
    ) -> None:
        self.environment, self.instance, self.report, self._build = environment, instance, report, build
        self.refresh()

    def refresh(self) -> None:
        """Build the definitions anew: partitions depend on what the lake knows of the calendar."""
        self._repository = self._build(self.environment).get_repository_def()

    @property
    def study(self) -> Study:
        return self.environment.study

    def job(
        self,
        name: str,
        *,
        first: str | None = None,
        last: str | None = None,
        step: str = "",
        tags: dict[str, str] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Run a named job, over one partition or a range of them; raises what the first failing step raised."""
        return self._execute(self._repository.get_job(name), None, first, last, step or name, tags)

    def stages(
        self, names: Sequence[str], *, first: str | None = None, last: str | None = None, step: str = ""
    ) -> dg.ExecuteInProcessResult:
        """Run stages of the study that share a partition definition."""
        keys = [stage_key(self.study, name) for name in names]
        job = self._repository.get_implicit_job_def_for_assets(keys)
        assert job is not None
        return self._execute(job, keys, first, last, step or " + ".join(names), None)

    def _execute(
        self,
        job: dg.JobDefinition,
        keys: list[dg.AssetKey] | None,
        first: str | None,
        last: str | None,
        step: str,
        tags: dict[str, str] | None,
    ) -> dg.ExecuteInProcessResult:
        started = time.perf_counter()
        ranged = {RANGE_START: first, RANGE_END: last or first} if first and last and first != last else {}
        result = job.execute_in_process(
            instance=self.instance,
            run_config=QUIET,
            asset_selection=keys,
            raise_on_error=True,
            partition_key=first if first and not ranged else None,
            tags={**ranged, **(tags or {})},
        )
        self.report(step, time.perf_counter() - started)
        return result

    def ingest(self, first_month: str | None = None, last_month: str | None = None) -> None:
        """Every vendor table, those that grow by session over a range of months, then the manifest.

        A lake that knows no calendar yet is given the snapshots first: the range and the partitions follow from it.
        """
        vendor = self.study.market.vendor
        if not self.environment.knows_calendar:
            self.job(f"{vendor}_snapshots", step="vendor snapshots")
            self.refresh()
        span = self._span(first_month, last_month)
        self.job(f"{vendor}_tables", first=span[0], last=span[-1], step=f"vendor tables {span[0]}..{span[-1]}")

    def market(self, first_month: str | None = None, last_month: str | None = None) -> None:
        """Panel, features and labels of a range of months."""
        span = self._span(first_month, last_month)
        self.job(
            f"{self.study.name}_market",
            first=span[0],
            last=span[-1],
            step=f"panel, features, labels {span[0]}..{span[-1]}",
        )

    def research(self) -> None:
        """Folds to scorecard, over every split and member."""
        splits, members = self.study.folds.splits, [member.name for member in self.study.members]
        corners = [
            str(dg.MultiPartitionKey({SPLIT: s, MEMBER: m}))
            for s, m in ((splits[0], members[0]), (splits[-1], members[-1]))
        ]
        self.stages(["folds"])
        self.stages(
            ["models"],
            first=corners[0],
            last=corners[1],
            step=f"models ({len(splits)} splits x {len(members)} members)",
        )
        self.stages(["calibrators"], first=splits[0], last=splits[-1])
        self.stages(["positions"], first=splits[0], last=splits[-1])
        self.stages(list(RESEARCH_STAGES[4:6]))
        self.judged("scorecard")

    def judged(self, stage: str) -> None:
        """Run a stage whose gates are blocking checks: a red one ends that run; the verdicts are stored anyway."""
        try:
            self.stages([stage])
        except DagsterAssetCheckFailedError as red:
            self.report(f"{stage}: {str(red).splitlines()[-1].strip()}", 0.0)

    def _span(self, first: str | None, last: str | None) -> list[str]:
        """The range asked for, or every month from the environment's first session to its latest decision."""
        calendar, settings = self.environment.calendar(), self.environment.settings
        end = min(settings.last_session or calendar.known_until, latest_decided(self.environment))
        known = months(calendar.between(settings.first_session or calendar.sessions[0], end))
        chosen = [month for month in known if (first or known[0]) <= month <= (last or known[-1])]
        return chosen or [first or known[-1]]
