"""Two logs or mirrors of one: the same origin, and one tree within the other?

Entries are compared one by one as far as both go, and hashed into the tree that each shows a
checkpoint of. Only what the log signed contradicts it: two checkpoints, or entries that each
make the root of their own side's checkpoint. A side whose bytes do not fit its own checkpoint is
damaged, which says nothing about the log. Without a policy whose key checks the signatures
nothing is called good.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from attestation.errors import UmayError, Unavailable
from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.merkle import Tree
from attestation.log.tiles import WIDTH, TilePath
from attestation.trust.policy import Policy
from client_sdk.auditing import sources
from client_sdk.auditing.results import Problem
from client_sdk.auditing.sources import Source
from client_sdk.auditing.tree import Progress, silent


@dataclass
class Comparison:
    """`differs` is the first entry that differs. exit_code: 0 consistent, 1 contradiction, 6
    incomplete: a side lacks something, or is damaged."""

    a: str
    b: str
    heads: list[Checkpoint | None] = field(default_factory=list)
    differs: int | None = None
    common: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        severities = {problem.severity for problem in self.problems}
        return 1 if "violation" in severities else 6 if severities else 0

    @property
    def verdict(self) -> str:
        return {
            0: f"consistent: one log, {self.common} entries in common",
            1: "they contradict each other",
            6: "incomplete: something is damaged or could not be compared",
        }[self.exit_code]

    def to_json(self) -> dict[str, Any]:
        heads = [
            head and {"origin": head.origin, "size": head.size, "root": head.root.hex()}
            for head in self.heads
        ]
        return {
            "ok": self.exit_code == 0,
            "verdict": self.verdict,
            "a": self.a,
            "b": self.b,
            "heads": heads,
            "common": self.common,
            "differs": self.differs,
            "problems": [dataclasses.asdict(problem) for problem in self.problems],
        }

    def violation(self, code: str, text: str, index: int | None = None) -> None:
        self.problems.append(Problem("violation", code, text, index))

    def incomplete(self, code: str, text: str, index: int | None = None) -> None:
        self.problems.append(Problem("incomplete", code, text, index))

    def failed(self, error: UmayError, code: str, where: str) -> None:
        """A side could not be read, or its bytes do not fit its own checkpoint."""
        if not isinstance(error, Unavailable):
            self.incomplete(code, f"{where} is damaged: {error}")
        elif str(error).startswith(where):
            self.incomplete(code, str(error))
        else:
            self.incomplete(code, f"{where}: {error}")


def compare(
    a: Source, b: Source, policy: Policy | None = None, progress: Progress = silent
) -> Comparison:
    """Never raises for what a side serves."""
    done = Comparison(a.name, b.name)
    heads = [_head(done, source, policy) for source in (a, b)]
    done.heads = list(heads)
    if policy is None:
        done.incomplete("unsigned", "no --policy was given, so no signature was checked")
    first, second = heads
    if first is None or second is None:
        return done
    if first.origin != second.origin:
        text = f"{a.name} is a copy of {first.origin}, but {b.name} of {second.origin}"
        done.incomplete("other-origin", text)
        return done
    whole = _entries(done, ((a, first), (b, second)), progress)
    if first.size == second.size and first.root != second.root and (whole or policy is not None):
        done.violation(
            "split-view", f"the log signed two trees of {first.size} entries: a split view"
        )
    if done.differs is not None:
        text = f"entry {done.differs} is the first that differs"
        (done.violation if whole else done.incomplete)("differs", text, done.differs)
    return done


def _head(done: Comparison, source: Source, policy: Policy | None) -> Checkpoint | None:
    try:
        note = source.get("checkpoint")
        if policy is None:
            return checkpoints.parse(note)[0]
        return checkpoints.verify(note, origin=policy.log_origin, log_key=policy.log_key)
    except UmayError as error:
        done.failed(error, "checkpoint", source.name)
        return None


def _entries(
    done: Comparison, sides: tuple[tuple[Source, Checkpoint], ...], progress: Progress
) -> bool:
    """Each side's entries into its own tree, and both against each other while both go on.
    Whether both sides' entries make the root of their checkpoint."""
    trees: list[Tree | None] = [Tree(), Tree()]
    most = max(head.size for _, head in sides)
    for start in range(0, most, WIDTH):
        found = [_bundle(done, trees, at, *sides[at], start) for at in range(2)]
        if not any(found):  # a signed size may be anything
            break
        _differ(done, start, *found)
        progress("entries compared", min(start + WIDTH, most), most)
    whole = [_whole(done, *side, tree) for side, tree in zip(sides, trees, strict=True)]
    return all(whole)


def _whole(done: Comparison, source: Source, head: Checkpoint, tree: Tree | None) -> bool:
    if tree is None or len(tree) != head.size:
        return False
    if tree.root() == head.root:
        return True
    text = f"{source.name} is damaged: its entries do not hash to the root of its checkpoint"
    done.incomplete("tree", text)
    return False


def _bundle(
    done: Comparison,
    trees: list[Tree | None],
    at: int,
    source: Source,
    head: Checkpoint,
    start: int,
) -> tuple[bytes, ...]:
    """The side's entries from `start`. Where they lack, its tree is given up."""
    tree, width = trees[at], min(WIDTH, head.size - start)
    if tree is None or width <= 0:
        return ()
    try:
        leaves = sources.bundle(source, TilePath(None, start // WIDTH, width))
    except UmayError as error:
        done.failed(error, "entries", source.name)
        trees[at] = None
        return ()
    for leaf in leaves:
        tree.append(leaf)
    return leaves


def _differ(
    done: Comparison, start: int, first: tuple[bytes, ...], second: tuple[bytes, ...]
) -> None:
    if done.differs is not None:
        return
    for offset, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            done.differs = start + offset
            return
        done.common += 1
