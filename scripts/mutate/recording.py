"""Which tests touch which line, and how long each takes: one run under coverage."""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

import coverage
import pytest

from scripts.rooms import ROOT

TESTS = (
    "tests/attestation",
    "tests/client_sdk",
    "tests/enclave",
    "tests/contracts/test_light_accounts.py",
    "tests/contracts/test_light_back.py",
    "tests/contracts/test_light_client.py",
    "tests/contracts/test_light_links.py",
    "tests/contracts/test_light_recording.py",
    "tests/contracts/test_log_server.py",
    "tests/contracts/test_log_store.py",
    "tests/contracts/test_log_witness.py",
)
"""Where checks are tested within one process. What runs as a child is not seen by coverage."""

LEFT_OUT = ("test_engine_torch", "test_engine_weights", "test_examples")
MARKS = "not e2e and not long and not soak and not hostile and not cookbook and not browser"


@dataclass
class Recording:
    """`lines[file][line]` are the tests that ran it; `seconds` what each took, set-up included."""

    lines: dict[str, dict[int, set[str]]]
    seconds: dict[str, float]

    def touching(self, file: str, first: int, last: int) -> list[str]:
        """Tests that ran one of these lines: cheap files first, cheap tests first in each."""
        rows = self.lines.get(file, {})
        found = {test for line in range(first, last + 1) for test in rows.get(line, ())}
        return sorted(found, key=self._order)

    def _order(self, test: str) -> tuple[float, str, float]:
        file = test.partition("::")[0]
        return (self._setup.get(file, 0.0), file, self.seconds.get(test, 0.0))

    def __post_init__(self) -> None:
        self._setup: dict[str, float] = defaultdict(float)
        for test, seconds in self.seconds.items():
            file = test.partition("::")[0]
            self._setup[file] = max(self._setup[file], seconds)

    def save(self, path: Path) -> None:
        tests = sorted(self.seconds)
        numbers = {test: number for number, test in enumerate(tests)}
        lines = {
            file: {line: sorted(numbers[test] for test in found) for line, found in rows.items()}
            for file, rows in self.lines.items()
        }
        seconds = [self.seconds[test] for test in tests]
        path.write_text(json.dumps({"tests": tests, "seconds": seconds, "lines": lines}))

    @classmethod
    def load(cls, path: Path) -> Recording:
        raw = json.loads(path.read_text())
        tests = raw["tests"]
        lines = {
            file: {int(line): {tests[n] for n in found} for line, found in rows.items()}
            for file, rows in raw["lines"].items()
        }
        return cls(lines, dict(zip(tests, raw["seconds"], strict=True)))


class _Recorder:
    def __init__(self, cov: coverage.Coverage) -> None:
        self._cov = cov
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._cov.switch_context(item.nodeid)
        begun = time.process_time()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.process_time() - begun

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


def arguments() -> list[str]:
    """How pytest is called, to record and to run mutants alike."""
    left_out = [f"--ignore-glob=*{name}*" for name in LEFT_OUT]
    without = [word for name in ("cacheprovider", "timeout") for word in ("-p", f"no:{name}")]
    return [*TESTS, *left_out, "-m", MARKS, "-o", "addopts=", "-q", "-s", *without]


def record(place: Path, files: Iterable[Path]) -> Recording:
    """Runs the tests. Raises RuntimeError where one fails: then nothing can be learnt."""
    cov = coverage.Coverage(
        data_file=str(place / "coverage"),
        include=[str(file) for file in files],
        config_file=False,
    )
    recorder = _Recorder(cov)
    cov.start()
    try:
        code = pytest.main(arguments(), plugins=[recorder])
    finally:
        cov.stop()
        cov.save()
    if code != 0:
        raise RuntimeError(f"these tests fail without any change: {recorder.failed[:10]}")
    data = cov.get_data()
    lines = {}
    for file in data.measured_files():
        rows = data.contexts_by_lineno(file)
        name = str(Path(file).relative_to(ROOT))
        lines[name] = {at: set(found) & recorder.seconds.keys() for at, found in rows.items()}
    return Recording(lines, recorder.seconds)


def fingerprint(files: Iterable[Path]) -> str:
    """Of these files' names and contents."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
