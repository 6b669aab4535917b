"""Other spellings of a path that a router could take for it."""

from __future__ import annotations

RESPELT = (
    "{path}%0A", "{path}%0a", "{path}%0D", "{path}%20", "{path}%00", "{path}%2f", "{path}/",
    "/{path}", "{first}", "{last}", "{path}%0A%0A", "/.{path}", "%2f{name}",
)  # fmt: skip
"""A newline at the end (which a pattern's `$` matches before), slashes, letters in hexadecimal."""


def respelt(spelling: str, path: str) -> str:
    head, _, name = path.rpartition("/")
    first = f"{head}/%{ord(name[0]):02x}{name[1:]}"
    last = f"{path[:-1]}%{ord(path[-1]):02X}"
    return spelling.format(path=path, first=first, last=last, name=path[1:])
