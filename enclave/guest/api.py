"""OpenAI's HTTP API as it stands inside the channel: what is asked, and how it is answered.

Bodies and events are OpenAI's, unmodified. Errors name fields, and of values only a model's name.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from attestation import wire
from attestation.channel import bhttp
from attestation.errors import UmayError, UsageError
from attestation.process import one_line
from enclave.guest.engines.base import (
    Answer,
    ContextOverflow,
    Delta,
    EngineFailed,
    FieldRefused,
    QueueFull,
    Usage,
)
from enclave.guest.engines.fields import Kind
from enclave.guest.engines.openai_request import from_openai, stream_options
from enclave.guest.guest import Guest
from enclave.guest.runs import AnswerGone, KeyReused, TooManyKeys

JSON, SSE = wire.JSON.encode(), wire.EVENTS.encode()
MAX_SHOWN = 80
"""Characters of a model's name in an error."""

KINDS: dict[str, Kind] = {wire.CHAT: "chat", wire.COMPLETIONS: "completion"}


@dataclass
class Account:
    """What an answer came to, for its receipt; there once its last piece has gone out."""

    finish_reason: str = "error"
    usage: Usage | None = None


@dataclass(frozen=True)
class Reply:
    """An inner answer. `pieces` are whole SSE events, or one JSON body; reading them raises
    what the engine raises. `retry_after` in seconds, where the request may be sent again."""

    status: int
    media_type: bytes
    pieces: AsyncGenerator[bytes]
    pacing: str = "none"
    account: Account | None = None
    answer: Answer | None = None
    retry_after: int | None = None

    async def aclose(self) -> None:
        """Cancels the engine's answer, even where not one piece of it was read."""
        try:
            await self.pieces.aclose()
        finally:
            if self.answer is not None:
                await self.answer.aclose()


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

    def reply(self) -> Reply:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        pieces = _once({"error": error})
        return Reply(self.status, JSON, pieces, retry_after=self.retry_after)


_REFUSALS: dict[type[Exception], tuple[int, str]] = {
    ContextOverflow: (400, "context_length_exceeded"),
    KeyReused: (422, "idempotency_key_reused"),
    AnswerGone: (410, "idempotency_answer_gone"),
    UsageError: (400, "invalid_value"),
    TooManyKeys: (429, "idempotency_full"),
    QueueFull: (429, "queue_full"),
}
"""Status and code of an error whose message is for the client, the narrower class first."""


def failure(guest: Guest, error: Exception) -> Reply:
    """What the client is told of it: the text of what nobody expected could hold the prompt."""
    if isinstance(error, ApiError):
        return error.reply()
    if isinstance(error, EngineFailed):
        return ApiError(503, "engine_failed", "the engine stopped").reply()
    for kind, (status, code) in _REFUSALS.items():
        if isinstance(error, kind):
            later = guest.retry_after() if status == 429 else None
            param = error.param if isinstance(error, FieldRefused) else None
            return ApiError(status, code, str(error), retry_after=later, param=param).reply()
    return ApiError(500, "internal", "the request could not be answered").reply()


async def respond(guest: Guest, request: bhttp.Request) -> Reply:
    """The answer to one inner request. Raises nothing: a refusal is a Reply too."""
    try:
        return await _respond(guest, request)
    except Exception as error:
        return failure(guest, error)


async def _respond(guest: Guest, request: bhttp.Request) -> Reply:
    path = request.path.partition("?")[0]
    if path == wire.MODELS or path.startswith(wire.MODELS + "/"):
        _expect_method(request, "GET")
        return _models(guest, path.removeprefix(wire.MODELS).removeprefix("/"))
    if path not in KINDS:
        raise ApiError(
            404, "not_found", "expected /v1/chat/completions, /v1/completions or /v1/models"
        )
    _expect_method(request, "POST")
    return await _generate(guest, KINDS[path], request)


async def _generate(guest: Guest, kind: Kind, request: bhttp.Request) -> Reply:
    pacing = _pacing(request)
    body = _body(request.content)
    if body.get("model") != guest.model_name:
        raise _other_model(guest, body.get("model"))
    shape = _Shape(kind, guest.model_name, guest.receipt_time())
    streamed, counted = stream_options(body)
    answer = guest.engine.generate(from_openai(body, kind=kind, request_id=shape.id))
    account = Account()
    if streamed:
        pieces = _events(answer, shape, account, counted=counted)
        return Reply(200, SSE, pieces, pacing, account, answer)
    return Reply(200, JSON, _whole(answer, shape, account), pacing, account, answer)


