"""`python -m benchmarks [NAME]…` runs the benchmarks: each module here with a `run()` that yields
figures.

A figure is printed as one JSON line with bench (its name), value, unit, peer (what it is compared
with, or null), ratio (ours divided by the peer's, or null) and n (the number of runs).
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from collections.abc import Iterator
from typing import Any

import benchmarks


def names() -> list[str]:
    return [m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.name.startswith("_")]


def figures(name: str) -> Iterator[dict[str, Any]]:
    yield from importlib.import_module(f"benchmarks.{name}").run()


def main(chosen: list[str]) -> int:
    unknown = set(chosen) - set(names())
    if unknown:
        sys.stderr.write(f"benchmark: expected one of {', '.join(names())}, got {min(unknown)}\n")
        return 2
    for name in chosen or names():
        for figure in figures(name):
            print(json.dumps({"peer": None, "ratio": None, **figure}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
