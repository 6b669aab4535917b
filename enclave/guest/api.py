"""OpenAI's HTTP API as it stands inside the channel: what is asked, and how it is answered.

Bodies and events are OpenAI's, unmodified. Errors name fields, and of values only a model's name.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attestation import wire
from attestation.channel import bhttp
from attestation.errors import TooManyRequests, UsageError
from attestation.formats.receipt import FINISH_REASONS
from enclave.guest.body import ApiError, most_bytes, other_model
from enclave.guest.embeddings import written
from enclave.guest.engines.base import (
    Answer,
    ContextOverflow,
    Delta,
    Engine,
    EngineFailed,
    FieldRefused,
    FinishReason,
    PrepareFailed,
    QueueFull,
    Usage,
)
from enclave.guest.engines.choices import start
from enclave.guest.engines.embedding import MOST_BODY, Embedder
from enclave.guest.engines.fields import Kind
from enclave.guest.guest import Guest
from enclave.guest.logprobs import Logprobs
from enclave.guest.parsing import ParserFailed
from enclave.guest.runs import AnswerGone, KeyReused, TooManyKeys

JSON, SSE = wire.JSON.encode(), wire.EVENTS.encode()
KINDS: dict[str, Kind] = {wire.CHAT: "chat", wire.COMPLETIONS: "completion"}


@dataclass
class Account:
    """What an answer came to, for its receipt; there once its last piece has gone out. Of several
    choices the prompt counts once, and the reason is the least complete one."""

    finish_reason: str = "error"
    usage: Usage | None = None

    def add(self, reason: FinishReason, usage: Usage) -> None:
        """One choice has ended."""
        before = self.usage or Usage(0, 0, 0)
        reasons = {reason} if self.usage is None else {reason, self.finish_reason}
        self.finish_reason = max(reasons, key=FINISH_REASONS.index)
        self.usage = replace(
            usage,
            completion=before.completion + usage.completion,
            reasoning=before.reasoning + usage.reasoning,
        )


@dataclass(frozen=True)
class Reply:
    """An inner answer. `pieces` are whole SSE events, or one JSON body; reading them raises
    what the engine raises. `ran`: the engine worked for it. `retry_after` in seconds, where the
    request may be sent again."""

    status: int
    media_type: bytes
    pieces: AsyncGenerator[bytes]
    pacing: str = "none"
    account: Account | None = None
    answer: Answer | None = None
    ran: bool = False
    retry_after: int | None = None

    async def aclose(self) -> None:
        """Cancels the engine's answer, even where not one piece of it was read."""
        try:
            await self.pieces.aclose()
        finally:
            if self.answer is not None:
                await self.answer.aclose()


def _told(error: ApiError) -> Reply:
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    told = {"message": str(error), "type": kind, "param": error.param, "code": error.code}
    return Reply(error.status, JSON, _once({"error": told}), retry_after=error.retry_after)


_REFUSALS: dict[type[Exception], tuple[int, str]] = {
    ContextOverflow: (400, "context_length_exceeded"),
    KeyReused: (422, "idempotency_key_reused"),
    AnswerGone: (410, "idempotency_answer_gone"),
    UsageError: (400, "invalid_value"),
    TooManyKeys: (429, "idempotency_full"),
    QueueFull: (429, "queue_full"),
    TooManyRequests: (503, "too_many_requests"),
}
"""Status and code of an error whose message is for the client, the narrower class first."""


def failure(guest: Guest, error: Exception) -> Reply:
    """What the client is told of it: the text of what nobody expected could hold the prompt."""
    if isinstance(error, ApiError):
        return _told(error)
    if isinstance(error, EngineFailed):
        return _told(ApiError(503, "engine_failed", "the engine stopped"))
    if isinstance(error, (ParserFailed, PrepareFailed)):
        return _told(ApiError(503, error.code.replace("-", "_"), str(error)))
    for kind, (status, code) in _REFUSALS.items():
        if isinstance(error, kind):
            later = guest.retry_after() if status in (429, 503) else None
            param = error.param if isinstance(error, FieldRefused) else None
            return _told(ApiError(status, code, str(error), retry_after=later, param=param))
    return _told(ApiError(500, "internal", "the request could not be answered"))


def check_length(guest: Guest, request: bhttp.Request) -> None:
    """Raises ContextOverflow for a body that is longer than the context can have a use for. It is
    called before anything else looks at the body."""
    if isinstance(guest.engine, Embedder):
        return _check_body(request)
    context = guest.engine.info.max_len
    if len(request.content) > most_bytes(context):
        kind = KINDS.get(request.path.partition("?")[0])
        source = "prompt" if kind == "completion" else "messages"
        raise ContextOverflow(
            f"{source}: expected a body of at most {most_bytes(context)} bytes for a context of "
            f"{context} tokens, got a longer one",
            param=source,
        )


def _check_body(request: bhttp.Request) -> None:
    if len(request.content) > MOST_BODY:
        text = f"input: expected a body of at most {MOST_BODY} bytes, got a longer one"
        raise ContextOverflow(text, param="input")


async def respond(guest: Guest, request: bhttp.Request, *, client: bytes = b"") -> Reply:
    """The answer to one inner request of the client with this name, by which the engine's queue
    tells clients apart. Raises nothing: a refusal is a Reply too."""
    try:
        return await _respond(guest, request, client)
    except Exception as error:
        return failure(guest, error)


