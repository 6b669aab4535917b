"""Texts as the token ids that an embedding model reads, special ones included.

A special token is special only where the tokenizer itself adds it: the same characters in a text
are ordinary text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attestation.errors import ParseError
from enclave.guest.engines.base import ContextOverflow, FieldRefused, refused
from enclave.guest.engines.embedding import MOST_TOKENS, EmbedRequest
from enclave.guest.engines.prompt import MAX_CHARS_PER_TOKEN, check_vocabulary, tokenizer_of

SAMPLE = "text"


class TextEncoder:
    """Reads texts with the tokenizer.json of `files`. `vocabulary` is the number of tokens that the
    model has. Raises ParseError for a tokenizer that cuts or fills up, or has other tokens."""

    def __init__(self, files: Mapping[str, bytes | bytearray], *, vocabulary: int) -> None:
        self._tokenizer, self._vocabulary = tokenizer_of(files), vocabulary
        for name in ("truncation", "padding"):
            if getattr(self._tokenizer, name) is not None:
                raise ParseError(f"tokenizer.json: {name}: expected null, got a setting")
        check_vocabulary(self._tokenizer, vocabulary)
        self._tokenizer.encode_special_tokens = True
        self._before, self._after = self._added()

    def encode(self, request: EmbedRequest, *, most: int) -> list[list[int]]:
        """The ids of each text, `most` at most. The library works without the interpreter's lock.
        Raises FieldRefused, also ContextOverflow."""
        texts = [one for one in request.inputs if isinstance(one, str)]
        for at, one in enumerate(request.inputs):
            if isinstance(one, str) and len(one) > most * MAX_CHARS_PER_TOKEN:
                raise _overflow(request, at, most)
        read = iter(self._tokenizer.encode_batch_fast(texts, add_special_tokens=True))
        found = []
        for at, one in enumerate(request.inputs):
            ids = next(read).ids if isinstance(one, str) else self._whole(request, at, one)
            if len(ids) > most:
                raise _overflow(request, at, most)
            if len(ids) <= len(self._before) + len(self._after):
                raise refused(request.name(at), "expected at least one token, got none")
            found.append(ids)
        if sum(map(len, found)) > MOST_TOKENS:
            raise _too_many()
        return found

    def _whole(self, request: EmbedRequest, at: int, ids: Sequence[int]) -> list[int]:
        if max(ids) >= self._vocabulary or min(ids) < 0:
            raise refused(
                request.name(at),
                "expected token ids of this model's vocabulary, got one that is not in it",
            )
        return [*self._before, *ids, *self._after]

    def _added(self) -> tuple[list[int], list[int]]:
        """The ids before and after each text."""
        whole = self._tokenizer.encode(SAMPLE, add_special_tokens=True)
        bare = self._tokenizer.encode(SAMPLE, add_special_tokens=False).ids
        for at in range(len(whole.ids) - len(bare) + 1):
            end = at + len(bare)
            if bare and whole.ids[at:end] == bare and not any(whole.type_ids):
                return whole.ids[:at], whole.ids[end:]
        raise ParseError(
            "tokenizer.json: expected tokens of the kind 0, and special ones only before and after "
            "a text, got others"
        )


def _overflow(request: EmbedRequest, at: int, most: int) -> FieldRefused:
    name = request.name(at)
    text = f"{name}: expected at most {most} tokens with those that the model adds, got more"
    return ContextOverflow(text, param=name)


def _too_many() -> FieldRefused:
    text = f"input: expected at most {MOST_TOKENS} tokens together, got more"
    return ContextOverflow(text, param="input")
