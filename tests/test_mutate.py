"""The mutation tool: what it changes, and that a guard is told apart from a test that fails."""

from __future__ import annotations

import ast
import signal
import time
from pathlib import Path

import pytest

from scripts.mutate import forking
from scripts.mutate.operators import mutants

SOURCE = """
LIMIT = 4 * 1024

def check(got, most):
    if got > most or not got:
        raise ValueError("too many")
    note(got)
    return min(got, most)

def other(got):
    raise ValueError(got)
"""

FIRST, SECOND = "got > most", "not got"
CHANGED = {
    f"{FIRST} or {SECOND} → True": "if True:",
    f"{FIRST} or {SECOND} → False": "if False:",
    f"{FIRST} or {SECOND} → and": f"if {FIRST} and ({SECOND}):",
    f"{FIRST} → False": f"if False or {SECOND}:",
    f"{SECOND} → False": f"if {FIRST} or False:",
    f"{FIRST} → boundary 1": f"if got >= most or {SECOND}:",
    "note(got) → no call": "if False:\n        note(got)",
    "min(got, most) → max": "return max(got, most)",
    "raise ValueError(got) → no raise": "if False:\n        raise ValueError(got)",
}


def changed() -> dict[str, str]:
    """The text of the module after each change of a function."""
    count = len(mutants("m.py", SOURCE))
    found = [mutants("m.py", SOURCE)[at] for at in range(count)]
    return {
        one.name.partition(": ")[2]: ast.unparse(one.apply()) for one in found if one.limit is None
    }


def ended(work: object, cpu_s: float = 60.0) -> list[int]:
    codes: list[int] = []
    job = forking.Job(work, cpu_s, lambda place, code: codes.append(code))  # type: ignore[arg-type]
    forking.run([job], at_once=1)
    return codes


def test_every_kind_of_change_is_made() -> None:
    texts = changed()
    for name, text in CHANGED.items():
        assert text in texts[name], name


def test_a_limit_is_one_more_and_one_less() -> None:
    limits = [one.limit for one in mutants("m.py", SOURCE) if one.limit]
    assert limits == [("LIMIT", 4097), ("LIMIT", 4095)]


def test_an_exit_code_is_told() -> None:
    assert ended(lambda place: 0) == [0]
    assert ended(lambda place: 2) == [2]


def test_what_raises_has_failed() -> None:
    assert ended(lambda place: 1 // 0) == [1]


def test_too_much_cpu_time_is_the_guards() -> None:
    def spin(place: Path) -> int:
        while True:
            pass

    assert ended(spin, cpu_s=0.0) == [forking.GUARDED]


def test_waiting_for_nothing_is_the_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "IDLE_S", 0.1)

    def wait(place: Path) -> int:
        signal.pause()
        return 0

    assert ended(wait) == [forking.GUARDED]


def test_working_slowly_is_not_the_guards() -> None:
    def slow(place: Path) -> int:
        time.sleep(0.3)
        return 0

    assert ended(slow, cpu_s=0.0) == [0]


def test_the_folder_is_there_until_the_end_is_told() -> None:
    texts: list[str] = []

    def write(place: Path) -> int:
        (place / "at").write_text("a test")
        return 0

    job = forking.Job(write, 60.0, lambda place, code: texts.append((place / "at").read_text()))
    forking.run([job], at_once=1)
    assert texts == ["a test"]
