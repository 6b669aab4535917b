"""Builds the API reference from the docstrings.

`python -m scripts.api_docs [DIRECTORY]` writes it into DIRECTORY, or into build/docs/api. It
contains only the public faces. The exit code is 1 if a documented name does not exist, if a public
name has no docstring, or if the generator warns.
"""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from collections.abc import Iterator
from inspect import cleandoc, isclass, isfunction
from pathlib import Path
from types import FunctionType, ModuleType

import pdoc
import pdoc.doc
import pdoc.render

from scripts.rooms import ROOT

DIRECTORY = ROOT / "build" / "docs" / "api"
FACES = (
    "client_sdk",
    "client_sdk.openai_transport",
    "client_sdk.auditing.auditor",
    "attestation",
    "contracts.reader",
    "contracts.light",
    "contracts.light.chain",
    "contracts.logservice.admit",
    "contracts.logservice.anchor",
    "contracts.logservice.export",
    "contracts.logservice.server",
    "contracts.logservice.store",
    "contracts.logservice.witness",
)
COLUMNS = re.compile(r"\S {3,}\S|[├└│]")
"""It finds lines of tables and drawings, which would lose their shape in a paragraph."""


def prepare(module: ModuleType) -> None:
    """Imports the names that a module imports on first use, and makes its tables code blocks."""
    for name in getattr(module, "__all__", ()):
        vars(module)[name] = getattr(module, name)
    if module.__doc__:
        module.__doc__ = with_tables(module.__doc__)


def with_tables(docstring: str) -> str:
    """The same text, with every paragraph that holds aligned columns indented by four spaces."""
    paragraphs = cleandoc(docstring).split("\n\n")
    return "\n\n".join(
        re.sub("^", "    ", text, flags=re.M) if COLUMNS.search(text) else text
        for text in paragraphs
    )


def undocumented(modules: list[ModuleType]) -> Iterator[str]:
    """Every module, class and function of a face that has no docstring of its own."""
    for module in modules:
        if not module.__doc__:
            yield module.__name__
        for name, thing in _public(module):
            if (isclass(thing) or isfunction(thing)) and not _own_docstring(thing):
                yield f"{module.__name__}.{name}"


def _own_docstring(thing: type | FunctionType) -> bool:
    """Whether it has a docstring that is neither inherited nor the list of fields from
    `dataclass`."""
    text = vars(thing).get("__doc__") if isclass(thing) else thing.__doc__
    return bool(text) and not str(text).startswith(f"{thing.__name__}(")


def _public(module: ModuleType) -> Iterator[tuple[str, object]]:
    listed = getattr(module, "__all__", None)
    for name, thing in list(vars(module).items()):
        own = getattr(thing, "__module__", None) == module.__name__ and not name.startswith("_")
        if name in listed if listed is not None else own:
            yield name, thing


def build(directory: Path) -> list[str]:
    """Writes the pages, and returns what is wrong with them, one line for each fault."""
    modules = [importlib.import_module(name) for name in FACES]
    for module in modules:
        prepare(module)
    pdoc.render.configure(
        docformat="markdown", show_source=False, footer_text="Umay: the confidential AI network"
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pdoc.pdoc(*FACES, output_directory=directory)
    wrong = [f"pdoc: {warning.message}" for warning in caught]
    return wrong + [f"{name}: expected a docstring, got none" for name in undocumented(modules)]


def main() -> int:
    wrong = build(Path(sys.argv[1]) if len(sys.argv) > 1 else DIRECTORY)
    sys.stderr.writelines(f"{line}\n" for line in wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
