"""Runs jobs in forked children, some at once, each under guards that a busy machine cannot trip.

The first guard is CPU time (RLIMIT_CPU). The second ends a child that has used no CPU for a long
time: it waits for something that will not come. What a guard ends is told apart from what fails.
"""

from __future__ import annotations

import gc
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

IDLE_S = 240.0
"""A runnable process gets some CPU within seconds, even beside twenty others on one core."""

GUARDED = 100
"""In place of an exit code: a guard ended the child."""

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Job:
    """`work` gets an empty folder, which is deleted after `ended`, and returns the exit code.
    `ended` is called in the first process."""

    work: Callable[[Path], int]
    cpu_s: float
    ended: Callable[[Path, int], None]


@dataclass
class _Child:
    job: Job
    place: Path
    spent: float = 0.0
    moved: float = 0.0
    look: float = 0.0


def run(jobs: Iterable[Job], at_once: int) -> None:
    """Runs every job, `at_once` of them at the same time."""
    running: dict[int, _Child] = {}
    waiting = iter(jobs)
    gc.freeze()  # what is loaded stays shared with the children
    try:
        while _fill(running, waiting, at_once) or running:
            _reap(running)
    finally:
        for number in running:
            _kill(number)


def _fill(running: dict[int, _Child], waiting: Iterator[Job], at_once: int) -> bool:
    """Starts children; whether there may be more to start."""
    while len(running) < at_once:
        job = next(waiting, None)
        if job is None:
            return False
        place = Path(tempfile.mkdtemp(prefix="umay-mutate-"))
        if (number := os.fork()) == 0:
            _be_child(job, place)
        running[number] = _Child(job, place, moved=time.monotonic())
    return True


def _be_child(job: Job, place: Path) -> None:
    code = 1
    with suppress(BaseException):
        os.setsid()  # its own group, to be ended with what it starts
        limit_cpu(job.cpu_s)
        code = job.work(place)
    os._exit(code)


def limit_cpu(seconds: float) -> None:
    """Of CPU time, counted from the process's beginning, after which this process is ended."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, hard))


def _reap(running: dict[int, _Child]) -> None:
    for number, child in list(running.items()):
        ended, status = os.waitpid(number, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            guarded = code in (-signal.SIGXCPU, -signal.SIGKILL)
            _end(running, number, GUARDED if guarded else code)
        elif time.monotonic() > child.look and _idles(number, child):
            _kill(number)
            os.waitpid(number, 0)
            _end(running, number, GUARDED)
    time.sleep(0.01)


def _idles(number: int, child: _Child) -> bool:
    """Whether the child has used no CPU for IDLE_S."""
    child.look = time.monotonic() + IDLE_S / 100
    if (spent := _cpu_of(number)) != child.spent:
        child.spent, child.moved = spent, time.monotonic()
    return time.monotonic() - child.moved > IDLE_S


def _cpu_of(number: int) -> float:
    """CPU seconds of a process and of its children that have ended (proc(5), fields 14 to 17)."""
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) * _TICK_S


def _end(running: dict[int, _Child], number: int, code: int) -> None:
    child = running.pop(number)
    _kill(number)  # what it started and left behind
    child.job.ended(child.place, code)
    shutil.rmtree(child.place, ignore_errors=True)


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