async def _respond(guest: Guest, request: bhttp.Request, client: bytes) -> Reply:
    if guest.drain.begun:
        text = "this machine is about to stop, and begins no more answers; ask another one"
        raise ApiError(503, "draining", text, retry_after=guest.drain.retry_after())
    path = request.path.partition("?")[0]
    if path == wire.MODELS or path.startswith(wire.MODELS + "/"):
        _expect_method(request, "GET")
        return _models(guest, path.removeprefix(wire.MODELS).removeprefix("/"))
    engine = guest.engine
    offered = (wire.EMBEDDINGS,) if isinstance(engine, Embedder) else tuple(KINDS)
    if path not in offered:
        raise ApiError(404, "not_found", f"expected {', '.join(offered)} or {wire.MODELS}")
    _expect_method(request, "POST")
    if isinstance(engine, Embedder):
        return await _embed(guest, engine, request, client)
    return await _generate(guest, engine, KINDS[path], request, client)


async def _generate(
    guest: Guest, engine: Engine, kind: Kind, request: bhttp.Request, client: bytes
) -> Reply:
    began, pacing = guest.clock(), _pacing(request)
    name = "umay-" + secrets.token_hex(12)
    asked = await guest.parsers.read(
        request.content, kind=kind, model=guest.model_name, request_id=name
    )
    logprobs = Logprobs(kind, asked.request.logprobs)
    shape = _Shape(kind, guest.model_name, guest.receipt_time(), name, logprobs)
    prepared = await engine.prepare(replace(asked.request, cache_salt=client))
    started = await start(engine, prepared)
    answer = guest.metrics.watched(started, began=began, clock=guest.clock)
    account = Account()
    if asked.streamed:
        pieces = _events(answer, shape, account, counted=asked.counted)
        return Reply(200, SSE, pieces, pacing, account, answer, ran=True)
    return Reply(200, JSON, _whole(answer, shape, account), pacing, account, answer, ran=True)


async def _embed(guest: Guest, engine: Embedder, request: bhttp.Request, client: bytes) -> Reply:
    pacing = _pacing(request)
    asked = await guest.parsers.read_embedding(request.content, model=guest.model_name)
    found = await engine.embed(asked, client=client)
    guest.metrics.prompt.add(found.tokens)
    account = Account("stop", Usage(found.tokens, 0, 0))
    pieces = written(found, asked.encoding, guest.model_name)
    return Reply(200, JSON, pieces, pacing, account, ran=True)


@dataclass(frozen=True)
class _Shape:
    """How OpenAI writes the objects of one answer."""

    kind: Kind
    model: str
    created: int
    id: str
    logprobs: Logprobs

    def chunk(self, delta: Delta, *, first: bool) -> dict[str, Any]:
        if self.kind == "completion":
            return self._object("text_completion", self._choice(delta, {"text": delta.text}))
        shown = {"content": delta.text} | ({"role": "assistant"} if first else {})
        return self._object("chat.completion.chunk", self._choice(delta, {"delta": shown}))

    def whole(self, choices: Sequence[Delta], usage: Usage) -> dict[str, Any]:
        name = "text_completion" if self.kind == "completion" else "chat.completion"
        shown = [self._choice(choice, self._content(choice.text)) for choice in choices]
        return {**self._object(name, *shown), "usage": _usage(usage)}

    def _content(self, text: str) -> dict[str, Any]:
        if self.kind == "completion":
            return {"text": text}
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

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

    def _choice(self, delta: Delta, content: dict[str, Any]) -> dict[str, Any]:
        return {
            "index": delta.index,
            **content,
            "logprobs": self.logprobs.of(delta),
            "finish_reason": delta.finish_reason,
        }


async def _events(
    answer: Answer, shape: _Shape, account: Account, *, counted: bool
) -> AsyncGenerator[bytes]:
    begun: set[int] = set()
    async for delta in _deltas(answer, account):
        first = delta.index not in begun
        if delta.text or delta.finish_reason or first:
            yield _event(shape.chunk(delta, first=first))
            begun.add(delta.index)
    usage = _counts(account)
    if counted:
        yield _event(shape.counted(usage))
    yield b"data: [DONE]\n\n"


async def _whole(answer: Answer, shape: _Shape, account: Account) -> AsyncGenerator[bytes]:
    deltas: dict[int, list[Delta]] = {}
    async for delta in _deltas(answer, account):
        deltas.setdefault(delta.index, []).append(delta)
    usage = _counts(account)
    yield _json(shape.whole([_joined(deltas[index]) for index in sorted(deltas)], usage))


def _joined(deltas: Sequence[Delta]) -> Delta:
    logprobs = tuple([found for delta in deltas for found in delta.logprobs])
    return replace(deltas[-1], text="".join([delta.text for delta in deltas]), logprobs=logprobs)


async def _deltas(answer: Answer, account: Account) -> AsyncIterator[Delta]:
    async for delta in answer:
        if delta.finish_reason is not None and delta.usage is not None:
            account.add(delta.finish_reason, delta.usage)
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
        raise other_model(guest.model_name, name)
    return _free(model)


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


__all__ = ["Account", "ApiError", "Reply", "check_length", "failure", "respond"]
