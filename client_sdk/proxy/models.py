"""Which models can be asked for: the policy's, and aliases that the user gave them.

The answer to "which models" comes from the policy, so nothing leaves this machine for it, and it
is there while no machine is. A body keeps every byte but the alias, for which the policy's name
stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from attestation.errors import UsageError
from attestation.process import one_line
from client_sdk.proxy.refusal import Refusal

MAX_SHOWN = 80
"""Characters of a name in an error."""

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


class Member(NamedTuple):
    """One member of a JSON object, and where its value stands in the text."""

    name: str
    value: Any
    begin: int
    end: int


class Models:
    """`names` of the policy; `aliases` from a name that programs use to one of these."""

    def __init__(self, names: Sequence[str], aliases: Mapping[str, str]) -> None:
        self.names, self.aliases = tuple(names), dict(aliases)

    def listed(self) -> dict[str, Any]:
        """As OpenAI lists models."""
        return {"object": "list", "data": [self._one(name) for name in self._all()]}

    def retrieved(self, name: str) -> dict[str, Any]:
        """One of them. Raises Refusal."""
        if name not in self._all():
            raise self._unknown(name)
        return self._one(name)

    def sealed(self, content: bytes) -> bytes:
        """The body with the policy's name of its model. Raises Refusal before anything is sent."""
        text, member = _model_of(content)
        name = member.value
        if name in self.names:
            return content
        if name not in self.aliases:
            raise self._unknown(name)
        own = json.dumps(self.aliases[name])
        return (text[: member.begin] + own + text[member.end :]).encode()

    def _all(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.names, *self.aliases)))

    def _one(self, name: str) -> dict[str, Any]:
        """`root` is what vLLM calls the model behind a name."""
        root = name if name in self.names else self.aliases[name]
        return {"id": name, "object": "model", "created": 0, "owned_by": "umay", "root": root}

    def _unknown(self, name: object) -> Refusal:
        known = ", ".join(self._all())
        text = f"model: expected one that the policy or --alias names ({known}), got {_shown(name)}"
        return Refusal(404, "model_not_found", f"{text}; nothing was sent", param="model")


def read_aliases(values: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """From NAME=MODEL. Raises UsageError for a name that stands twice or is a model's own, and for
    a model that the policy does not name."""
    aliases: dict[str, str] = {}
    for value in values:
        name, _, model = value.partition("=")
        if not name or not model:
            raise UsageError(f"--alias: expected NAME=MODEL such as gpt-4o={names[0]}, got {value}")
        if name in aliases or name in names:
            raise UsageError(f"--alias {value}: expected a new name, but {name} is taken")
        if model not in names:
            known = ", ".join(names)
            raise UsageError(f"--alias {value}: expected a model of the policy ({known})")
        aliases[name] = model
    return aliases


def _model_of(content: bytes) -> tuple[str, Member]:
    try:
        text = content.decode()
        found = [member for member in _members(text) if member.name == "model"]
    except (ValueError, RecursionError):
        raise Refusal(400, "invalid_json", "expected a JSON object as body") from None
    if len(found) != 1 or not isinstance(found[0].value, str):
        text = f"model: expected one name as a string, got {_kinds(found)}"
        raise Refusal(400, "invalid_value", text, param="model")
    return text, found[0]


def _kinds(found: Sequence[Member]) -> str:
    return " and ".join(type(member.value).__name__ for member in found) or "none"


def _members(text: str) -> list[Member]:
    """Of the object that `text` is. Raises ValueError or RecursionError for anything else."""
    found: list[Member] = []
    at = _after(text, 0, "{")
    if text[at : at + 1] != "}":
        at = _read_members(text, at, found)
    if _after(text, at, "}") != len(text):
        raise ValueError("expected nothing after the object")
    return found


def _read_members(text: str, at: int, found: list[Member]) -> int:
    """Appends to `found`; where they end."""
    while True:
        name, at = _DECODER.raw_decode(text, at)
        if not isinstance(name, str):
            raise ValueError("expected a name")
        begin = _after(text, at, ":")
        value, at = _DECODER.raw_decode(text, begin)
        found.append(Member(name, value, begin, at))
        at = _space(text, at)
        if text[at : at + 1] == "}":
            return at
        at = _after(text, at, ",")


def _after(text: str, at: int, sign: str) -> int:
    """The place after `sign` and the space around it. Raises ValueError."""
    at = _space(text, at)
    if text[at : at + 1] != sign:
        raise ValueError(f"expected {sign}")
    return _space(text, at + 1)


def _space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _shown(name: object) -> str:
    return repr(one_line(str(name))[:MAX_SHOWN])
