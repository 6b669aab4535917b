"""What became of each mutant, kept as long as it holds."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from pathlib import Path

from scripts.mutate.operators import Mutant
from scripts.mutate.recording import fingerprint
from scripts.rooms import ROOT


class Verdicts:
    """A killed mutant stays killed while its function and its killer's file are the same; one that
    survived is asked again when any test has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[str, list[str]] = json.loads(path.read_text()) if path.exists() else {}
        self._tests = fingerprint((ROOT / "tests").rglob("*.py"))

    def of(self, mutant: Mutant) -> bool | None:
        """Whether it was killed; None where that is not known any more."""
        kept = self._kept.get(_key(mutant))
        if kept is None:
            return None
        killer, state = kept
        return bool(killer) if state == self._state(killer) else None

    def keep(self, mutant: Mutant, *, killed: bool, by: str) -> None:
        killer = by.partition("::")[0] if killed else ""
        self._kept[_key(mutant)] = [killer, self._state(killer)]
        if len(self._kept) % 25 == 0:
            self.save()

    def save(self) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(self._kept))
        fresh.replace(self._path)

    def _state(self, killer: str) -> str:
        """Of what the verdict rests on."""
        return _file(killer) if killer and (ROOT / killer).exists() else self._tests


@functools.cache
def _file(name: str) -> str:
    return hashlib.sha256((ROOT / name).read_bytes()).hexdigest()


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
