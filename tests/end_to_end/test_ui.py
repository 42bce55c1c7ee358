"""The UI of an environment: it starts over a home, shows the asset graph, and stops when asked."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from assets.keys import PROOF_GROUP
from assets.proof.registry import PROOFS
from assets.study_graph import BUILDERS
from tests.browser import dom
from tests.tiny import Tiny, copy_of

pytestmark = [pytest.mark.xdist_group("tiny"), pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
GRAPH = "{assetNodes{assetKey{path} groupName partitionDefinition{type}}}"
START_SECONDS, STOP_SECONDS = 60, 20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(home: Path) -> Iterator[str]:
    """What `make ui` runs, on loopback and a free port; stopped by Ctrl-C, as a person would."""
    port = free_port()
    command = [sys.executable, "-m", "assets.cli", "ui", "--home", str(home), "--port", str(port)]
    # A shell that starts something with & makes it ignore SIGINT; its children would, too.
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        yield f"http://127.0.0.1:{port}"
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=STOP_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def asset_graph(url: str) -> list[dict[str, object]]:
    """The graph as soon as the server answers with one."""
    for _ in range(START_SECONDS * 4):
        try:
            nodes = httpx.post(f"{url}/graphql", json={"query": GRAPH}, timeout=10).json()["data"]["assetNodes"]
        except (httpx.TransportError, ValueError):
            nodes = []
        if nodes:
            return nodes
        time.sleep(0.25)
    raise AssertionError(f"no asset graph within {START_SECONDS} s")


@pytest.fixture(scope="module")
def server(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server over a home as `foldgate demo` leaves it; nothing answers once it was told to stop."""
    home = copy_of(tiny.eve, tmp_path_factory.mktemp("ui") / "home").environment.home
    shutil.copy(ROOT / "dagster_home" / "dagster.yaml", home)
    with served(home) as url:
        yield url
    with pytest.raises(httpx.TransportError):
        httpx.get(url, timeout=2)


def test_the_ui_answers_with_the_asset_graph(tiny: Tiny, server: str) -> None:
    """Pins a UI that does not start over a home, answers with another graph, or goes on when it is stopped."""
    study, nodes = tiny.runner.study, asset_graph(server)
    assert len(nodes) == len(BUILDERS) + len(study.table_names) + 1 + len(PROOFS)
    assert {str(node["groupName"]) for node in nodes} == {study.name, study.market.vendor, PROOF_GROUP}


def test_a_browser_draws_the_asset_graph(tiny: Tiny, server: str, tmp_path: Path) -> None:
    """Pins a server that answers its interface and shows an empty page."""
    asset_graph(server)
    page = f"{server}/locations/assets.definitions/asset-groups/{tiny.runner.study.name}"
    shown = dom(page, tmp_path / "profile", milliseconds=15_000)
    stages = [build.__name__.removeprefix("build_") for build in BUILDERS]
    assert [stage for stage in stages if f">{stage}<" not in shown] == []
