"""What was expected and what came instead, taken out of a message.

Every message of a refusal has one of these forms (docs/style.md, "Errors"):

    where: expected A, got B; what to do
    where: expected A, <a sentence about what came instead>
    where: valid from A, now is B          (or "valid until A")
    where is N s old, …; expected at most M s
"""

from __future__ import annotations

import re

_WINDOW = re.compile(r"(valid (?:from|until) .+?), (now is .+)")
_GOT = re.compile(r"(.+?), (?:got|found) ?(.+)", re.DOTALL)
_AFTERWARDS = re.compile(r"(?:.+?: )?(.+?); expected (.+)", re.DOTALL)


def expected_and_got(message: str) -> tuple[str, str]:
    """Both parts as text; what was expected is empty where a message is of no form above."""
    if found := _WINDOW.search(message):
        return found[1], found[2]
    before, marked, rest = message.partition("expected ")
    if not marked:
        return "", message
    if before.endswith("; ") and (found := _AFTERWARDS.fullmatch(message)):
        return _first(found[2]), found[1]
    if found := _GOT.fullmatch(rest):
        return found[1], _first(found[2])
    for mark in ("; ", ", "):
        if mark in rest:
            expected, _, got = rest.partition(mark)
            return expected, got
    return rest, ""


def _first(text: str) -> str:
    """Without the advice after a semicolon or a colon."""
    return re.split(r"; |: (?=check )", text, maxsplit=1)[0]
