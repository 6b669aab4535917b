"""Runs mutants: one loaded process forks for each, and the child runs the tests that touch it.

The child changes the function's code in place, so nothing is imported anew. It ends at the first
test that fails. A test that takes ten times its own CPU time is ended by a guard.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from scripts.mutate import forking
from scripts.mutate.operators import Mutant

GUARD_TIMES, GUARD_LEAST_S = 10, 15.0
SURVIVED, FAILED, NOT_APPLIED = 0, 1, 2
OUTCOMES = {SURVIVED: "survived", NOT_APPLIED: "not applied", forking.GUARDED: "guard"}
"""What an exit code says; every other says that the mutant was killed."""

Tell = Callable[["Task", str, str], None]
"""Called with the task, what became of its mutant, and the test that ran last."""


@dataclass(frozen=True)
class Task:
    """A mutant, and the tests for it in order with the CPU seconds that each takes."""

    mutant: Mutant
    tests: dict[str, float]


class Loaded:
    """A pytest plugin: in place of running the collected tests, it gives them to `use`."""

    def __init__(self, use: Callable[[dict[str, pytest.Item]], None]) -> None:
        self._use = use

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Failed("some test files cannot be imported")
        self._use({item.nodeid: item for item in session.items})
        return True


def jobs(tasks: list[Task], items: dict[str, pytest.Item], tell: Tell) -> Iterator[forking.Job]:
    for task in tasks:
        work = functools.partial(_try, task, items)
        yield forking.Job(work, GUARD_LEAST_S, functools.partial(_ended, task, tell))


def _ended(task: Task, tell: Tell, place: Path, code: int) -> None:
    at = place / "at"
    tell(task, OUTCOMES.get(code, "killed"), at.read_text() if at.exists() else "")


def _try(task: Task, items: dict[str, pytest.Item], place: Path) -> int:
    chosen = [items[test] for test in task.tests]
    hush(place, chosen, Path(os.devnull))
    try:
        apply(task.mutant)
    except Exception:
        return NOT_APPLIED
    for item, following in turns(chosen):
        seconds = GUARD_TIMES * task.tests[item.nodeid]
        forking.limit_cpu(time.process_time() + max(seconds, GUARD_LEAST_S))
        if not passes(item, following, place):
            return FAILED
    return SURVIVED


def turns(items: list[pytest.Item]) -> Iterator[tuple[pytest.Item, pytest.Item | None]]:
    """Each test with the one that follows: pytest must know what to take down between them."""
    return zip(items, [*items[1:], None], strict=True)


def passes(item: pytest.Item, following: pytest.Item | None, place: Path) -> bool:
    """Runs one test; `place` says which one it is, should the process be ended."""
    (place / "at").write_text(item.nodeid)
    failed = [one for one in runtestprotocol(item, log=False, nextitem=following) if one.failed]
    for report in failed:
        print(report.nodeid, report.longreprtext, flush=True)
    return not failed


def hush(place: Path, items: list[pytest.Item], log: Path) -> None:
    """What this process writes goes to `log`, and its temporary files to `place`."""
    null = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for number, end in enumerate((null, output, output)):
        os.dup2(end, number)
    tempfile.tempdir = str(place)
    for item in items[:1]:
        item.config._tmp_path_factory._basetemp = place  # type: ignore[attr-defined]


def apply(mutant: Mutant) -> None:
    """Makes the change in this process. Raises LookupError where its function is not found."""
    name = mutant.module.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    module = importlib.import_module(name)
    if mutant.limit is not None:
        _set_limit(module, *mutant.limit)
        return
    code = _code_of(compile(mutant.apply(), str(module.__file__), "exec"), mutant.function)
    target: object = module
    for part in mutant.function.split("."):
        target = vars(target)[part]
    for function in _functions(target):
        if function.__code__.co_firstlineno == code.co_firstlineno:
            function.__code__ = code
            return
    raise LookupError(mutant.name)


def _set_limit(module: types.ModuleType, name: str, value: int) -> None:
    """In the module, and in every other of ours that took the name from it."""
    old = getattr(module, name)
    for other in list(sys.modules.values()):
        if other is module or (
            other.__name__.startswith(("attestation.", "contracts.", "enclave.", "client_sdk."))
            and type(vars(other).get(name)) is int
            and vars(other)[name] == old
        ):
            setattr(other, name, value)


def _code_of(code: types.CodeType, qualified: str) -> types.CodeType:
    for part in qualified.split("."):
        code = next(
            item
            for item in code.co_consts
            if isinstance(item, types.CodeType) and item.co_name == part
        )
    return code


def _functions(target: object) -> Iterator[types.FunctionType]:
    """What stands behind a name: the function itself, or those under its decorators."""
    if isinstance(target, types.FunctionType):
        yield target
    if isinstance(target, property):
        for part in (target.fget, target.fset, target.fdel):
            yield from _functions(part)
    if isinstance(target, functools.cached_property):
        yield from _functions(target.func)
    for name in ("__func__", "__wrapped__"):
        if (inner := getattr(target, name, None)) is not None:
            yield from _functions(inner)
