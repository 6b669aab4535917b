"""Lists the software that users of a guest must trust: every module of Umay that a measured guest
can import, and the libraries that these modules import.

`python -m scripts.trusted_base` prints the list. With `--write` it also writes the list to
docs/spec/trusted-base.txt, which a test compares. Whatever is added to it, every client has to
trust.
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
    """The modules of Umay and the libraries that `start` can import, also inside functions.

    Raises ValueError if a name comes from a package that imports its names on first use, because
    then the list would have to contain everything that the package names.
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
    """The content of the committed list."""
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
