"""A strict parser of OpenAI's request bodies.

Every field of a body is either understood, or has a value that asks for nothing, or is refused by
name. So an answer never silently lacks what was asked for. Error messages name fields and types and
never values, because a value may be the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from attestation.errors import UsageError
from enclave.guest.engines.base import GenerateRequest, Message

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

NUMBERS = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty")
INTEGERS = ("top_k", "seed")

HANDLED_ABOVE = frozenset({"model", "stream", "stream_options", "user", "metadata", "store"})
"""Fields that the API reads, or that change no token of the answer."""

HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "logprobs": (None, False),
    "top_logprobs": (None,),
    "echo": (None, False),
    "suffix": (None, ""),
    "tools": (None, []),
    "tool_choice": (None, "none"),
    "parallel_tool_calls": (None, True, False),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "service_tier": (None, "auto", "default"),
}
"""Fields that this engine does not implement, and the values that ask for nothing."""

MAX_MESSAGES = 1024


def from_openai(
    body: Mapping[str, Any],
    *,
    kind: Literal["chat", "completion"],
    cache_salt: bytes = b"",
    request_id: str = "",
) -> GenerateRequest:
    """The request that a `chat/completions` or `completions` body asks for.

    Raises UsageError that names the field.
    """
    source = "messages" if kind == "chat" else "prompt"
    fields = {key: value for key, value in body.items() if value is not None}
    _refuse_unknown(fields, source)
    settings: dict[str, Any] = {name: _number(fields, name) for name in NUMBERS if name in fields}
    settings |= {name: _integer(fields, name) for name in INTEGERS if name in fields}
    if source == "messages":
        settings["messages"] = _messages(fields.get("messages"))
    else:
        settings["prompt"] = _prompt(fields.get("prompt"))
    return GenerateRequest(
        max_tokens=_max_tokens(fields),
        stop=_stops(fields.get("stop")),
        logit_bias=_bias(fields.get("logit_bias", {})),
        cache_salt=cache_salt,
        request_id=request_id,
        **settings,
    )


def _refuse_unknown(fields: Mapping[str, Any], source: str) -> None:
    known = {source, "max_tokens", "max_completion_tokens", "stop", "logit_bias"}
    known |= {*NUMBERS, *INTEGERS, *HANDLED_ABOVE}
    for name in sorted(fields.keys() - known):
        if not any(_same(fields[name], value) for value in HARMLESS.get(name, ())):
            raise UsageError(
                f"{name}: expected a field that this engine supports, got this one; leave it out"
            )


def _same(left: Any, right: Any) -> bool:
    # 1 == True in Python, but `n: true` is a mistake.
    return type(left) is type(right) and left == right


def _number(fields: Mapping[str, Any], name: str) -> float:
    return _float(fields[name], name)


def _float(value: Any, name: str) -> float:
    if type(value) not in (int, float):
        raise UsageError(f"{name}: expected a number, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise UsageError(f"{name}: expected a number in range, got a larger one") from None


def _integer(fields: Mapping[str, Any], name: str) -> int:
    value = fields[name]
    if type(value) is not int:
        raise UsageError(f"{name}: expected an integer, got {type(value).__name__}")
    return value


def _max_tokens(fields: Mapping[str, Any]) -> int | None:
    names = [name for name in ("max_completion_tokens", "max_tokens") if name in fields]
    if len(names) == 2 and not _same(fields[names[0]], fields[names[1]]):
        raise UsageError(
            "max_tokens: expected the same value as max_completion_tokens, got another; give only "
            "one"
        )
    return _integer(fields, names[0]) if names else None


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{name}: expected a string, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name}: expected Unicode text, got a lone surrogate") from None
    return value


def _stops(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = value if isinstance(value, list) else [value]
    return tuple(_text(stop, "stop") for stop in stops)


def _bias(value: Any) -> dict[int, float]:
    if not isinstance(value, dict):
        raise UsageError(f"logit_bias: expected an object, got {type(value).__name__}")
    for key in value:
        if not (isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) <= 10):
            raise UsageError("logit_bias: expected token ids as keys, got other keys")
    return {int(key): _float(number, "logit_bias") for key, number in value.items()}


def _prompt(value: object) -> str:
    """Alone, or as the one item of a list, which some clients always send."""
    if isinstance(value, list) and len(value) == 1:
        return _text(value[0], "prompt[0]")
    return _text(value, "prompt")


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_MESSAGES:
        raise UsageError(
            f"messages: expected a list of 1 to {MAX_MESSAGES} messages, got another value"
        )
    return tuple(_message(item, f"messages[{index}]") for index, item in enumerate(value))


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: expected an object, got {type(value).__name__}")
    fields = {key: item for key, item in value.items() if item is not None}
    for name in sorted(fields.keys() - {"role", "content", "name", "refusal"}):
        if fields[name] != []:
            raise UsageError(f"{where}.{name}: this engine does not support it")
    role = fields.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise UsageError(f"{where}.role: expected system, developer, user or assistant")
    return Message(ROLES[role], _content(fields.get("content"), f"{where}.content"))  # type: ignore[arg-type]


def _content(value: Any, where: str) -> str:
    """A string, or the text parts of a list put together."""
    if not isinstance(value, list):
        return _text(value, where)
    parts = []
    for index, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") != "text":
            raise UsageError(f"{where}[{index}].type: expected text")
        parts.append(_text(part.get("text"), f"{where}[{index}].text"))
    return "".join(parts)
