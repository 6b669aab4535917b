"""Draws the rooms of the house as text, with what each of them imports.

`python -m scripts.rooms` prints one line for each room, the lowest floor first. The exit code is 1
if a room imports one that is not on a lower floor, so that rooms may import each other in a circle,
or if a module belongs to no floor. Imports that only type checkers follow do not count.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
TOPS = ("attestation", "contracts", "enclave", "client_sdk")

FLOORS: tuple[tuple[str, ...], ...] = (
    ("attestation.errors", "attestation.lazy"),
    ("attestation.arguments", "attestation.files", "attestation.remembered", "attestation.wire"),
    ("attestation.formats", "attestation.process"),
    ("attestation.net", "attestation.model_folder"),
    ("attestation.x509", "attestation.log"),
    ("attestation.trust",),
    ("attestation.nvidia", "attestation.platforms"),
    ("attestation.verify",),
    ("attestation.channel", "attestation.vendors"),
    ("attestation",),
    ("contracts",),
    ("contracts.light",),
    ("contracts.endpoint",),
    ("contracts.logservice",),
    ("contracts.localnet",),
    ("enclave",),
    ("enclave.simulator", "enclave.guest", "enclave.host"),
    ("enclave.importer",),
    ("client_sdk",),
    ("client_sdk.inspection",),
    ("client_sdk.commands",),
    ("client_sdk.auditing",),
    ("client_sdk.network_files", "client_sdk.proxy", "client_sdk.receipts"),
    ("client_sdk.localnet",),
)
"""A room may import rooms of lower floors, but none of its own floor. A folder that is not named
here belongs to the nearest folder above it that is named."""


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the house by its dotted name."""
    found = {}
    for top in TOPS:
        for path in sorted((root / top).rglob("*.py")):
            if "node_modules" not in path.parts:
                name = ".".join(path.relative_to(root).with_suffix("").parts)
                found[name.removesuffix(".__init__")] = path
    return found


def imported(tree: ast.AST, known: frozenset[str] | set[str]) -> set[str]:
    """The names of modules that this code can import when it runs, also inside functions."""
    names: set[str] = set()
    for node in _running(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in known else str(node.module) for name in full}
    return names


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield node
        yield from _running(node)


def graph(found: dict[str, Path]) -> dict[str, set[str]]:
    """For each module, the modules of the house that it imports."""
    known = set(found)
    return {
        name: imported(ast.parse(path.read_text()), known) & known for name, path in found.items()
    }


def room_of(module: str) -> str | None:
    """The room to which a module belongs, or None."""
    rooms = [room for floor in FLOORS for room in floor]
    fitting = [room for room in rooms if module == room or module.startswith(f"{room}.")]
    return max(fitting, key=len, default=None)


def arrows(imports: dict[str, set[str]]) -> dict[str, dict[str, list[str]]]:
    """A map from room to imported room to the imports that make this arrow."""
    drawn: dict[str, dict[str, list[str]]] = {}
    for module, targets in imports.items():
        home = room_of(module)
        for target in targets:
            to = room_of(target)
            if home and to and home != to:
                drawn.setdefault(home, {}).setdefault(to, []).append(f"{module} imports {target}")
    return drawn


def faults(imports: dict[str, set[str]]) -> list[str]:
    """Every arrow that does not point to a lower floor, and every module that belongs to no
    floor."""
    height = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    wrong = [f"{module}: stands on no floor" for module in imports if room_of(module) is None]
    for home, targets in arrows(imports).items():
        for to, why in targets.items():
            if height[to] >= height[home]:
                wrong += [f"{home} → {to} does not point down: {text}" for text in sorted(why)]
    return wrong


def draw(imports: dict[str, set[str]]) -> str:
    """The drawing: one line for each room, the lowest floor first."""
    drawn = arrows(imports)
    lines = []
    for number, floor in enumerate(FLOORS):
        for room in floor:
            to = " ".join(sorted(drawn.get(room, {}))) or "-"
            lines.append(f"{number:>2}  {room:<24} → {to}")
    return "\n".join(lines)


def main() -> int:
    imports = graph(modules())
    print(draw(imports))  # noqa: T201
    wrong = faults(imports)
    print("\n".join(wrong), file=sys.stderr)  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
