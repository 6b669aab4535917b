"""Writes the table of request fields into docs/spec/api.md, from the table that the parser uses.

`python -m scripts.api_fields` prints the table. With `--write` it also writes it into the page,
which a test compares.
"""

from __future__ import annotations

import argparse
import json
import sys

from enclave.guest.engines.fields import ALL, BOTH, JSON_TYPES, TABLES, Field
from scripts.rooms import ROOT

PAGE = ROOT / "docs" / "spec" / "api.md"
BEGIN = "<!-- Made by `python -m scripts.api_fields --write` from the parser's table. -->\n"
END = "<!-- End of what is made. -->\n"
APIS = {"chat": "chat", "completion": "completions", "embedding": "embeddings"}
SEVERAL = {ALL: "all", BOTH: "both"}


def text() -> str:
    """The table, with a line for each field."""
    lines = ["| Field | API | What the guest does with it |", "| --- | --- | --- |"]
    for prefix, table in TABLES.items():
        lines += [_line(prefix, field) for field in table]
    return BEGIN + "\n" + "\n".join(lines) + "\n\n" + END


def page(committed: str) -> str:
    """The page with its table made anew. Raises ValueError where it has no place for one."""
    before, begin, rest = committed.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE}: expected the two comments around the table, found none")
    return before + text() + after


def _line(prefix: str, field: Field) -> str:
    apis = SEVERAL.get(field.kinds) or APIS[field.kinds[0]]
    return f"| `{prefix}{field.name}` | {apis} | {_what(field)} |"


def _what(field: Field) -> str:
    if field.honoured:
        return f"honoured: {field.effect}"
    if field.unread is not None:
        return f"accepted if it is {JSON_TYPES[field.unread]}, and changes nothing: {field.effect}"
    if not field.nothing:
        return f"refused: {field.effect}"
    values = ", ".join(f"`{value}`" for value in dict.fromkeys(map(json.dumps, field.nothing)))
    return f"only {values}; any other value is refused: {field.effect}"


def main() -> int:
    """Prints the table, and writes it into the page if that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m scripts.api_fields", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table into the page")
    sys.stdout.write(text())
    if parser.parse_args().write:
        PAGE.write_text(page(PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
