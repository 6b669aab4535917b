"""A JSON schema as a matcher of the library `llguidance`, which says what tokens may come next.

The answer is JSON without spaces, its properties in the schema's order. What the library cannot
hold to is refused by name, never ignored. Its limits below bound every step of an answer. They do
not bound the compilation, so a schema from outside is compiled in another process first
(`schema_worker`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from attestation.process import one_line
from enclave.guest.engines.base import SCHEMA_FIELD, FieldRefused, refused

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MAX_REASON = 200
"""Characters of the library's own words in an error: they can quote the schema."""

OPTIONS: JsonCompileOptions = {
    "whitespace_flexible": False,
    "lenient": False,
    "coerce_one_of": False,
}

LIMITS = LLParserLimits(
    max_items_in_row=500,
    initial_lexer_fuel=200_000,
    step_lexer_fuel=50_000,
    step_max_items=10_000,
    max_lexer_states=10_000,
    max_grammar_size=50_000,
    precompute_large_lexemes=False,
    verbose_errors=False,
)
"""One step takes some 10 ms and one answer some 25 MB at most."""


def tokenizer_of(data: str, *, vocabulary: int, stop_ids: Sequence[int]) -> LLTokenizer:
    """Of a tokenizer.json. Raises ValueError."""
    return LLTokenizer(data, n_vocab=vocabulary, eos_token=list(stop_ids))


def matcher_of(tokenizer: LLTokenizer, schema: str) -> LLMatcher:
    """At the beginning of an answer. It can take any time and memory, without the interpreter's
    lock. Raises FieldRefused."""
    try:
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides=OPTIONS)
    except ValueError as error:
        raise _refusal(str(error)) from None
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
    if not matcher.is_error():
        matcher.compute_bitmask()  # finds that there is no first token
    if matcher.is_error():
        raise _refusal(matcher.get_error())
    return matcher


def _refusal(reason: str) -> FieldRefused:
    told = one_line(reason)[:MAX_REASON]
    return refused(
        SCHEMA_FIELD, f"expected a schema that this engine can hold to, got one with: {told}"
    )
