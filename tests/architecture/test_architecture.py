"""The house rules as failing tests: thin asset bodies, silent imports, no study names outside `studies/`, one clock."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.studies import STUDIES

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = sorted((ROOT / "pipeline").rglob("*.py"))
HOUSE = [*LIBRARY, *sorted((ROOT / "assets").rglob("*.py")), *sorted((ROOT / "resources").rglob("*.py"))]
MOST_STATEMENTS = 12
WALL_CLOCK = {"time.time", "datetime.now", "datetime.utcnow", "date.today", "datetime.today"}


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _assets(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any(
            "asset" in ast.unparse(d).split("(")[0] for d in node.decorator_list
        ):
            yield node


@pytest.mark.parametrize("path", sorted((ROOT / "assets").glob("*.py")), ids=lambda p: p.name)
def test_asset_bodies_are_thin(path: Path) -> None:
    """Pins logic creeping into Dagster bodies, where only a run can test it."""
    for body in _assets(_tree(path)):
        count = sum(isinstance(node, ast.stmt) for statement in body.body for node in ast.walk(statement))
        assert count <= MOST_STATEMENTS, f"{path.name}:{body.name} has {count} statements"


def test_there_are_asset_bodies_to_check() -> None:
    """Pins the test above passing because it found nothing."""
    found = [body.name for path in (ROOT / "assets").glob("*.py") for body in _assets(_tree(path))]
    assert len(found) >= 16, found


@pytest.mark.parametrize(
    "path", [p for p in HOUSE if "studies" not in p.parts], ids=lambda p: str(p.relative_to(ROOT))
)
def test_no_study_is_named_outside_studies(path: Path) -> None:
    """Pins a branch on a study's name: the stage graph must stay general."""
    for node in ast.walk(_tree(path)):
        words = (
            {node.id}
            if isinstance(node, ast.Name)
            else {node.value}
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            else set()
        )
        assert not (words & set(STUDIES)), f"{path.name}:{node.lineno} names a study"


@pytest.mark.parametrize("path", sorted((ROOT / "pipeline" / "studies").glob("*.py")), ids=lambda p: p.name)
def test_studies_are_values(path: Path) -> None:
    """Pins logic in a study: no def, no if."""
    wrong = [
        node
        for node in ast.walk(_tree(path))
        if isinstance(node, (ast.FunctionDef, ast.If, ast.IfExp, ast.Lambda))
    ]
    assert not wrong


@pytest.mark.parametrize(
    "path", [p for p in HOUSE if p.name != "clock.py"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_only_the_clock_reads_the_wall_clock(path: Path) -> None:
    """Pins a result that depends on when it was computed."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in WALL_CLOCK, f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_reads_no_environment(path: Path) -> None:
    """Pins hidden inputs of pure functions."""
    assert "os.environ" not in path.read_text()
    assert "getenv" not in path.read_text()


@pytest.mark.parametrize("path", HOUSE, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_pickled(path: Path) -> None:
    """Pins formats whose loading runs code."""
    imported = {
        alias.name for node in ast.walk(_tree(path)) if isinstance(node, ast.Import) for alias in node.names
    }
    assert not imported & {"pickle", "joblib", "dill", "cloudpickle"}


WATCHED_IMPORT = """
import dagster, dagster_duckdb, duckdb, httpx, lightgbm, numba, numpy, onnx, onnxruntime, polars, pyarrow, pydantic
import importlib, os, sklearn, sys, tenacity, torch
root, names = sys.argv[1], sys.argv[2:]

def ours():
    frame = sys._getframe(2)
    while frame and (frame.f_code.co_filename == os.__file__ or frame.f_code.co_filename.startswith("<frozen")):
        frame = frame.f_back
    file = frame.f_code.co_filename if frame else ""
    return file.startswith(root) and "site-packages" not in file

def audit(event, args):
    writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax")
    if event == "socket.connect" or (writes and "__pycache__" not in str(args[0])):
        raise RuntimeError(f"import does I/O: {event} {args}")

class Watched(dict):
    def __getitem__(self, key):
        if ours():
            raise RuntimeError(f"import reads the environment: {key}")
        return super().__getitem__(key)
    def get(self, key, default=None):
        if ours():
            raise RuntimeError(f"import reads the environment: {key}")
        return super().get(key, default)

sys.addaudithook(audit)
os.environ = Watched(os.environ)
for name in names:
    importlib.import_module(name)
"""


def _watched_import(root: Path, names: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WATCHED_IMPORT, str(root), *names]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_imports_do_no_io_and_read_no_environment() -> None:
    """Pins imports with side effects: a module that writes, connects or reads the environment while imported."""
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in HOUSE]
    done = _watched_import(ROOT, names)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("line", ["os.environ['HOME']", "os.environ.get('HOME')", "open('left_behind', 'w')"])
def test_an_import_with_side_effects_is_seen(tmp_path: Path, line: str) -> None:
    """Pins the test above being unable to fail."""
    (tmp_path / "guilty.py").write_text(f"import os\n{line}\n")
    assert "import " in _watched_import(tmp_path, ["guilty"]).stderr


def test_the_definitions_need_no_token(tmp_path: Path) -> None:
    """Pins a code location that cannot load without secrets."""
    from assets.definitions import build_definitions
    from resources.environments import Settings, create_environment

    environment = create_environment(tmp_path / "home", Settings(source="tushare"), tmp_path / "absent.yaml")
    assert build_definitions(environment).get_repository_def().get_all_jobs()