@dataclass(frozen=True)
class _Shape:
    """How OpenAI writes the objects of one answer."""

    kind: Kind
    model: str
    created: int
    id: str = field(default_factory=lambda: "umay-" + secrets.token_hex(12))

    def chunk(self, text: str, reason: str | None, *, first: bool) -> dict[str, Any]:
        if self.kind == "completion":
            return self._object("text_completion", self._choice({"text": text}, reason))
        delta = {"content": text} | ({"role": "assistant"} if first else {})
        return self._object("chat.completion.chunk", self._choice({"delta": delta}, reason))

    def whole(self, text: str, reason: str, usage: Usage) -> dict[str, Any]:
        name = "text_completion" if self.kind == "completion" else "chat.completion"
        content: dict[str, Any] = {"text": text}
        if self.kind == "chat":
            content = {"message": {"role": "assistant", "content": text, "refusal": None}}
        return {**self._object(name, self._choice(content, reason)), "usage": _usage(usage)}

    def counted(self, usage: Usage) -> dict[str, Any]:
        name = "text_completion" if self.kind == "completion" else "chat.completion.chunk"
        return {**self._object(name), "usage": _usage(usage)}

    def _object(self, name: str, *choices: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": name,
            "created": self.created,
            "model": self.model,
            "choices": list(choices),
        }

    def _choice(self, content: dict[str, Any], reason: str | None) -> dict[str, Any]:
        return {"index": 0, **content, "logprobs": None, "finish_reason": reason}


async def _events(
    answer: Answer, shape: _Shape, account: Account, *, counted: bool
) -> AsyncGenerator[bytes]:
    first = True
    async for delta in _deltas(answer, account):
        if delta.text or delta.finish_reason or first:
            yield _event(shape.chunk(delta.text, delta.finish_reason, first=first))
            first = False
    usage = _counts(account)
    if counted:
        yield _event(shape.counted(usage))
    yield b"data: [DONE]\n\n"


async def _whole(answer: Answer, shape: _Shape, account: Account) -> AsyncGenerator[bytes]:
    text = "".join([delta.text async for delta in _deltas(answer, account)])
    usage = _counts(account)
    yield _json(shape.whole(text, account.finish_reason, usage))


async def _deltas(answer: Answer, account: Account) -> AsyncIterator[Delta]:
    async for delta in answer:
        if delta.finish_reason is not None:
            account.finish_reason, account.usage = delta.finish_reason, delta.usage
        yield delta


def _counts(account: Account) -> Usage:
    if account.usage is None:
        raise EngineFailed("engine: an answer ended without its counts")
    return account.usage


def _models(guest: Guest, name: str) -> Reply:
    model = {"id": guest.model_name, "object": "model", "created": 0, "owned_by": "umay"}
    if not name:
        return _free({"object": "list", "data": [model]})
    if name != guest.model_name:
        raise _other_model(guest, name)
    return _free(model)


def _other_model(guest: Guest, name: object) -> ApiError:
    shown = one_line(name)[:MAX_SHOWN] if isinstance(name, str) else type(name).__name__
    text = f"expected the model {guest.model_name}, got {shown or 'an empty name'}"
    return ApiError(404, "model_not_found", text, param="model")


def _free(value: dict[str, Any]) -> Reply:
    """What costs nothing has a receipt too: clients expect one with every success."""
    return Reply(200, JSON, _once(value), account=Account("stop", Usage(0, 0, 0)))


def _expect_method(request: bhttp.Request, method: str) -> None:
    if request.method != method:
        raise ApiError(405, "method_not_allowed", f"expected the method {method}")


def _pacing(request: bhttp.Request) -> str:
    asked = [value for name, value in request.headers if name == wire.PACING_FIELD]
    if not asked:
        return wire.DEFAULT_PACING
    found = next((name for name in wire.PACINGS if asked == [name.encode()]), None)
    if found is None:
        raise ApiError(
            400, "invalid_value", f"umay-pacing: expected one of {', '.join(wire.PACINGS)}"
        )
    return found


def _body(content: bytes) -> dict[str, Any]:
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


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + _json(value) + b"\n\n"


def _json(value: dict[str, Any]) -> bytes:
    # An error may name a field that is no Unicode text.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


async def _once(value: dict[str, Any]) -> AsyncGenerator[bytes]:
    yield _json(value)


__all__ = ["Account", "ApiError", "Reply", "failure", "respond"]
