"""The interface of every engine, and the requests and answers that pass through it.

No repr and no exception contains a prompt or an answer. An engine refuses by name what it does not
support, before it runs, and never drops it. Closing the iterator of an answer cancels the answer.
The last Delta of an answer has the reason why it ended and the token counts.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from attestation.errors import Unavailable, UsageError

FinishReason = Literal["stop", "length", "cancelled"]

MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_CHOICES = 8
MAX_LOGPROBS = 20
MOST_COUNT = 2**31
"""Of tokens, in a request or a model's defaults."""

SCHEMA_FIELD = "response_format"
"""The field of a request that has a schema."""

MAX_SCHEMA_CHARS = 64 << 10
"""Of a schema as JSON in ASCII without spaces."""
MAX_LOGIT_BIAS = 300
"""The most entries of a logit_bias, as in OpenAI's API."""


class QueueFull(Unavailable):
    """As many requests are waiting as may wait; ask again later (HTTP 429)."""

    code = "queue-full"


class EngineFailed(Unavailable):
    """The engine stopped, and nothing more will come from it (HTTP 503)."""

    code = "engine-failed"


class PrepareFailed(Unavailable):
    """What prepares a request could not be used; ask again (HTTP 503)."""

    code = "prepare-failed"


class FieldRefused(UsageError):
    """A field of the request has a value that the engine does not accept (HTTP 400). `param` is
    the field, as `messages[0].name`. The message names the field and never quotes its value, except
    the keys of a schema."""

    code = "field-refused"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextOverflow(FieldRefused):
    """Prompt and answer do not fit into the context (HTTP 400, `context_length_exceeded`)."""

    code = "context-overflow"


def refused(param: str, text: str) -> FieldRefused:
    """The error about the field `param`, whose message begins with its name."""
    return FieldRefused(f"{param}: {text}", param=param)


