"""What a program installs and imports before it can ask: our client beside `openai` and `tinfoil`.

Each package is installed with pip into a new virtual environment, which is thrown away. Sizes are
megabytes (10^6 bytes) in its site-packages beyond an empty environment; times are CPU seconds of a
new interpreter for the import that its documentation begins with.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.imports import cpu_seconds

ROOT = Path(__file__).parent.parent
RUNS = 7
PEERS = {
    "umay": ([str(ROOT)], "from client_sdk import Client"),
    "openai": (["openai"], "from openai import OpenAI"),
    "tinfoil": (["tinfoil"], "from tinfoil import TinfoilAI"),
}


def run() -> Iterator[dict[str, Any]]:
    found = {}
    for name, (packages, statement) in PEERS.items():
        with tempfile.TemporaryDirectory() as directory:
            found[name] = _measured(Path(directory), packages, statement)
    for what, unit, at in (("size", "MB", 0), ("import", "s", 1)):
        ours = found["umay"][at]
        for peer in ("openai", "tinfoil"):
            other = found[peer][at]
            yield {
                "bench": f"install-{what}-beside-{peer}",
                "value": ours,
                "unit": unit,
                "peer": f"{peer}, {other} {unit}",
                "ratio": round(ours / other, 2),
                "n": 1 if at == 0 else RUNS,
            }


def _measured(place: Path, packages: list[str], statement: str) -> tuple[float, float]:
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    python = str(place / "bin" / "python")
    libraries = next(place.glob("lib/python*/site-packages"))
    empty = _megabytes(libraries)
    constraints = str(ROOT / "constraints.txt")
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    ours = ["-c", constraints] if packages == [str(ROOT)] else []
    subprocess.run([*command, *ours, *packages], check=True)
    taken = [cpu_seconds(statement, python=python, cwd="/") for _ in range(RUNS)]
    return round(_megabytes(libraries) - empty, 1), round(median(taken), 3)


def _megabytes(directory: Path) -> float:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6
