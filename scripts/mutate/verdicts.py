"""What became of each mutant, kept as long as it holds."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from pathlib import Path

from scripts.mutate.operators import Mutant
from scripts.mutate.running import Task
from scripts.rooms import ROOT


class Verdicts:
    """What is killed or guarded holds while its function and the file of the test that ended it
    are the same; what survived, while no test that touches it is added or changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[str, list[str]] = json.loads(path.read_text()) if path.exists() else {}
        self._unsaved = 0

    def of(self, task: Task) -> str | None:
        """What became of it; None where that is not known any more."""
        kept = self._kept.get(_key(task.mutant))
        if kept is None:
            return None
        outcome, file, state = kept
        return outcome if state == _state(file, task) else None

    def keep(self, task: Task, outcome: str, test: str) -> None:
        file = test.partition("::")[0] if outcome in ("killed", "guard") else ""
        self._kept[_key(task.mutant)] = [outcome, file, _state(file, task)]
        self._unsaved += 1
        if self._unsaved >= 25:
            self.save()

    def save(self) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(self._kept))
        fresh.replace(self._path)
        self._unsaved = 0


def _state(file: str, task: Task) -> str:
    """Of what a verdict rests on: one test file, or all the tests that touch the mutant."""
    if file:
        return _file(file)
    files = sorted({test.partition("::")[0] for test in task.tests})
    rests_on = [*sorted(task.tests), *map(_file, files)]
    return hashlib.sha256("\0".join(rests_on).encode()).hexdigest()


@functools.cache
def _file(name: str) -> str:
    path = ROOT / name
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _key(mutant: Mutant) -> str:
    source = _source(mutant.module, mutant.function)
    return hashlib.sha256(f"{source}\0{mutant.name}".encode()).hexdigest()


@functools.cache
def _source(module: str, function: str) -> str:
    """The text of a function; of the whole module for a named limit."""
    text = (ROOT / module).read_text()
    node: ast.AST = ast.parse(text)
    for part in function.split(".") if function else ():
        node = next(
            child for child in ast.iter_child_nodes(node) if getattr(child, "name", None) == part
        )
    return ast.unparse(node)
