"""The guest's software trust base: every module of ours that a measured guest can import, and the
libraries that those import themselves.

`python -m scripts.trusted_base` prints it; with `--write` it goes to docs/spec/trusted-base.txt,
which a test compares. What this list gains, every client trusts from then on.
"""

from __future__ import annotations

import argparse
import ast
import functools
import sys

from scripts.rooms import ROOT, imported, modules

START = "enclave.guest.__main__"
LIST = ROOT / "docs" / "spec" / "trusted-base.txt"


@functools.cache
def closure(start: str = START) -> tuple[set[str], set[str]]:
    """(modules of ours, libraries), following every import that can run, however late.

    Raises ValueError where a name comes from a package that imports on first use: a list that
    followed it would have to hold all that the package names.
    """
    known = modules()
    ours: set[str] = set()
    libraries: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        if module in ours:
            continue
        ours.add(module)
        names = imported(ast.parse(known[module].read_text()), set(known))
        waiting += _parents(module)
        for name in names:
            if name in known:
                if "lazy_names(" in known[name].read_text() and name != "attestation.lazy":
                    raise ValueError(f"{module}: import from the module, not from {name}")
                waiting.append(name)
            elif (top := name.split(".")[0]) not in sys.stdlib_module_names:
                libraries.add(top)
    return ours, libraries


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def text() -> str:
    """The committed list's content."""
    ours, libraries = closure()
    head = "# Made by `python -m scripts.trusted_base --write`. Modules, then libraries.\n"
    return head + "".join(f"{name}\n" for name in (*sorted(ours), "", *sorted(libraries)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {LIST.name}")
    if parser.parse_args().write:
        LIST.write_text(text())
    ours, libraries = closure()
    known = modules()
    lines = sum(len(known[name].read_text().splitlines()) for name in ours)
    print(text())  # noqa: T201
    print(f"{len(ours)} modules, {lines} lines, {len(libraries)} libraries")  # noqa: T201


if __name__ == "__main__":
    main()
