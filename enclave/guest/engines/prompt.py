"""Texts and conversations as token ids, by the model's tokenizer and its chat template.

Both are made from the model's bytes in memory. A special token is special only where the template
writes it. The same characters inside a message are ordinary text, so no message can forge a turn of
the conversation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from attestation.errors import ParseError
from enclave.guest.engines.base import ContextOverflow, Message, refused
from enclave.guest.engines.chat_template import ChatTemplate, TemplateRefused
from enclave.guest.engines.logprobs import Speller

MARK = "\U000f0000"
"""A private-use character that splits special tokens; no message may contain it."""

NAME_MARK = "\U000f0001"
"""A private-use character that finds the places of names; no message may contain it."""

MAX_CHARS_PER_TOKEN = 128
"""A text with more characters than this for each token of the context is refused before the
tokenizer works on it: the longest real tokens are about 128 spaces."""

PROBE_CHARS_PER_TOKEN, PROBE_CHARS = 16, 4096
"""Of a text with more characters than this, the beginning is encoded first. Even if the rest were
empty, twice the tokens of the context would be too many."""

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one request, one core


class PromptEncoder:
    """Turns text and messages into token ids, and token ids into text. Raises ParseError for files
    that it cannot use, also TemplateRefused."""

    def __init__(self, files: Mapping[str, bytes | bytearray]) -> None:
        self._tokenizer = tokenizer_of(files)
        self.spell = Speller(self._tokenizer)
        self._settings = json_object(files, "tokenizer_config.json", optional=True)
        source = self._template_source(files)
        self._template = None if source is None else ChatTemplate(source, self._token_names())
        added = self._tokenizer.get_added_tokens_decoder()
        # Longest first, so that a token is cut before the tokens it contains.
        self._special = sorted(
            (token.content for token in added.values() if token.special), key=len, reverse=True
        )

    @property
    def tokenizer_json(self) -> str:
        """The tokenizer as a tokenizer.json."""
        return self._tokenizer.to_str()

    def check_vocabulary(self, vocabulary: int) -> None:
        """See the function of this name."""
        check_vocabulary(self._tokenizer, vocabulary)

    @property
    def chats(self) -> bool:
        """Whether the model has a chat template."""
        return self._template is not None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without special tokens."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def encode_text(self, text: str, *, max_tokens: int) -> list[int]:
        """The ids of a prompt without a chat template, with what the tokenizer itself adds (often a
        begin token). Raises ContextOverflow."""
        cut = self._cut(text, "prompt")
        return self._encode(cut, "prompt", max_tokens=max_tokens, add_special=True)

    def encode_chat(self, messages: Sequence[Message], *, max_tokens: int) -> list[int]:
        """The ids of the conversation, up to where the assistant begins to speak. Raises
        FieldRefused, also ContextOverflow."""
        turns = [self._turn(message, at) for at, message in enumerate(messages)]
        text = self._render(turns)
        self._check_names(turns)
        return self._encode(text, "messages", max_tokens=max_tokens, add_special=False)

    def _turn(self, message: Message, at: int) -> dict[str, str]:
        where = f"messages[{at}]"
        turn = {"role": message.role, "content": self._cut(message.content, f"{where}.content")}
        if message.name is not None:
            turn["name"] = self._cut(message.name, f"{where}.name")
        return turn

    def _render(self, turns: Sequence[Mapping[str, str]]) -> str:
        if self._template is None:
            raise refused(
                "messages",
                "expected a model with a chat template, this one has none; send a prompt to "
                "/v1/completions",
            )
        return self._template.render(turns)

    def _check_names(self, turns: Sequence[Mapping[str, str]]) -> None:
        """Every name must be in what the template writes: it is tried with a mark in its place."""
        marks = {
            at: f"{NAME_MARK}{at}{NAME_MARK}" for at, turn in enumerate(turns) if "name" in turn
        }
        if not marks:
            return
        marked = [
            {**turn, "name": marks[at]} if at in marks else turn for at, turn in enumerate(turns)
        ]
        text = self._render(marked)
        for at, mark in marks.items():
            if mark not in text:
                raise refused(
                    f"messages[{at}].name",
                    "expected no name, because this model's chat template does not write it; "
                    "leave it out",
                )

    def _encode(self, text: str, param: str, *, max_tokens: int, add_special: bool) -> list[int]:
        if len(text) > max_tokens * MAX_CHARS_PER_TOKEN:
            raise _overflow(param, max_tokens)
        window = PROBE_CHARS_PER_TOKEN * max_tokens + PROBE_CHARS
        first, *rest = text.split(MARK)
        ids = self._ids([first], param, window, max_tokens, add_special)
        for pieces in _groups(rest, window):
            ids += self._ids(pieces, param, window, max_tokens - len(ids), False)
        return ids

    def _ids(
        self, pieces: list[str], param: str, window: int, most: int, add_special: bool
    ) -> list[int]:
        # Of a text that is long for its context, the beginning tells whether it is far too long.
        for piece in pieces:
            if len(piece) > window:
                (begin,) = self._batch([piece[:window]], False)
                if len(begin) > 2 * most:
                    raise _overflow(param, most)
        found = self._batch(pieces, add_special)
        if sum(map(len, found)) > most:  # before any list of all of them is made
            raise _overflow(param, most)
        return [token for encoding in found for token in encoding.ids]

    def _batch(self, pieces: list[str], add_special: bool) -> list[Any]:
        """The encodings. The library releases the interpreter's lock for batches only."""
        return self._tokenizer.encode_batch_fast(pieces, add_special_tokens=add_special)

    def _cut(self, text: str, param: str) -> str:
        """`text` with a MARK inside every special token, so that its parts are encoded
        separately."""
        if MARK in text or NAME_MARK in text:
            raise refused(
                param, "expected no private-use character U+F0000 or U+F0001, got one; leave it out"
            )
        for token in self._special:
            if len(token) > 1:
                text = text.replace(token, token[0] + MARK + token[1:])
        return text

    def _token_names(self) -> dict[str, str]:
        names = {}
        for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
            value = self._settings.get(key)
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                names[key] = value
        return names

    def _template_source(self, files: Mapping[str, bytes | bytearray]) -> str | None:
        source = self._settings.get("chat_template")
        if "chat_template.jinja" in files:
            try:
                source = files["chat_template.jinja"].decode()
            except UnicodeDecodeError:
                raise TemplateRefused(
                    "chat_template.jinja: expected text in UTF-8, got other bytes"
                ) from None
        if source is not None and not isinstance(source, str):
            raise TemplateRefused("chat_template: expected one template as text, got another value")
        return source


