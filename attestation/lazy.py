"""Packages whose names are imported when they are first used (PEP 562).

A package that shows names of its modules would load all of them for whoever imports one: the
guest would carry the verifier's libraries, and a client's first line would take half a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """A `__getattr__` for `package`: each name of `homes` comes from the module given with it."""

    def get(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return get
