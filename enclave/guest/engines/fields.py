"""Every field that a request may have, and what becomes of it.

A field is honoured, or has a value that asks for nothing, or is refused by name. Nothing is dropped
that would change the answer. The parser and the table in docs/spec/api.md (written by
`python -m scripts.api_fields`) both come from here, and a test compares the names with the request
types of the installed package `openai`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from enclave.guest.engines.base import refused

Kind = Literal["chat", "completion", "embedding"]
ALL: tuple[Kind, ...] = ("chat", "completion", "embedding")
BOTH: tuple[Kind, ...] = ("chat", "completion")
CHAT: tuple[Kind, ...] = ("chat",)
COMPLETION: tuple[Kind, ...] = ("completion",)
EMBEDDING: tuple[Kind, ...] = ("embedding",)

MAX_SHOWN_NAME = 80
"""Characters of a field's name in an error: the name is the caller's text."""


@dataclass(frozen=True)
class Field:
    """One field. `effect` is a sentence for the page, without its full stop.

    An honoured field is read by the parser. Of another one, the `nothing` values ask for nothing,
    and so does every value of the type `unread`; any other value is refused.
    """

    name: str
    effect: str
    kinds: tuple[Kind, ...] = BOTH
    honoured: bool = False
    nothing: tuple[Any, ...] = ()
    unread: type | None = None


def _read(name: str, effect: str, kinds: tuple[Kind, ...] = BOTH) -> Field:
    return Field(name, effect, kinds, honoured=True)


def _only(name: str, *values: Any, because: str, kinds: tuple[Kind, ...] = BOTH) -> Field:
    return Field(name, because, kinds, nothing=values)


def _unread(name: str, kind: type, because: str, kinds: tuple[Kind, ...] = BOTH) -> Field:
    return Field(name, because, kinds, unread=kind)


def _never(name: str, because: str, kinds: tuple[Kind, ...] = BOTH) -> Field:
    return Field(name, because, kinds)


_TOOLS = "there are no tools"
_CACHE = "nothing of a prompt is kept between requests"
_WHO = "the guest does not read who asks, and writes it nowhere"

BODY = (
    _read("messages", "1 to 1,024 messages; see below", CHAT),
    _read("prompt", "a string, or a list of one string", COMPLETION),
    _read(
        "input",
        "a string, a list of strings, a list of token ids, or a list of such lists; see below",
        EMBEDDING,
    ),
    _read("encoding_format", "`float` (the default) or `base64`", EMBEDDING),
    _read("dimensions", "the length of the model's vectors, and no other", EMBEDDING),
    _read("model", "the model's name, as `/v1/models` shows it", ALL),
    _read("max_tokens", "the most tokens of the answer; without it, the rest of the context"),
    _read("max_completion_tokens", "the same as `max_tokens`; if both are there, they are equal"),
    _read("temperature", "from 0 to 2; below 0.000001 the likeliest token is chosen"),
    _read("top_p", "above 0, up to 1"),
    _read("top_k", "the number of likeliest tokens to draw from; 0 and -1 are all of them"),
    _read("min_p", "from 0 to 1"),
    _read("seed", "an integer of 64 bits"),
    _read("stop", "a string or up to 16 strings, of 1 to 256 characters each"),
    _read("presence_penalty", "from -2 to 2"),
    _read("frequency_penalty", "from -2 to 2"),
    _read("repetition_penalty", "from 0.01 to 100, on the tokens of prompt and answer; 1 is none"),
    _read("logit_bias", "up to 300 token ids, each from -100 to 100"),
    _read("stream", "events, or one body"),
    _read("stream_options", "an object; see below"),
    _read("n", "1 to 8 choices, each with its own draws; usage counts the prompt once"),
    _read("best_of", "the same number as `n`", COMPLETION),
    _only("echo", False, because="the answer does not repeat the prompt", kinds=COMPLETION),
    _only("suffix", "", because="the guest writes only what follows", kinds=COMPLETION),
    _read("logprobs", "true or false; of the model's own logits before any change", CHAT),
    _read("top_logprobs", "from 0 to 20; above 0 only beside `logprobs: true`", CHAT),
    _read("logprobs", "from 0 to 20 likeliest tokens beside each chosen one", COMPLETION),
    _only("tools", [], because=_TOOLS, kinds=CHAT),
    _only("tool_choice", "none", "auto", because=_TOOLS, kinds=CHAT),
    _only("parallel_tool_calls", True, False, because=_TOOLS, kinds=CHAT),
    _only("functions", [], because=_TOOLS, kinds=CHAT),
    _only("function_call", "none", "auto", because=_TOOLS, kinds=CHAT),
    _read("response_format", "an object; see below", CHAT),
    _only("modalities", ["text"], because="the answer is text", kinds=CHAT),
    _never("audio", "the answer is text", CHAT),
    _never("prediction", "the guest does not predict outputs", CHAT),
    _only("reasoning_effort", "none", because="the effort cannot be set", kinds=CHAT),
    _only("verbosity", "medium", because="the length of answers cannot be set", kinds=CHAT),
    _never("web_search_options", "the guest reaches no web", CHAT),
    _never("moderation", "the guest judges no text", CHAT),
    _only("service_tier", "auto", "default", because="there is one tier", kinds=CHAT),
    _only("store", False, because="no answer is stored", kinds=CHAT),
    _unread("metadata", dict, "it is for stored answers, and none is stored", CHAT),
    _unread("user", str, _WHO, ALL),
    _unread("safety_identifier", str, _WHO, CHAT),
    _unread("prompt_cache_key", str, _CACHE, CHAT),
    _only("prompt_cache_retention", "in_memory", "24h", because=_CACHE, kinds=CHAT),
    _only(
        "prompt_cache_options",
        {}, {"mode": "implicit"}, {"mode": "explicit"},
        because=_CACHE, kinds=CHAT,
    ),
)  # fmt: skip

STREAM_OPTIONS = (
    _read("include_usage", "a last event with the token counts"),
    _unread("include_obfuscation", bool, "the channel pads every flush in any case"),
)

RESPONSE_FORMAT = (
    _read(
        "type",
        "`text`; `json_object`: the answer is a JSON object; `json_schema`: it is JSON that fits "
        "the schema",
        CHAT,
    ),
    _read("json_schema", "an object beside `json_schema`; see below", CHAT),
)

JSON_SCHEMA = (
    _read("schema", "a JSON schema; see below", CHAT),
    _read("name", "1 to 64 letters, digits, `_` and `-` of ASCII; the model does not see it", CHAT),
    _read("strict", "true or false: every answer fits the schema in both cases", CHAT),
    _unread("description", str, "the model does not see it", CHAT),
)

MESSAGE = (
    _read("role", "`system`, `developer` (the same as `system`), `user` or `assistant`", CHAT),
    _read(
        "content",
        "a string, or a list of up to 1,024 text parts, which are joined; of the assistant also "
        "null, which is the empty text",
        CHAT,
    ),
    _read("name", "the chat template must write it, else it is refused", CHAT),
    _never("refusal", "no template has a place for it", CHAT),
    _only("tool_calls", [], because=_TOOLS, kinds=CHAT),
    _never("function_call", _TOOLS, CHAT),
    _never("tool_call_id", _TOOLS, CHAT),
    _never("audio", "the guest reads text", CHAT),
    _only("annotations", [], because="the guest reads text", kinds=CHAT),
    _only("reasoning_content", "", because="the model does not reason", kinds=CHAT),
)

PART = (
    _read("type", "`text`", CHAT),
    _read("text", "a string", CHAT),
    _only("prompt_cache_breakpoint", {"mode": "explicit"}, because=_CACHE, kinds=CHAT),
    *(_never(name, "the guest reads text", CHAT)
      for name in ("image_url", "input_audio", "file", "refusal")),
)  # fmt: skip

TABLES: Mapping[str, tuple[Field, ...]] = {
    "": BODY,
    "stream_options.": STREAM_OPTIONS,
    "response_format.": RESPONSE_FORMAT,
    "response_format.json_schema.": JSON_SCHEMA,
    "messages[].": MESSAGE,
    "messages[].content[].": PART,
}
"""Every table, by what stands before the names of its fields on the page."""


def of_kind(table: Iterable[Field], kind: Kind) -> dict[str, Field]:
    """The fields that a body of this kind may have, by name."""
    return {field.name: field for field in table if kind in field.kinds}


def honoured(value: Mapping[str, Any], known: Mapping[str, Field], where: str) -> dict[str, Any]:
    """The honoured fields of an object of the request; null is the same as absent. `where` stands
    before the names in errors. Raises FieldRefused for what would otherwise be dropped."""
    found: dict[str, Any] = {}
    for name, item in value.items():
        field = known.get(name)
        if item is None:
            continue
        if field is not None and field.honoured:
            found[name] = item
        elif field is None or not _asks_nothing(field, item):
            raise _refusal(field, where + name[:MAX_SHOWN_NAME])
    return found


def _asks_nothing(field: Field, value: Any) -> bool:
    if field.unread is not None:
        return type(value) is field.unread
    return any(same(value, nothing) for nothing in field.nothing)


def same(left: Any, right: Any) -> bool:
    """Equal and of one type: 1 == True in Python, but `n: true` is a mistake."""
    return type(left) is type(right) and left == right


def _refusal(field: Field | None, param: str) -> Exception:
    if field is None:
        return refused(param, "expected a field that this engine knows, got this one; leave it out")
    if field.unread is not None:
        return refused(param, f"expected {JSON_TYPES[field.unread]}, got another value")
    if not field.nothing:
        return refused(param, f"expected no such field, because {field.effect}; leave it out")
    accepted = " or ".join(json.dumps(value) for value in field.nothing)
    return refused(param, f"expected {accepted}, because {field.effect}, got another value")


JSON_TYPES = {str: "a string", dict: "an object", bool: "true or false"}
"""How errors and the page name a type of JSON."""

__all__ = ["BODY", "MESSAGE", "PART", "STREAM_OPTIONS", "TABLES", "Field", "Kind", "honoured",
           "of_kind", "same"]  # fmt: skip
