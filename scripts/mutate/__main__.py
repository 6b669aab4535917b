"""`make mutate`: figures per module, and every mutant that no test notices.

Verdicts are kept in .mutate/, keyed by the function's source and the test that killed, so that a
second run only repeats what has changed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

from scripts.mutate import recording
from scripts.mutate.operators import Mutant, mutants
from scripts.mutate.recording import Recording
from scripts.mutate.running import Runner, Task
from scripts.mutate.verdicts import Verdicts
from scripts.rooms import ROOT

WHOLE = ("attestation/verify", "attestation/platforms", "attestation/x509", "attestation/channel")
SAMPLED = ("attestation/nvidia", "attestation/log", "contracts/light", "attestation/formats")
QUARTER, SEED = 4, 20261126
SAMPLED_FLOOR = 0.95
EQUIVALENTS = Path(__file__).with_name("equivalents.toml")


def main() -> int:
    options = _options()
    place = ROOT / ".mutate"
    place.mkdir(exist_ok=True)
    chosen = _chosen(options.only)
    recorded = _recorded(place)
    verdicts = Verdicts(place / "verdicts.json")
    tasks = [task for mutant in chosen if (task := _task(mutant, recorded)).tests]
    open_tasks = [task for task in tasks if verdicts.of(task.mutant) is None]
    _run(open_tasks, verdicts, len(tasks))
    uncovered = [m for m in chosen if m not in {task.mutant for task in tasks}]
    return _report(tasks, verdicts, uncovered)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.mutate", description=__doc__)
    parser.add_argument("--only", default="", metavar="PATH", help="only modules under this path")
    return parser.parse_args()


def _chosen(only: str) -> list[Mutant]:
    """Every mutant of WHOLE, a seeded quarter of SAMPLED."""
    found = [m for room in WHOLE for m in _of_room(room, only)]
    rng = random.Random(SEED)  # noqa: S311
    for room in SAMPLED:
        every = _of_room(room, "")
        sampled = rng.sample(every, len(every) // QUARTER)
        found += [m for m in sampled if m.module.startswith(only)]
    return found


def _of_room(room: str, only: str) -> list[Mutant]:
    files = [path.relative_to(ROOT) for path in sorted((ROOT / room).rglob("*.py"))]
    return [
        mutant
        for path in files
        if str(path).startswith(only)
        for mutant in mutants(str(path), (ROOT / path).read_text())
    ]


def _recorded(place: Path) -> Recording:
    """The kept recording while nothing has changed since."""
    print_ = recording.fingerprint([*_sources(), *(ROOT / "tests").rglob("*.py")])
    path = place / f"recording-{print_[:16]}.json"
    if not path.exists():
        for old in place.glob("recording-*.json"):
            old.unlink()
        rooms = [ROOT / room for room in (*WHOLE, *SAMPLED)]
        every = [path for room in rooms for path in room.rglob("*.py")]
        recording.record(place, every).save(path)
    return Recording.load(path)


def _sources() -> list[Path]:
    return [path for room in ("attestation", "contracts") for path in (ROOT / room).rglob("*.py")]


def _task(mutant: Mutant, recorded: Recording) -> Task:
    first, last = mutant.lines
    tests = recorded.touching(mutant.module, first, last)
    if mutant.limit is not None:
        tests = _using(mutant, recorded)
    return Task(mutant, tuple(tests), sum(recorded.seconds[test] for test in tests))


def _using(mutant: Mutant, recorded: Recording) -> list[str]:
    """Tests that run a line on which the limit's name stands."""
    assert mutant.limit is not None
    found: dict[str, None] = {}
    for file in recorded.lines:
        for number, line in enumerate((ROOT / file).read_text().splitlines(), 1):
            if mutant.limit[0] in line and not line.startswith(mutant.limit[0]):
                found |= dict.fromkeys(recorded.touching(file, number, number))
    return list(found)


def _run(tasks: list[Task], verdicts: Verdicts, total: int) -> None:
    begun, done = time.monotonic(), 0

    def tell(task: Task, killed: bool, by: str) -> None:
        nonlocal done
        done += 1
        verdicts.keep(task.mutant, killed=killed, by=by)
        if not killed:
            print(f"SURVIVED {task.mutant.name} (line {task.mutant.lines[0]})", flush=True)
        if done % 50 == 0 or done == len(tasks):
            minutes = (time.monotonic() - begun) / 60
            print(f"{done} of {len(tasks)} mutants, {minutes:.1f} minutes", flush=True)

    print(f"{total} mutants on covered lines, {len(tasks)} to run", flush=True)
    if tasks:
        pytest.main(recording.arguments(), plugins=[Runner(tasks, tell)])
        verdicts.save()


def _report(tasks: list[Task], verdicts: Verdicts, uncovered: list[Mutant]) -> int:
    known = _equivalents()
    rows: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    open_in: dict[bool, int] = {True: 0, False: 0}
    counted: dict[bool, int] = {True: 0, False: 0}
    for task in tasks:
        name, killed = task.mutant.name, verdicts.of(task.mutant) is True
        row = rows[task.mutant.module]
        row[0] += 1
        row[1] += killed
        row[2] += not killed and name in known
        whole = task.mutant.module.startswith(WHOLE)
        counted[whole] += name not in known
        open_in[whole] += not killed and name not in known
    for mutant in uncovered:
        rows[mutant.module][3] += 1
    for module, (count, killed, same, never) in sorted(rows.items()):
        figures = {"mutants": count, "killed": killed, "equivalent": same, "uncovered": never}
        print(json.dumps({"module": module, **figures}))
    share = 1 - open_in[False] / max(counted[False], 1)
    print(json.dumps({"survivors": open_in[True], "sampled_killed": round(share, 4)}))
    return 1 if open_in[True] or share < SAMPLED_FLOOR else 0


def _equivalents() -> dict[str, str]:
    """Mutants that change nothing that can be seen, each with the reason."""
    rows = tomllib.loads(EQUIVALENTS.read_text()).get("equivalent", [])
    return {row["mutant"]: row["why"] for row in rows}


if __name__ == "__main__":
    sys.exit(main())
