"""`make mutate`: figures per module, and every mutant that no test notices.

What is found is kept in .mutate/, keyed by the function's source and the test file that killed, so
that a second run only repeats what has changed. What a guard has ended is counted apart.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import sys
import time
import tomllib
from bisect import bisect
from collections import Counter
from itertools import accumulate, islice
from pathlib import Path

import pytest

from scripts.mutate import forking, recording, running
from scripts.mutate.operators import Mutant, mutants
from scripts.mutate.recording import Recording
from scripts.mutate.running import Task
from scripts.mutate.verdicts import Verdicts
from scripts.rooms import ROOT

WHOLE = ("attestation/platforms", "attestation/x509", "attestation/channel", "attestation/verify")
SAMPLED = ("attestation/nvidia", "attestation/log", "contracts/light", "attestation/formats")
QUARTER, SEED = 4, "20261126"
SAMPLED_FLOOR = 0.95
BUDGET_S = 60.0
"""CPU seconds (under coverage) of tests for one mutant. What the nearest tests of that time do not
notice has survived: a check deserves a test that is near to it."""

OPEN = ("survived", "uncovered", "not applied")
EQUIVALENTS = Path(__file__).with_name("equivalents.toml")


def main() -> int:
    options = _options()
    place = ROOT / ".mutate"
    outcomes: dict[Mutant, str] = {}

    def use(items: dict[str, pytest.Item]) -> None:
        recorded = recording.record(place / "recording", items, _measured(), options.at_once)
        tasks = [_task(mutant, recorded) for mutant in _chosen(options.only)]
        verdicts = Verdicts(place / "verdicts.json")
        _run([task for task in tasks if task.tests], items, verdicts, options.at_once)
        outcomes.update((task.mutant, verdicts.of(task) or "uncovered") for task in tasks)

    code = pytest.main(recording.arguments(), plugins=[running.Loaded(use)])
    return code or _report(outcomes)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.mutate", description=__doc__)
    parser.add_argument("--only", default="", metavar="PATH", help="only modules under this path")
    parser.add_argument(
        "--at-once",
        type=int,
        default=os.cpu_count(),
        metavar="N",
        help="mutants that run at the same time (default: one per core)",
    )
    return parser.parse_args()


def _measured() -> list[Path]:
    return [path for room in (*WHOLE, *SAMPLED) for path in sorted((ROOT / room).rglob("*.py"))]


def _chosen(only: str) -> list[Mutant]:
    """Every mutant of WHOLE, a quarter of SAMPLED: which ones does not change with the others."""
    found = []
    for path in _measured():
        module = str(path.relative_to(ROOT))
        if module.startswith(only):
            every = mutants(module, path.read_text())
            found += [m for m in every if module.startswith(WHOLE) or _is_sampled(m)]
    return found


def _is_sampled(mutant: Mutant) -> bool:
    return hashlib.sha256(f"{SEED}{mutant.name}".encode()).digest()[0] % QUARTER == 0


def _task(mutant: Mutant, recorded: Recording) -> Task:
    tests = recorded.touching(mutant.module, *mutant.lines)
    if mutant.limit is not None:
        tests = recorded.sorted(_using(mutant.limit[0], recorded))
    seconds = {test: recorded.seconds[test] for test in tests}
    count = bisect(list(accumulate(seconds.values())), BUDGET_S) + 1
    return Task(mutant, dict(islice(seconds.items(), count)))


def _using(limit: str, recorded: Recording) -> list[str]:
    """Tests that run a line on which the limit's name stands."""
    found: dict[str, None] = {}
    for file in recorded.lines:
        for number, line in enumerate(_lines(file), 1):
            if limit in line and not line.startswith(limit):
                found |= dict.fromkeys(recorded.touching(file, number, number))
    return list(found)


@functools.cache
def _lines(file: str) -> list[str]:
    return (ROOT / file).read_text().splitlines()


def _run(
    tasks: list[Task], items: dict[str, pytest.Item], verdicts: Verdicts, at_once: int
) -> None:
    to_run = [task for task in tasks if verdicts.of(task) is None]
    begun, done = time.monotonic(), 0

    def tell(task: Task, outcome: str, test: str) -> None:
        nonlocal done
        done += 1
        verdicts.keep(task, outcome, test)
        if outcome != "killed":
            print(f"{outcome} {task.mutant.name} (line {task.mutant.lines[0]})", flush=True)
        if done % 50 == 0 or done == len(to_run):
            minutes = (time.monotonic() - begun) / 60
            print(f"{done} of {len(to_run)} mutants, {minutes:.1f} minutes", flush=True)

    print(f"{len(tasks)} mutants on covered lines, {len(to_run)} to run", flush=True)
    forking.run(running.jobs(to_run, items, tell), at_once)
    verdicts.save()


def _report(outcomes: dict[Mutant, str]) -> int:
    """Prints the figures of each module, what is open by name, and what the list says wrongly."""
    known = _equivalents()
    rows: dict[str, Counter[str]] = {}
    for mutant, outcome in outcomes.items():
        same = outcome in OPEN and mutant.name in known
        rows.setdefault(mutant.module, Counter())["equivalent" if same else outcome] += 1
        if outcome in OPEN and not same:
            print(f"OPEN ({outcome}) {mutant.name} (line {mutant.lines[0]})")
        if outcome == "killed" and mutant.name in known:
            print(f"NOT EQUIVALENT, a test fails: {mutant.name}")
    for module, counts in sorted(rows.items()):
        print(json.dumps({"module": module, "mutants": counts.total(), **counts}))
    whole, sampled = _sum(rows, WHOLE), _sum(rows, SAMPLED)
    share = sampled["killed"] / max(sampled.total() - sampled["equivalent"], 1)
    print(json.dumps({"whole": whole, "sampled": sampled, "sampled_killed": round(share, 4)}))
    return 1 if any(whole[outcome] for outcome in OPEN) or share < SAMPLED_FLOOR else 0


def _sum(rows: dict[str, Counter[str]], rooms: tuple[str, ...]) -> Counter[str]:
    return sum((row for module, row in rows.items() if module.startswith(rooms)), Counter[str]())


@functools.cache
def _equivalents() -> dict[str, str]:
    """Mutants that change nothing that can be seen, each with the reason."""
    rows = tomllib.loads(EQUIVALENTS.read_text()).get("equivalent", [])
    return {row["mutant"]: row["why"] for row in rows}


if __name__ == "__main__":
    sys.exit(main())
