"""Which tests touch which line, and how long each takes.

Every test file runs under coverage in a forked child of its own, as mutants do, and its part of the
recording is kept, so that one file that hangs or fails costs only itself.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import coverage
import pytest
from hypothesis import HealthCheck, Phase, settings

from attestation import remembered
from scripts.mutate import forking, running
from scripts.rooms import ROOT

TESTS = (
    "tests/attestation",
    "tests/client_sdk",
    "tests/enclave",
    "tests/contracts/test_light_accounts.py",
    "tests/contracts/test_light_adnl.py",
    "tests/contracts/test_light_back.py",
    "tests/contracts/test_light_cells.py",
    "tests/contracts/test_light_client.py",
    "tests/contracts/test_light_links.py",
    "tests/contracts/test_light_recording.py",
    "tests/contracts/test_log_server.py",
    "tests/contracts/test_log_store.py",
    "tests/contracts/test_log_witness.py",
)
"""Where checks are tested within one process. What runs as a child is not seen by coverage."""

LEFT_OUT = (
    "test_commands",
    "test_engine_torch",
    "test_engine_weights",
    "test_guest_boot",
    "test_host_agent",
)
"""Dear, and mostly in child processes. To leave a test out can only make more mutants survive."""

MARKS = "not e2e and not long and not soak and not hostile and not cookbook and not browser"
settings.register_profile(
    "mutate",
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.function_scoped_fixture),
)
"""The same examples each time, so that a verdict holds; a failing one is not made smaller."""

SHORT_S = (0.25, 2.0)
"""CPU seconds: tests below the first run before those below the second, and these before others."""

CPU_LIMIT_S = 600.0
"""For one test file under coverage; the dearest takes a tenth of it."""


@dataclass
class Recording:
    """`lines[file][line]` are the tests that ran it; `seconds` the CPU time of each, set-up too."""

    lines: dict[str, dict[int, set[str]]]
    seconds: dict[str, float]

    def touching(self, file: str, first: int, last: int) -> list[str]:
        """Tests that ran one of these lines."""
        rows = self.lines.get(file, {})
        return self.sorted(test for line in range(first, last + 1) for test in rows.get(line, ()))

    def sorted(self, tests: Iterable[str]) -> list[str]:
        """Each test once, those first that fail soonest: short ones, and of these the ones of
        files that run little else."""
        return sorted(set(tests), key=self._order)

    def _order(self, test: str) -> tuple[int, int, str, float]:
        seconds, file = self.seconds[test], test.partition("::")[0]
        return (bisect(SHORT_S, seconds), self._breadth[file], file, seconds)

    @functools.cached_property
    def _breadth(self) -> Counter[str]:
        """How many modules each test file runs."""
        return Counter(
            file
            for rows in self.lines.values()
            for file in {test.partition("::")[0] for tests in rows.values() for test in tests}
        )


@dataclass(frozen=True)
class Part:
    """What one test file has run: `lines[file]` are pairs of a line and the number of a test.
    `rests_on` are the digests of the files that it says something about."""

    seconds: dict[str, float]
    lines: dict[str, list[tuple[int, int]]]
    rests_on: dict[str, str]
    failed: tuple[str, ...] = ()

    def holds(self) -> bool:
        return all(_digest(file) == digest for file, digest in self.rests_on.items())


def arguments() -> list[str]:
    """How pytest is called, to record and to run mutants alike."""
    left_out = [f"--ignore-glob=*{name}*" for name in LEFT_OUT]
    without = [word for name in ("cacheprovider", "timeout") for word in ("-p", f"no:{name}")]
    options = ["-m", MARKS, "-o", "addopts=", "-q", "-s", "--hypothesis-profile=mutate"]
    return [*TESTS, *left_out, *options, *without]


def record(
    place: Path, items: dict[str, pytest.Item], measured: list[Path], at_once: int
) -> Recording:
    """What all these tests run. A test file whose part still holds is not run again.

    What fails without any change is left out and said. Raises RuntimeError where a file has not
    come to its end.
    """
    place.mkdir(parents=True, exist_ok=True)
    by_file: dict[str, list[pytest.Item]] = defaultdict(list)
    for test, item in items.items():
        by_file[test.partition("::")[0]].append(item)
    parts = {file: _kept(place, file) for file in by_file}
    old = {file: by_file[file] for file, part in parts.items() if not part or part.failed}
    print(f"{len(by_file)} test files, {len(old)} to record", flush=True)
    forking.run(_jobs(place, measured, old), at_once)
    parts |= {file: _kept(place, file) for file in old}
    if missing := sorted(file for file, part in parts.items() if part is None):
        raise RuntimeError(f"not recorded to the end: {' '.join(missing)}; see {place}/*.log")
    return _joined([part for part in parts.values() if part is not None])


def _jobs(
    place: Path, measured: list[Path], old: dict[str, list[pytest.Item]]
) -> Iterator[forking.Job]:
    for file, items in old.items():
        stem = _stem(place, file)
        work = functools.partial(_record_file, file, items, measured, stem)
        yield forking.Job(work, CPU_LIMIT_S, functools.partial(_tell, file, time.monotonic()))


def _tell(file: str, begun: float, place: Path, code: int) -> None:
    words = {0: "recorded", 1: "RECORDED but for tests that fail:"}
    last = (place / "at").read_text() if code not in words else ""
    seconds = time.monotonic() - begun
    print(f"{words.get(code, 'ENDED')} {file} ({seconds:.0f} s) {last}", flush=True)


def _record_file(
    file: str, items: list[pytest.Item], measured: list[Path], stem: Path, place: Path
) -> int:
    """In the child: runs the tests of a file, and keeps its part."""
    running.hush(place, items, stem.with_suffix(".log"))
    include = [str(path) for path in measured]
    cov = coverage.Coverage(data_file=str(place / "coverage"), include=include, config_file=False)
    seconds: dict[str, float] = {}
    failed: list[str] = []
    cov.start()
    for item, following in running.turns(items):
        cov.switch_context(item.nodeid)
        remembered.forget()  # what an earlier test has run, this one runs too
        begun = time.process_time()
        if running.passes(item, following, place):
            seconds[item.nodeid] = round(time.process_time() - begun, 4)
        else:
            failed.append(item.nodeid)
    cov.stop()
    part = _part(file, cov.get_data(), seconds)
    stem.with_suffix(".json").write_text(json.dumps({**vars(part), "failed": failed}))
    return 1 if failed else 0


def _part(file: str, data: coverage.CoverageData, seconds: dict[str, float]) -> Part:
    numbers = {test: number for number, test in enumerate(seconds)}
    lines = {
        str(Path(source).relative_to(ROOT)): [
            (line, numbers[test])
            for line, tests in data.contexts_by_lineno(source).items()
            for test in tests
            if test in numbers
        ]
        for source in data.measured_files()
    }
    helpers = [str(path.relative_to(ROOT)) for path in (ROOT / "tests/helpers").rglob("*.py")]
    return Part(seconds, lines, {name: _digest(name) for name in (file, *helpers, *lines)})


def _kept(place: Path, file: str) -> Part | None:
    """The part of a test file, where there is one that holds."""
    path = _stem(place, file).with_suffix(".json")
    part = Part(**json.loads(path.read_text())) if path.exists() else None
    return part if part and part.holds() else None


def _joined(parts: list[Part]) -> Recording:
    lines: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for part in parts:
        tests = list(part.seconds)
        for source, pairs in part.lines.items():
            for line, number in pairs:
                lines[source][line].add(tests[number])
    seconds = {test: taken for part in parts for test, taken in part.seconds.items()}
    return Recording({source: dict(rows) for source, rows in lines.items()}, seconds)


def _stem(place: Path, file: str) -> Path:
    return place / file.removesuffix(".py").replace("/", "-")


@functools.cache
def _digest(file: str) -> str:
    path = ROOT / file
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
