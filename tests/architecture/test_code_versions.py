"""What a stage runs enters its code version: a change that nobody hashed would keep a stale model."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from pipeline.stages.ablation import ABLATION
from pipeline.stages.contract import Stage
from pipeline.stages.decisions import BY_POLICY
from pipeline.stages.market import BY_DECISION
from pipeline.stages.minute_diagnostics import MINUTE_DIAGNOSTICS, PROBES
from pipeline.stages.registry import STAGES

ROOM = "pipeline.stages"
CHOICES = {"BY_POLICY": BY_POLICY, "BY_DECISION": BY_DECISION, "decisions": BY_POLICY}
# What every stage is written in, and pictures, which no later stage reads.
EVERYWHERE = {f"pipeline.{name}" for name in (
    "calendars", "clock", "errors", "files", "fingerprints", "frames", "reports", "spec", "study",
)}  # fmt: skip


@cache
def read(module: str) -> tuple[dict[str, ast.stmt], dict[str, tuple[str, str]]]:
    """Top-level names that a module defines, and those that it imports from the house."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    defined: dict[str, ast.stmt] = {}
    imported: dict[str, tuple[str, str]] = {}
    for node in ast.parse(Path(spec.origin).read_text()).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                defined[name] = node
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                defined[name] = node
            case ast.ImportFrom(module=str(origin), names=names) if origin.startswith("pipeline"):
                imported |= {each.asname or each.name: (origin, each.name) for each in names}
    return defined, imported


def library(module: str, name: str) -> set[str]:
    """Library modules that a function of the room names, itself or through functions of the room that it names."""
    seen, waiting, found = set[tuple[str, str]](), [(module, name)], set[str]()
    while waiting:
        place, name = at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        defined, imported = read(place)
        if name in imported:
            origin = imported[name]
            if origin[0].startswith(f"{ROOM}."):
                waiting.append(origin)
            elif origin[0] != ROOM:
                found.add(origin[0])
        elif name in defined and name not in CHOICES and place != f"{ROOM}.contract":
            waiting += mentioned(place, defined[name])
    return found


def mentioned(module: str, node: ast.stmt) -> Iterator[tuple[str, str]]:
    """Names in a definition; where the study chooses an implementation, the function that is asked of each."""
    for part in ast.walk(node):
        match part:
            case ast.Name(id=name):
                yield module, name
            case ast.Attribute(
                value=ast.Call(func=ast.Name(id=choice)) | ast.Subscript(value=ast.Name(id=choice)), attr=asked
            ) if choice in CHOICES:
                yield from ((each.__name__, asked) for each in CHOICES[choice].values())


RUNS = [pytest.param(each, each.run.__module__, each.run.__name__, id=name) for name, each in STAGES.items()]
RUNS += [pytest.param(ABLATION.stage, ABLATION.run.__module__, ABLATION.run.__name__, id=ABLATION.name)]
RUNS += [pytest.param(each.stage, PROBES, f"run_{each.name}", id=each.name) for each in MINUTE_DIAGNOSTICS]


@pytest.mark.parametrize(("stage", "module", "function"), RUNS)
def test_every_library_module_that_a_stage_names_is_hashed(stage: Stage, module: str, function: str) -> None:
    """Pins a bug mended in the folds that leaves models as they were, because only `models` was hashed."""
    named = library(module, function)
    assert named
    covered = stage.code | EVERYWHERE
    unseen = {each for each in named if not any(each == room or each.startswith(f"{room}.") for room in covered)}
    assert unseen == set()
