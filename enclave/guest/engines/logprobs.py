"""Logarithms of probabilities, of the logits as the model gave them: before bias, penalties,
temperature and the tokens that are kept for the draw."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from tokenizers import Tokenizer

from enclave.guest.engines.base import TokenLogprob

LEAST = -9999.0
"""What OpenAI's API writes for a token of no probability: JSON has no infinity."""

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"


def scorer(
    count: int | None, spell: Callable[[int], bytes]
) -> Callable[[torch.Tensor, int], TokenLogprob] | None:
    """A function of a row of logits and the chosen token; None if nobody asked."""
    if count is None:
        return None
    return lambda logits, token: score(logits, token, count, spell)


def score(
    logits: torch.Tensor, token: int, count: int, spell: Callable[[int], bytes]
) -> TokenLogprob:
    """Of the chosen token and the `count` likeliest ones, by one row of logits [vocabulary]."""
    values = torch.log_softmax(logits.float(), -1)
    found = values.topk(min(count, len(values)))
    likeliest = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    top = tuple((spell(other), max(LEAST, value)) for other, value in likeliest)
    return TokenLogprob(spell(token), max(LEAST, float(values[token])), top)


class Speller:
    """The bytes of single tokens, which may be parts of a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = tokenizer.get_added_tokens_decoder()
        decoder = str(tokenizer.decoder)
        self._byte_level, self._fallback = "ByteLevel" in decoder, "ByteFallback" in decoder

    def __call__(self, token: int) -> bytes:
        if token in self._added:
            return str(self._added[token].content).encode()
        text = self._tokenizer.id_to_token(token)
        if text is None:  # an id of the model's that the tokenizer does not use
            return b""
        if self._byte_level:
            spelt = [_BYTES.get(character) for character in text]
            # The decoder takes a token with any other character as it stands.
            return text.encode() if None in spelt else bytes(b for b in spelt if b is not None)
        if self._fallback:
            byte = _BYTE.fullmatch(text)
            return bytes.fromhex(byte[1]) if byte else text.replace(_SPACE, " ").encode()
        return self._tokenizer.decode([token], skip_special_tokens=False).encode()


def _byte_level() -> dict[str, int]:
    """How byte-level tokenizers (GPT-2's) write bytes as characters: printable ones of Latin-1 as
    themselves, the others as the characters from U+0100 on."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {
        chr(0x100 + at): byte for at, byte in enumerate(others)
    }


_BYTES = _byte_level()
