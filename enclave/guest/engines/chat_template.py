"""The chat template of a model, and its trial before the guest boots.

A template runs in Jinja's sandbox, without a clock and without chance, so equal messages give equal
text. Its loops and calls are counted. A template that fails in the trial, that needs too many
steps, or that leaves out a turn is refused when the model is loaded, so the host learns of it and
not the first client.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from attestation.errors import ParseError
from enclave.guest.engines.base import refused

STEPS_PER_TURN = 4096
"""Steps of loops, and calls, for each turn of a conversation. The templates in use need some ten;
one that compares every turn with every other one needs 1,024, with the most turns of a request."""

_STEPS = "umay_steps"
"""The name under which a template finds the count of its steps."""

Turn = Mapping[str, str]


class TemplateRefused(ParseError):
    """The model's chat template does not do what the API offers."""

    code = "chat-template"


class _SaidByTemplate(TemplateError):
    """What the template itself says against the messages, with `raise_exception`."""


class _TooManySteps(TemplateError):
    pass


class ChatTemplate:
    """`source` as a template; `names` are the texts of special tokens that it may ask for. Raises
    TemplateRefused for what is no template, or does not pass the trial."""

    def __init__(self, source: str, names: Mapping[str, str]) -> None:
        self._names = dict(names)
        environment = _environment()
        try:
            self._template = environment.from_string(_counted(environment, source))
        except TemplateError as error:
            raise TemplateRefused(
                f"chat_template: expected a Jinja template, got other text ({type(error).__name__})"
            ) from None
        self._try()

    def render(self, turns: Sequence[Turn]) -> str:
        """The conversation as text, up to where the assistant begins to speak. Raises FieldRefused
        with the template's own words, or without any: other errors may quote the messages."""
        try:
            return self._write(turns)
        except _SaidByTemplate as error:
            raise refused("messages", f"the chat template says: {error.message}") from None
        except Exception as error:
            raise refused(
                "messages",
                "expected messages that the chat template can write, it ended with "
                f"{type(error).__name__}",
            ) from None

    def _write(self, turns: Sequence[Turn]) -> str:
        steps = _Steps(STEPS_PER_TURN * len(turns))
        text = self._template.render(
            messages=turns, add_generation_prompt=True, **self._names, **{_STEPS: steps}
        )
        return str(text)

    def _try(self) -> None:
        turns = _SAMPLE if self._takes_a_system_turn() else _SAMPLE[1:]
        silent = [{**turn, "content": ""} if _speaks(turn) else turn for turn in turns]
        for conversation in (turns, silent, turns[-1:]):
            text = self._tried(conversation)
            for turn in conversation:
                if turn["content"] not in text:
                    raise TemplateRefused(
                        "chat_template: expected the text of every turn in what it writes, the "
                        f"turn of the {turn['role']} is missing from a conversation of "
                        f"{_listed(conversation)}"
                    )

    def _takes_a_system_turn(self) -> bool:
        """A template may say that its model has none; clients are then told so, in its words."""
        try:
            self._write(_SAMPLE)
        except _SaidByTemplate:
            return False
        except Exception:  # which the trial will name
            return True
        return True

    def _tried(self, conversation: Sequence[Turn]) -> str:
        try:
            return self._write(conversation)
        except _TooManySteps:
            how = f"it needs more than {STEPS_PER_TURN} steps for each turn"
        except _SaidByTemplate as error:
            how = f"it says: {error.message}"
        except Exception as error:  # whatever a template does
            how = f"it ended with {type(error).__name__}: {error}"
        raise TemplateRefused(
            f"chat_template: expected that it writes a conversation of {_listed(conversation)}, "
            f"but {how}"
        )


_SAMPLE: tuple[Turn, ...] = (
    {"role": "system", "content": "umaytrialsystem"},
    {"role": "user", "content": "umaytrialquestion"},
    {"role": "assistant", "content": "umaytrialanswer"},
    {"role": "user", "content": "umaytrialreply"},
)
"""Words that no template changes: most remove spaces at both ends."""


def _speaks(turn: Turn) -> bool:
    return turn["role"] == "assistant"


def _listed(conversation: Sequence[Turn]) -> str:
    return ", ".join(turn["role"] for turn in conversation)


class _Steps:
    """What one rendering may still do."""

    def __init__(self, most: int) -> None:
        self._left = most

    def take(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _TooManySteps("more steps than a chat template may take")

    def counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.take()
            yield item


class _Environment(ImmutableSandboxedEnvironment):
    """Every call of a template comes through `call`."""

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        __context.resolve(_STEPS).take()
        return super().call(__context, __obj, *args, **kwargs)


class _Generation(Extension):
    """transformers' `{% generation %}` marks what the model itself said, for training. The text is
    the same without it."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _environment() -> _Environment:
    """The same as in transformers, but without what could make equal messages different tokens:
    `strftime_now`, `random` and `lipsum`."""
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    del environment.filters["random"], environment.globals["lipsum"]
    return environment


def _counted(environment: _Environment, source: str) -> nodes.Template:
    """The template with every loop over what `_Steps.counted` lets through."""
    tree = environment.parse(source)
    for loop in tree.find_all(nodes.For):
        count = nodes.Getattr(nodes.Name(_STEPS, "load"), "counted", "load")
        loop.iter = nodes.Call(count, [loop.iter], [], None, None, lineno=loop.lineno)
    return tree.set_environment(environment)  # type: ignore[return-value]


def _raise_exception(message: str) -> NoReturn:
    raise _SaidByTemplate(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


__all__ = ["ChatTemplate", "TemplateRefused", "Turn"]
