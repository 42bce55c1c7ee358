"""What a leak is, what a catcher is, and how one real thing is replaced by another for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets.proof.leaks.worlds import World

Check = Callable[[World, Path], int]
"""(world, an empty folder) -> rows compared; a red is raised."""


@dataclass(frozen=True)
class Catcher:
    """A check of the house that a leak must turn red.

    Parameters
    ----------
    name : str
    where : str
        The module that holds it.
    check : callable
        Green on a clean house.
    red : type of Exception
        What it raises.
    rule : str
        Part of the message of its red: a mutation that merely crashes is not caught.
    """

    name: str
    where: str
    check: Check
    red: type[Exception]
    rule: str


@dataclass(frozen=True)
class Leak:
    """One mutation.

    Parameters
    ----------
    name : str
    mutates : str
        The real function or value that is replaced.
    catcher : Catcher
    apply : callable
        () -> a context in which the house leaks.
    """

    name: str
    mutates: str
    catcher: Catcher
    apply: Callable[[], AbstractContextManager[Any]]


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of a module or class, or an entry of a mapping, replaced until the context ends."""
    entry = isinstance(owner, dict)
    before = owner[name] if entry else owner.__dict__[name]
    _put(owner, name, value, entry)
    try:
        yield
    finally:
        _put(owner, name, before, entry)


def _put(owner: Any, name: str, value: Any, entry: bool) -> None:
    if entry:
        owner[name] = value
    else:
        setattr(owner, name, value)
