"""Log probabilities as OpenAI writes them, for each of its two APIs."""

from __future__ import annotations

import codecs
from typing import Any

from enclave.guest.engines.base import Delta, TokenLogprob
from enclave.guest.engines.fields import Kind


class Logprobs:
    """Of one answer. `count` likeliest tokens beside each chosen one; None if nobody asked."""

    def __init__(self, kind: Kind, count: int | None) -> None:
        self._kind, self._count = kind, count
        self._places: dict[int, _Place] = {}

    def of(self, delta: Delta) -> dict[str, Any] | None:
        """The value of `logprobs` beside this Delta, called once for each in their order."""
        if self._count is None:
            return None
        if self._kind == "chat":
            return {"content": [_entry(found) for found in delta.logprobs], "refusal": None}
        place = self._places.setdefault(delta.index, _Place())
        return {
            "tokens": [_shown(found.token) for found in delta.logprobs],
            "token_logprobs": [found.logprob for found in delta.logprobs],
            "top_logprobs": [_likeliest(found) for found in delta.logprobs]
            if self._count
            else None,
            "text_offset": [place.before(found.token) for found in delta.logprobs],
        }


class _Place:
    """Counts the characters of the tokens so far."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._characters = 0

    def before(self, token: bytes) -> int:
        place = self._characters
        self._characters += len(self._decoder.decode(token))
        return place


def _entry(found: TokenLogprob) -> dict[str, Any]:
    top = [_one(token, value) for token, value in found.top]
    return {**_one(found.token, found.logprob), "top_logprobs": top}


def _one(token: bytes, value: float) -> dict[str, Any]:
    return {"token": _shown(token), "logprob": value, "bytes": list(token)}


def _likeliest(found: TokenLogprob) -> dict[str, float]:
    """By text: of two parts of characters that look alike, the likelier one."""
    return {_shown(token): value for token, value in reversed(found.top)}


def _shown(token: bytes) -> str:
    return token.decode(errors="replace")
