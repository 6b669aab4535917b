"""Runs mutants: one loaded process forks for each, and the child runs the tests that touch it.

The child changes the function's code in place, so nothing is imported anew. It ends at the first
test that fails. One that takes ten times as long as its tests take is ended and counts as killed.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from scripts.mutate.operators import Mutant

AT_ONCE = 2
GUARD_TIMES, GUARD_LEAST_S = 10, 60.0
SURVIVED, KILLED, NOT_APPLIED = 0, 1, 2


@dataclass(frozen=True)
class Task:
    """A mutant, the tests for it in order, and what those take in seconds."""

    mutant: Mutant
    tests: tuple[str, ...]
    seconds: float


@dataclass
class _Running:
    task: Task
    place: Path
    until: float


class Runner:
    """A pytest plugin: in place of the collected tests it runs the mutants."""

    def __init__(self, tasks: list[Task], tell: Callable[[Task, bool, str], None]) -> None:
        self._tasks, self._tell = tasks, tell

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        running: dict[int, _Running] = {}
        waiting = iter(self._tasks)
        try:
            while _fill(running, waiting, items) or running:
                self._reap(running)
        finally:
            for child in running:
                os.killpg(child, signal.SIGKILL)
        return True

    def _reap(self, running: dict[int, _Running]) -> None:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child in running:
            self._ended(running.pop(child), os.waitstatus_to_exitcode(status))
            return
        for number, one in list(running.items()):
            if time.monotonic() > one.until:
                os.killpg(number, signal.SIGKILL)
                os.waitpid(number, 0)
                self._ended(running.pop(number), KILLED)
        time.sleep(0.002)

    def _ended(self, one: _Running, code: int) -> None:
        if code == NOT_APPLIED:
            raise LookupError(f"not applied: {one.task.mutant.name}")
        killer = one.place / "killer"
        by = killer.read_text() if killer.exists() else "its guard or a crash"
        shutil.rmtree(one.place, ignore_errors=True)
        self._tell(one.task, code != SURVIVED, by if code != SURVIVED else "")


def _fill(
    running: dict[int, _Running], waiting: Iterator[Task], items: dict[str, pytest.Item]
) -> bool:
    """Starts children up to AT_ONCE; whether there was one to start."""
    while len(running) < AT_ONCE:
        task = next(waiting, None)
        if task is None:
            return False
        place = Path(tempfile.mkdtemp(prefix="umay-mutant-"))
        until = time.monotonic() + max(GUARD_TIMES * task.seconds, GUARD_LEAST_S)
        if (child := os.fork()) == 0:
            _child(task, place, [items[test] for test in task.tests if test in items])
        running[child] = _Running(task, place, until)
    return True


def _child(task: Task, place: Path, items: list[pytest.Item]) -> None:
    try:
        os.setpgid(0, 0)
        _hush(place, items)
        _apply_or_end(task.mutant)
        following = [*items[1:], None]
        for item, nextitem in zip(items, following, strict=True):
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
            if any(report.failed for report in reports):
                (place / "killer").write_text(item.nodeid)
                os._exit(KILLED)
        os._exit(SURVIVED)
    except BaseException:
        os._exit(KILLED)


def _apply_or_end(mutant: Mutant) -> None:
    try:
        apply(mutant)
    except Exception:
        os._exit(NOT_APPLIED)


def _hush(place: Path, items: list[pytest.Item]) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    tempfile.tempdir = str(place)
    for item in items[:1]:
        item.config._tmp_path_factory._basetemp = place  # type: ignore[attr-defined]


def apply(mutant: Mutant) -> None:
    """Makes the change in this process. Raises LookupError where its function is not found."""
    name = mutant.module.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    module = sys.modules[name]
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