def _groups(pieces: Sequence[str], window: int) -> Iterator[list[str]]:
    """The pieces in their order, in lists of about `window` characters."""
    group: list[str] = []
    length = 0
    for piece in pieces:
        group.append(piece)
        length += len(piece) + 1
        if length >= window:
            yield group
            group, length = [], 0
    if group:
        yield group


def _overflow(param: str, most: int) -> ContextOverflow:
    text = f"{param}: expected at most {most} tokens, got more"
    return ContextOverflow(text, param=param)


def json_object(
    files: Mapping[str, bytes | bytearray], name: str, *, optional: bool = False
) -> dict[str, Any]:
    """The JSON object in the file `name`, or {} if the file is optional and absent. Raises
    ParseError."""
    if name not in files:
        if optional:
            return {}
        raise ParseError(f"model: expected the file {name}, found none")
    try:
        value = json.loads(bytes(files[name]))
    except (ValueError, RecursionError):
        raise ParseError(f"model: {name}: expected JSON, got other bytes") from None
    if not isinstance(value, dict):
        raise ParseError(f"model: {name}: expected an object, got {type(value).__name__}")
    return value


def check_vocabulary(tokenizer: Tokenizer, vocabulary: int) -> None:
    """Raises ParseError where the tokenizer has a token for which a model with so many rows has
    none: one text with it would stop the engine for everybody."""
    greatest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if greatest >= vocabulary:
        raise ParseError(
            f"tokenizer.json: expected token ids below the vocab_size of config.json, "
            f"{vocabulary}, got {greatest}"
        )


def tokenizer_of(files: Mapping[str, bytes | bytearray]) -> Tokenizer:
    if "tokenizer.json" not in files:
        raise ParseError("model: expected the file tokenizer.json, found none")
    try:
        return Tokenizer.from_buffer(bytes(files["tokenizer.json"]))
    except Exception as error:  # the Rust side raises bare Exception
        raise ParseError(
            "model: tokenizer.json: expected a tokenizer of the library tokenizers, got other "
            f"bytes ({type(error).__name__})"
        ) from None
