"""What a request body asks for: strict JSON, the right model, known fields.

This module opens no connection and holds no state. Large bodies are read by it in another process
(`parsing`), because Python's parser stops every other thread while it works. What comes back from
there is `Asked.to_bytes`: numbers and lengths in a small head, then the texts as they are. So the
process that serves builds no object but a GenerateRequest, which checks its ranges again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from attestation.errors import ParseError, UmayError, UsageError
from attestation.process import one_line
from enclave.guest.engines.base import GenerateRequest, Message
from enclave.guest.engines.embedding import EmbedRequest
from enclave.guest.engines.fields import Kind
from enclave.guest.engines.openai_request import embed_from_openai, from_openai, stream_options
from enclave.guest.engines.parsed import packed, unpacked

MAX_SHOWN = 80
"""Characters of a model's name in an error."""

BYTES_PER_TOKEN = 768
"""Of a body, for each token of the context: no token has more than 128 characters, and the longest
spelling of a character in JSON has 6 bytes."""

OTHER_BYTES = 256 << 10
"""Of a body, for everything that is not text of the prompt: 1,024 messages have about 100 KiB of
names and braces."""

_SCALARS = (
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty",
    "frequency_penalty", "repetition_penalty", "n", "logprobs",
)  # fmt: skip


class ApiError(UmayError):
    """An answer in OpenAI's error form; `code` is a word of that API."""

    exit_code = UsageError.exit_code

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after: int | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after, self.param = status, code, retry_after, param


@dataclass(frozen=True)
class Asked:
    """A body that was understood. `counted`: a last event with the token counts."""

    streamed: bool
    counted: bool
    request: GenerateRequest

    def to_bytes(self) -> bytes:
        """As in parsed; the texts are in the head's order."""
        texts = list(_texts(self.request))
        turns = self.request.messages
        head: dict[str, Any] = {name: getattr(self.request, name) for name in _SCALARS}
        head |= {
            "streamed": self.streamed,
            "counted": self.counted,
            "bias": [[token, value] for token, value in self.request.logit_bias.items()],
            "turns": None if turns is None else [[t.role, t.name is not None] for t in turns],
            "formed": self.request.schema is not None,
            "lengths": [len(text) for text in texts],
        }
        return packed(head, texts)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray, *, request_id: str, begin: int = 0) -> Asked:
        """What stands in `data` from `begin` on. Raises ParseError for what `to_bytes` does not
        write, and UsageError for a bad range."""
        try:
            return cls._read(memoryview(data)[begin:], request_id)
        except (ValueError, TypeError, LookupError, AttributeError, StopIteration, RecursionError):
            raise ParseError("parsed body: expected a request, got other bytes") from None

    @classmethod
    def _read(cls, data: memoryview, request_id: str) -> Asked:
        shown, rest = unpacked(data)
        head = json.loads(shown)
        texts = iter(_cut(rest, head.pop("lengths")))
        turns, bias = head.pop("turns"), head.pop("bias")
        flags = [head.pop(name) for name in ("streamed", "counted", "formed")]
        source: dict[str, Any] = {"prompt": next(texts)} if turns is None else {}
        if turns is not None:
            source = {"messages": tuple([_turn(role, named, texts) for role, named in turns])}
        if head.keys() != set(_SCALARS) or {type(flag) for flag in flags} != {bool}:
            raise ValueError
        streamed, counted, formed = flags
        source["schema"] = next(texts) if formed else None
        request = GenerateRequest(
            stop=tuple(texts), logit_bias=dict(bias), request_id=request_id, **source, **head
        )
        return cls(streamed, counted, request)


def _texts(request: GenerateRequest) -> Iterator[bytes]:
    """The prompt, or each message's content and name; then the schema and the stop strings."""
    if request.prompt is not None:
        yield request.prompt.encode()
    for turn in request.messages or ():
        yield turn.content.encode()
        if turn.name is not None:
            yield turn.name.encode()
    if request.schema is not None:
        yield request.schema.encode()
    for stop in request.stop:
        yield stop.encode()


def _turn(role: Any, named: bool, texts: Iterator[str]) -> Message:
    if role not in ("system", "user", "assistant"):
        raise ValueError
    content = next(texts)
    return Message(role, content, next(texts) if named else None)


def _cut(data: memoryview, lengths: list[int]) -> Iterator[str]:
    at = 0
    for length in lengths:
        yield bytes(data[at : at + length]).decode()
        at += length
    if at != len(data) or any(length < 0 for length in lengths):
        raise ValueError


def most_bytes(context: int) -> int:
    """The longest body that a model with a context of so many tokens can have a use for."""
    return BYTES_PER_TOKEN * context + OTHER_BYTES


def read_body(content: bytes | bytearray, *, kind: Kind, model: str, request_id: str) -> Asked:
    """What the body asks of `model`. Raises ApiError, and FieldRefused, which names the field."""
    body = _asked_of(model, content)
    streamed, counted = stream_options(body)
    return Asked(streamed, counted, from_openai(body, kind=kind, request_id=request_id))


def read_embedding(content: bytes | bytearray, *, model: str) -> EmbedRequest:
    """The vectors that the body asks of `model`. Raises what `read_body` raises."""
    return embed_from_openai(_asked_of(model, content))


def _asked_of(model: str, content: bytes | bytearray) -> dict[str, Any]:
    body = _object(content)
    if body.get("model") != model:
        raise other_model(model, body.get("model"))
    return body


def other_model(model: str, name: object) -> ApiError:
    shown = one_line(name)[:MAX_SHOWN] if isinstance(name, str) else type(name).__name__
    text = f"expected the model {model}, got {shown or 'an empty name'}"
    return ApiError(404, "model_not_found", text, param="model")


def _object(content: bytes | bytearray) -> dict[str, Any]:
    try:
        # Of bytes, Python's parser would guess the encoding.
        body = json.loads(
            content.decode(), parse_constant=_no_constant, object_pairs_hook=_each_once
        )
    except (ValueError, RecursionError):
        raise ApiError(400, "invalid_json", "expected a JSON body") from None
    if not isinstance(body, dict):
        raise ApiError(400, "invalid_json", "expected a JSON object")
    return body


def _no_constant(name: str) -> NoReturn:
    """Python's parser takes NaN and Infinity, which JSON does not know."""
    raise ValueError(name)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A receipt is of the request's bytes: they must read alike to whoever sees them later."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name twice")
    return fields
