"""Vendor faults in any order that a machine can think of: ingest through them, settle, and never be deceived."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from assets.proof.fault_server import Armed
from assets.proof.faulted_ingestion import CHANNELS, NEVER, Campaign, Rig, rig_of
from assets.proof.faults_of_http import SHORT_TIMEOUT
from pipeline.studies import STUDIES

FAST = 5.0  # seconds; faults that are a silence are left to the single trials


class Ingestions(RuleBasedStateMachine):
    """One lake, and ingestions that follow each other through whatever weather."""

    rig: Rig

    @initialize()
    def begin(self) -> None:
        self.campaign = Campaign(self.rig, FAST)
        self.ends: list[str] = []

    @rule(rng=st.randoms(use_true_random=True), faults=st.integers(1, 4))
    def ingest(self, rng: Random, faults: int) -> None:
        """A table through some faults that can befall it, each from some request on and for a while."""
        # The list of codes stays as it is: what is not listed is not asked for, and that is no fault of the way.
        spec = rng.choice([spec for spec in self.rig.specs if spec.name != self.campaign.environment.vendor.listing])
        able = [fault for fault in self.rig.faults() if fault.ends(spec) and fault.timeout > SHORT_TIMEOUT]
        armed = [Armed(fault, rng.choice((1, 2, fault.times)), rng.randint(0, 2)) for fault in rng.sample(able, faults)]
        self.ends.append(self.campaign.attempt(spec, armed))

    @rule()
    def settle(self) -> None:
        """Fair weather makes the lake the truth, and another run begins from there."""
        for judged in self.campaign.settle():
            assert judged.safe, judged
        self.campaign = Campaign(self.rig, FAST)

    @invariant()
    def nobody_is_deceived(self) -> None:
        """No gap that nobody was told of, and no error that names nothing."""
        assert not any(end.startswith(NEVER) for end in getattr(self, "ends", []))

    def teardown(self) -> None:
        for judged in self.campaign.settle():
            assert judged.safe, judged


@pytest.mark.parametrize("channel", [channel for channels in CHANNELS.values() for channel in channels])
def test_no_order_of_faults_deceives(channel: str) -> None:
    """Pins a gap that only two faults together leave: a retry that forgets a page, a stop that keeps half a day."""
    vendor = next(name for name, channels in CHANNELS.items() if channel in channels)
    study = next(study for study in STUDIES.values() if study.market.vendor == vendor)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        rig = opened.enter_context(rig_of(channel, study, Path(folder), days=2))
        machine = type("IngestionsHere", (Ingestions,), {"rig": rig})
        run_state_machine_as_test(machine, settings=settings(
            max_examples=8, stateful_step_count=8, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck),
        ))  # fmt: skip
