"""What an engine that makes embeddings is asked, and what it answers.

An embedding is a vector for a text. No repr and no exception contains a text or a vector. Nothing
is cut: a text that is too long is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from attestation.errors import ParseError
from attestation.formats.json import decode
from enclave.guest.engines.base import AnyEngine, refused
from enclave.guest.engines.parsed import packed, unpacked

MOST_INPUTS = 2048
"""Texts of one request, as in OpenAI's API."""

MOST_TOKENS = 1 << 16
"""Of all the texts of one request: half a minute of one processor core with a small model."""

MOST_CHARS = 16 * MOST_TOKENS
"""Of all the texts of one request. Real texts have about 4 characters for each token."""

MOST_BODY = 8 << 20
"""Bytes of a body: the longest spelling of a character in JSON has 6 bytes."""

Input = str | tuple[int, ...]
Encoding = Literal["float", "base64"]
ENCODINGS: tuple[Encoding, ...] = ("float", "base64")


@dataclass(frozen=True, kw_only=True)
class EmbedRequest:
    """Texts, or their token ids, which stand for themselves. `dimensions` None is the model's own
    number; the encoding is the API's. Raises FieldRefused for more than a request may have."""

    inputs: tuple[Input, ...] = field(repr=False)
    alone: bool = False
    """The body had no list, so errors call the text `input`."""
    dimensions: int | None = None
    encoding: Encoding = "float"

    def __post_init__(self) -> None:
        if not 0 < len(self.inputs) <= MOST_INPUTS:
            raise refused("input", f"expected 1 to {MOST_INPUTS} texts, got another number")
        for at, one in enumerate(self.inputs):
            if not one:
                raise refused(self.name(at), "expected a text or token ids, got an empty one")
        if sum(len(one) for one in self.inputs if isinstance(one, str)) > MOST_CHARS:
            raise refused("input", f"expected at most {MOST_CHARS} characters together, got more")
        if sum(len(one) for one in self.inputs if not isinstance(one, str)) > MOST_TOKENS:
            raise refused("input", f"expected at most {MOST_TOKENS} tokens together, got more")

    def name(self, at: int) -> str:
        """How errors call the text of this number."""
        return "input" if self.alone else f"input[{at}]"

    def to_bytes(self) -> bytes:
        """As in parsed. The head has the token ids."""
        texts = [one.encode() for one in self.inputs if isinstance(one, str)]
        lengths = iter([len(text) for text in texts])
        head = {
            "inputs": [next(lengths) if isinstance(one, str) else one for one in self.inputs],
            "alone": self.alone,
            "dimensions": self.dimensions,
            "encoding": self.encoding,
        }
        return packed(head, texts)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray, *, begin: int = 0) -> EmbedRequest:
        """What stands in `data` from `begin` on. Raises ParseError for what `to_bytes` does not
        write, and FieldRefused."""
        try:
            return cls(**_read(memoryview(data)[begin:]))
        except (ValueError, TypeError, LookupError, AttributeError):
            raise ParseError("parsed body: expected texts, got other bytes") from None


def _read(data: memoryview) -> dict[str, Any]:
    shown, texts = unpacked(data)
    head, end = decode(shown, what="parsed body"), 0
    inputs: list[Input] = []
    for one in head.pop("inputs"):
        if isinstance(one, list):
            inputs.append(tuple(map(_number, one)))
            continue
        inputs.append(bytes(texts[end : end + _number(one)]).decode())
        end += one
    if end != len(texts) or head.keys() != {"alone", "dimensions", "encoding"}:
        raise ValueError
    if type(head["alone"]) is not bool or head["encoding"] not in ENCODINGS:
        raise ValueError
    if head["dimensions"] is not None:
        _number(head["dimensions"])
    return {"inputs": tuple(inputs), **head}


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError
    return value


@dataclass(frozen=True)
class Embedded:
    """A vector for each text, as float32 in little-endian bytes; and how many tokens were read."""

    vectors: tuple[bytes, ...] = field(repr=False)
    tokens: int


@runtime_checkable
class Embedder(AnyEngine, Protocol):
    """An engine that makes embeddings."""

    async def embed(self, request: EmbedRequest, *, client: bytes) -> Embedded:
        """The vectors, in the order of the texts. Cancelling it frees its place. `client` is a name
        as in fair_queue.

        Raises FieldRefused (also ContextOverflow), QueueFull or EngineFailed.
        """