@dataclass(frozen=True)
class Message:
    """One turn of a chat, as text. `name` tells speakers of one role apart."""

    role: Literal["system", "user", "assistant"]
    content: str = field(repr=False)
    name: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """What the engine should write: an answer to either `messages` or `prompt`. None stands for the
    model's own default.

    `logprobs` likeliest tokens are told beside each chosen one; None tells nothing of
    probabilities. `n` choices are asked for; the engine writes the one of the number `choice`, with
    its own draws (`choices`). The answer is JSON that fits `schema`, a JSON schema as text.
    `token_ids` is the prompt and `grammar` the schema as the engine's `prepare` wrote them; nobody
    else sets them. `cache_salt` is the client's name: it separates tenants in engines that share
    prefixes between requests, and each name has a bounded share of the queue (fair_queue.py).
    Empty: no name.
    Raises UsageError for a value out of its range.
    """

    messages: tuple[Message, ...] | None = field(default=None, repr=False)
    prompt: str | None = field(default=None, repr=False)
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    n: int = 1
    choice: int = 0
    logprobs: int | None = None
    stop: tuple[str, ...] = field(default=(), repr=False)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict, repr=False)
    schema: str | None = field(default=None, repr=False)
    grammar: Any = field(default=None, repr=False, compare=False)
    token_ids: tuple[int, ...] | None = field(default=None, repr=False)
    cache_salt: bytes = field(default=b"", repr=False)
    request_id: str = ""

    def __post_init__(self) -> None:
        if (self.messages is None) == (self.prompt is None):
            raise UsageError("request: expected either messages or a prompt, got both or neither")
        if self.messages is not None and not self.messages:
            raise refused("messages", "expected at least one message, got none")
        _check_range("max_tokens", self.max_tokens, 1, MOST_COUNT)
        _check_range("temperature", self.temperature, 0.0, 2.0)
        _check_range("top_p", self.top_p, 0.0, 1.0, open_low=True)
        _check_range("top_k", self.top_k, 0, MOST_COUNT)
        _check_range("min_p", self.min_p, 0.0, 1.0)
        _check_range("n", self.n, 1, MAX_CHOICES)
        _check_range("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        _check_range("seed", self.seed, -(2**63), 2**63 - 1)
        _check_range("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_range("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        _check_stops(self.stop)
        _check_schema(self.schema)
        _check_bias(self.logit_bias)


@dataclass(frozen=True)
class Usage:
    """Token counts, in the order of the receipt. `completion` counts the end token too."""

    prompt: int
    cached: int
    completion: int
    reasoning: int = 0


@dataclass(frozen=True)
class TokenLogprob:
    """A token as its bytes, the natural logarithm of its probability, and the likeliest tokens at
    its place with theirs, the likeliest first."""

    token: bytes = field(repr=False)
    logprob: float = field(repr=False)
    top: tuple[tuple[bytes, float], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Delta:
    """The next piece of an answer. Only the last one has `finish_reason` and `usage`. `logprobs`,
    where they were asked for, are of the `token_ids` except an end token."""

    text: str = field(repr=False)
    token_ids: tuple[int, ...] = field(default=(), repr=False)
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What the host may choose, in its measured config. None leaves it to the engine: as many
    tokens as the model's context, the model's own dtype."""

    name: str
    slots: int | None = None
    max_len: int | None = None
    dtype: str | None = None
    threads: int | None = None


@dataclass(frozen=True)
class EngineInfo:
    """What an engine is. Everything that changes an answer is in `engine_config`; `kv_bytes` of
    memory, for keys and values of all slots, does not."""

    engine: str
    version: str
    libraries: tuple[tuple[str, str], ...]
    device: str
    dtype: str
    quantisation: str
    flags: tuple[tuple[str, bool | int | str], ...]
    slots: int
    max_len: int
    model_digest: bytes
    features: frozenset[str]
    kv_bytes: int = 0


@dataclass(frozen=True)
class EngineStats:
    """Counts for the host. They contain no tenant, no length and no text."""

    slots: int
    running: int
    waiting: int
    finished: int
    cancelled: int
    tokens: int


class Answer(Protocol):
    """An answer that is being written: an async iterator of Deltas."""

    def __aiter__(self) -> AsyncIterator[Delta]: ...

    async def __anext__(self) -> Delta: ...

    async def aclose(self) -> None:
        """Cancels the answer. It may be called at any time and repeatedly, and has no effect after
        the last Delta."""


class AnyEngine(Protocol):
    """What all engines in the guest have: those that write, and those that make embeddings
    (`embedding.Embedder`)."""

    @property
    def info(self) -> EngineInfo:
        """What the engine is. It is known before the start, because the key bundle needs the digest
        of the engine config first."""

    async def start(self) -> EngineInfo:
        """Loads the model, and tests the engine. Raises EngineFailed."""

    def stats(self) -> EngineStats:
        """Counts of what runs at the moment."""

    def failure(self) -> EngineFailed | None:
        """Why no answer will come from it any more; None while it works."""

    async def close(self) -> None:
        """Cancels all answers and frees the model."""


class Engine(AnyEngine, Protocol):
    """An engine that writes."""

    async def prepare(self, request: GenerateRequest) -> GenerateRequest:
        """The same request with its `token_ids` and `grammar`. What takes long happens on another
        thread, without the interpreter's lock. Raises FieldRefused (also ContextOverflow),
        EngineFailed, QueueFull or PrepareFailed."""

    def generate(self, request: GenerateRequest) -> Answer:
        """Puts a request into the queue and returns its answer, whose `aclose()` cancels it.

        Raises UsageError (also ContextOverflow), QueueFull or EngineFailed. Reading the answer can
        raise EngineFailed.
        """


async def until_failed(engine: AnyEngine, *, every: float = 0.5) -> EngineFailed:
    """Returns once an engine that was started works no more; `every` in seconds."""
    while (failure := engine.failure()) is None:
        await asyncio.sleep(every)
    return failure


def engine_config(info: EngineInfo) -> bytes:
    """The engine config: canonical JSON (sorted keys, no spaces, ASCII), which is hashed with the
    domain `umay/engine/v1` (docs/spec/engine.md)."""
    value = {
        "engine": info.engine,
        "version": info.version,
        "libraries": dict(info.libraries),
        "device": info.device,
        "dtype": info.dtype,
        "quantisation": info.quantisation,
        "flags": dict(info.flags),
        "slots": info.slots,
        "max_len": info.max_len,
    }
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _check_range(
    name: str, value: float | None, low: float, high: float, *, open_low: bool = False
) -> None:
    # Every comparison with NaN is false, so the condition says what is right.
    if value is not None and not (low <= value <= high and not (open_low and value == low)):
        raise refused(name, f"expected a number from {low} to {high}, got another one")


def _check_stops(stops: tuple[str, ...]) -> None:
    if len(stops) > MAX_STOPS:
        raise refused("stop", f"expected at most {MAX_STOPS} strings, got {len(stops)}")
    if not all(0 < len(stop) <= MAX_STOP_CHARS for stop in stops):
        raise refused(
            "stop",
            f"expected strings of 1 to {MAX_STOP_CHARS} characters, got one of another length",
        )


def _check_schema(schema: str | None) -> None:
    if schema is not None and len(schema) > MAX_SCHEMA_CHARS:
        raise refused(
            SCHEMA_FIELD,
            f"expected a schema of at most {MAX_SCHEMA_CHARS} characters, got a longer one",
        )


def _check_bias(bias: Mapping[int, float]) -> None:
    if len(bias) > MAX_LOGIT_BIAS:
        raise refused("logit_bias", f"expected at most {MAX_LOGIT_BIAS} entries, got {len(bias)}")
    for token, value in bias.items():
        _check_range("logit_bias", token, 0, 2**31)
        _check_range("logit_bias", value, -100.0, 100.0)
