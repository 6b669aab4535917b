"""A strict parser of OpenAI's request bodies.

Every field of a body is either understood, or has a value that asks for nothing, or is refused by
name (`fields`). So an answer never silently lacks what was asked for. Error messages name fields
and types and never values, because a value may be the prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from enclave.guest.engines.base import MAX_LOGPROBS, GenerateRequest, Message, refused
from enclave.guest.engines.embedding import ENCODINGS, MOST_INPUTS, MOST_TOKENS, EmbedRequest, Input
from enclave.guest.engines.fields import (
    BODY,
    JSON_SCHEMA,
    MESSAGE,
    PART,
    RESPONSE_FORMAT,
    STREAM_OPTIONS,
    Field,
    Kind,
    honoured,
    of_kind,
    same,
)

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

NUMBERS = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)

MAX_MESSAGES = 1024
MAX_PARTS = 1024
"""Of one message."""
GREATEST_ID = 2**31 - 1

GUIDANCE = "x-guidance"
"""The key by which a schema would set options of the library that compiles it."""

ANY_OBJECT = '{"type":"object"}'
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

_MESSAGE, _PART = of_kind(MESSAGE, "chat"), of_kind(PART, "chat")
_FORMAT, _JSON_SCHEMA = of_kind(RESPONSE_FORMAT, "chat"), of_kind(JSON_SCHEMA, "chat")


def from_openai(
    body: Mapping[str, Any],
    *,
    kind: Kind,
    cache_salt: bytes = b"",
    request_id: str = "",
) -> GenerateRequest:
    """The request that a `chat/completions` or `completions` body asks for.

    Raises FieldRefused, which names the field.
    """
    fields = honoured(body, of_kind(BODY, kind), "")
    settings: dict[str, Any] = {
        name: _float(fields[name], name) for name in NUMBERS if name in fields
    }
    if kind == "chat":
        settings["messages"] = _messages(fields.get("messages"))
    else:
        settings["prompt"] = _prompt(fields.get("prompt"))
    return GenerateRequest(
        max_tokens=_max_tokens(fields),
        top_k=_top_k(fields.get("top_k")),
        seed=_integer(fields["seed"], "seed") if "seed" in fields else None,
        n=_choices(fields),
        logprobs=_chat_logprobs(fields) if kind == "chat" else _count(fields, "logprobs"),
        stop=_stops(fields.get("stop")),
        logit_bias=_bias(fields.get("logit_bias", {})),
        schema=_format(fields["response_format"]) if "response_format" in fields else None,
        cache_salt=cache_salt,
        request_id=request_id,
        **settings,
    )


def embed_from_openai(body: Mapping[str, Any]) -> EmbedRequest:
    """The vectors that an `embeddings` body asks for. Raises FieldRefused, which names the
    field."""
    fields = honoured(body, of_kind(BODY, "embedding"), "")
    inputs, alone = _inputs(fields.get("input"))
    encoding = fields.get("encoding_format", ENCODINGS[0])
    if encoding not in ENCODINGS:
        raise refused("encoding_format", f"expected {' or '.join(ENCODINGS)}, got another value")
    dimensions = _integer(fields["dimensions"], "dimensions") if "dimensions" in fields else None
    return EmbedRequest(inputs=inputs, alone=alone, dimensions=dimensions, encoding=encoding)


def _inputs(value: Any) -> tuple[tuple[Input, ...], bool]:
    """The texts; and whether the field was one of them, and not a list."""
    if not isinstance(value, list):
        return (_text(value, "input"),), True
    if value and type(value[0]) is int:
        return (_token_ids(value, "input"),), True
    if len(value) > MOST_INPUTS:
        raise refused("input", f"expected at most {MOST_INPUTS} texts, got more")
    read = _token_ids if value and isinstance(value[0], list) else _text
    return tuple(read(one, f"input[{at}]") for at, one in enumerate(value)), False


def _token_ids(value: Any, param: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise refused(param, f"expected a list of token ids, got {type(value).__name__}")
    if len(value) > MOST_TOKENS:
        raise refused(param, f"expected at most {MOST_TOKENS} token ids, got more")
    return tuple(_token_id(token, f"{param}[{at}]") for at, token in enumerate(value))


def _token_id(value: Any, param: str) -> int:
    if _integer(value, param) not in range(GREATEST_ID + 1):
        raise refused(param, f"expected a token id from 0 to {GREATEST_ID}, got another number")
    return int(value)


def stream_options(body: Mapping[str, Any]) -> tuple[bool, bool]:
    """(streamed, with a last event of counts). Raises FieldRefused."""
    streamed = _flag(body.get("stream"), "stream")
    options = {} if body.get("stream_options") is None else body["stream_options"]
    asked = _fields(options, {field.name: field for field in STREAM_OPTIONS}, "stream_options")
    return streamed, _flag(asked.get("include_usage"), "stream_options.include_usage")


def _flag(value: Any, param: str) -> bool:
    if value is not None and type(value) is not bool:
        raise refused(param, f"expected true or false, got {type(value).__name__}")
    return bool(value)


def _float(value: Any, param: str) -> float:
    if type(value) not in (int, float):
        raise refused(param, f"expected a number, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise refused(param, "expected a number in range, got a larger one") from None


def _integer(value: Any, param: str) -> int:
    if type(value) is not int:
        raise refused(param, f"expected an integer, got {type(value).__name__}")
    return value


def _top_k(value: Any) -> int | None:
    """-1 and 0 both stand for all tokens."""
    if value is None:
        return None
    number = _integer(value, "top_k")
    return 0 if number == -1 else number


def _choices(fields: Mapping[str, Any]) -> int:
    number = _integer(fields.get("n", 1), "n")
    if "best_of" in fields and not same(fields["best_of"], number):
        raise refused("best_of", "expected the same number as n, because none is thrown away")
    return number


def _chat_logprobs(fields: Mapping[str, Any]) -> int | None:
    """The number of likeliest tokens to tell; None if no probability is asked for."""
    count = _count(fields, "top_logprobs") or 0
    if _flag(fields.get("logprobs"), "logprobs"):
        return count
    if count:
        raise refused("top_logprobs", "expected logprobs: true beside it, got none")
    return None


def _count(fields: Mapping[str, Any], name: str) -> int | None:
    if name not in fields:
        return None
    count = _integer(fields[name], name)
    if not 0 <= count <= MAX_LOGPROBS:
        raise refused(name, f"expected a number from 0 to {MAX_LOGPROBS}, got another one")
    return count


def _max_tokens(fields: Mapping[str, Any]) -> int | None:
    names = [name for name in ("max_completion_tokens", "max_tokens") if name in fields]
    if len(names) == 2 and not same(fields[names[0]], fields[names[1]]):
        raise refused(
            "max_tokens",
            "expected the same value as max_completion_tokens, got another; give only one",
        )
    return _integer(fields[names[0]], names[0]) if names else None


def _text(value: Any, param: str) -> str:
    if not isinstance(value, str):
        raise refused(param, f"expected a string, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise refused(param, "expected Unicode text, got a lone surrogate") from None
    return value


def _stops(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = value if isinstance(value, list) else [value]
    return tuple(_text(stop, "stop") for stop in stops)


def _bias(value: Any) -> dict[int, float]:
    if not isinstance(value, dict):
        raise refused("logit_bias", f"expected an object, got {type(value).__name__}")
    for key in value:
        if not (key.isascii() and key.isdecimal() and len(key) <= 10):
            raise refused("logit_bias", "expected token ids as keys, got other keys")
    biases = {int(key): _float(number, "logit_bias") for key, number in value.items()}
    if len(biases) != len(value):
        raise refused("logit_bias", "expected each token id once, got one in two spellings")
    return biases


def _format(value: Any) -> str | None:
    """The schema of the answer, as JSON; None for free text."""
    fields = _fields(value, _FORMAT, "response_format")
    kind = fields.get("type")
    if kind == "json_schema":
        return _schema(fields.get("json_schema"), "response_format.json_schema")
    if "json_schema" in fields:
        raise refused("response_format.json_schema", "expected it only beside the type json_schema")
    if kind not in ("text", "json_object"):
        raise refused("response_format.type", "expected text, json_object or json_schema")
    return ANY_OBJECT if kind == "json_object" else None


def _schema(value: Any, where: str) -> str:
    fields = _fields(value, _JSON_SCHEMA, where)
    name = fields.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise refused(f"{where}.name", "expected 1 to 64 letters, digits, _ and - of ASCII")
    _flag(fields.get("strict"), f"{where}.strict")
    schema = fields.get("schema")
    if not isinstance(schema, dict):
        raise refused(f"{where}.schema", f"expected an object, got {type(schema).__name__}")
    if GUIDANCE in schema:
        raise refused(f"{where}.schema", f"expected no {GUIDANCE}, got it")
    try:
        return json.dumps(schema, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise refused(f"{where}.schema", "expected finite numbers, got a larger one") from None


def _fields(value: Any, known: Mapping[str, Field], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise refused(where, f"expected an object, got {type(value).__name__}")
    return honoured(value, known, f"{where}.")


def _prompt(value: object) -> str:
    """Alone, or as the one item of a list, which some clients always send."""
    if isinstance(value, list) and len(value) == 1:
        return _text(value[0], "prompt[0]")
    return _text(value, "prompt")


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_MESSAGES:
        raise refused(
            "messages", f"expected a list of 1 to {MAX_MESSAGES} messages, got another value"
        )
    return tuple(_message(item, f"messages[{index}]") for index, item in enumerate(value))


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise refused(where, f"expected an object, got {type(value).__name__}")
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise refused(f"{where}.role", "expected system, developer, user or assistant")
    fields = honoured(value, _MESSAGE, f"{where}.")
    if role == "assistant":
        fields.setdefault("content", "")
    content = _content(fields.get("content"), f"{where}.content")
    name = _text(fields["name"], f"{where}.name") if "name" in fields else None
    return Message(ROLES[role], content, name)  # type: ignore[arg-type]


def _content(value: Any, where: str) -> str:
    """A string, or the text parts of a list put together."""
    if not isinstance(value, list):
        return _text(value, where)
    if len(value) > MAX_PARTS:
        raise refused(where, f"expected at most {MAX_PARTS} parts, got more")
    return "".join(_part(part, f"{where}[{index}]") for index, part in enumerate(value))


def _part(value: Any, where: str) -> str:
    if not isinstance(value, dict) or value.get("type") != "text":
        raise refused(f"{where}.type", "expected text, got another kind of part")
    return _text(honoured(value, _PART, f"{where}.").get("text"), f"{where}.text")
