"""Answers that fit a JSON schema: at each token, what the schema does not allow is not chosen.

To compile a schema can take any time and memory (`multipleOf: 1234567` takes minutes). So each one
is compiled in another process first, whose limits end it; then here, on a thread. Nothing compiled
is kept for another request: it would be faster then, and so tell that somebody has asked for it.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from enclave.guest.engines.base import SCHEMA_FIELD, PrepareFailed, refused
from enclave.guest.engines.generation import Generation
from enclave.guest.engines.sampling import Rules
from enclave.guest.engines.turns import Turns
from enclave.guest.parsing import Worker

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher, LLTokenizer

LIBRARY = "llguidance"
"""Imported when the first schema comes. A guest may be built without it."""

COMMAND = (sys.executable, "-P", "-m", "enclave.guest.engines.schema_worker")
MAX_SCHEMAS = 16
"""Requests whose schemas are compiled or wait for it."""

WORD = 32
"""Tokens in one integer of a mask."""


def installed() -> bool:
    """Whether this guest has the library for schemas."""
    return importlib.util.find_spec(LIBRARY) is not None


class Grammars:
    """Compiles the schemas of one engine, one at a time. `close` it with the engine."""

    def __init__(self, tokenizer: str, *, vocabulary: int, generation: Generation) -> None:
        self._data, self._stop_ids = tokenizer, sorted(generation.stop_ids)
        self._vocabulary = vocabulary
        self._lacking = _lacking(generation)
        self._turns = Turns(MAX_SCHEMAS)
        self._worker: Worker | None = None
        self._tokenizer: LLTokenizer | None = None

    async def compile(self, schema: str, name: bytes) -> LLMatcher:
        """At the beginning of an answer; each answer needs a copy. `name` is the client's, as in
        the queue of answers. Raises FieldRefused, PrepareFailed, QueueFull."""
        if self._lacking:
            raise refused(
                SCHEMA_FIELD, f"expected only text, because {self._lacking}, got another format"
            )
        with self._turns.place(name) as place:
            async with self._turns.turn(place):
                await self._try(schema)
                return await asyncio.to_thread(self._compiled, schema)

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def _compiled(self, schema: str) -> LLMatcher:
        from enclave.guest.engines.schemas import matcher_of, tokenizer_of

        if self._tokenizer is None:
            self._tokenizer = tokenizer_of(
                self._data, vocabulary=self._vocabulary, stop_ids=self._stop_ids
            )
        return matcher_of(self._tokenizer, schema)

    async def _try(self, schema: str) -> None:
        """Compiles it in the other process. Raises FieldRefused, PrepareFailed."""
        from enclave.guest.engines.schema_worker import COMPILE_S, SCHEMA

        worker = await self._ready()
        try:
            await worker.ask(SCHEMA, schema.encode())
        except TimeoutError:
            self.close()
            raise _failed() from None
        except OSError:
            self.close()
            raise refused(
                SCHEMA_FIELD,
                f"expected a schema that compiles within {COMPILE_S:g} s of processor time, got "
                "one that needs more time or memory; make it simpler",
            ) from None
        except BaseException:  # whoever asked has left, in the middle of an answer
            self.close()
            raise

    async def _ready(self) -> Worker:
        """The process, which has the tokenizer."""
        if self._worker is not None and self._worker.alive:
            return self._worker
        self.close()
        head = {"vocabulary": self._vocabulary, "stop_ids": self._stop_ids}
        self._worker = await Worker.start(COMMAND)
        try:
            await self._worker.ask(json.dumps(head).encode(), self._data.encode())
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise _failed() from None
            raise
        return self._worker


def _failed() -> PrepareFailed:
    return PrepareFailed(f"{SCHEMA_FIELD}: the process that tries schemas has ended; try again")


def _lacking(generation: Generation) -> str | None:
    """Why no answer of this engine can be held to a schema."""
    if not installed():
        return "this guest was built without a library for schemas"
    if not generation.stop_ids:
        return "this model has no token that ends an answer"
    if generation.rules != Rules(stop_ids=generation.rules.stop_ids):
        return "this model's generation_config.json forbids tokens that a schema may need"
    return None


def complete(matcher: LLMatcher, token: int) -> bool:
    """Takes the chosen token, and says whether nothing can follow it."""
    matcher.consume_token(token)
    return matcher.is_stopped() and not matcher.is_error()


def only_allowed(logits: torch.Tensor, rows: Sequence[tuple[int, LLMatcher]]) -> torch.Tensor:
    """The logits [rows, vocabulary], with minus infinity where the matcher of a row forbids the
    token. Rows without a matcher are unchanged, and so is the row of one that is in error, because
    it has reached its limits."""
    vocabulary = logits.shape[-1]
    words = -(-vocabulary // WORD)
    bits = torch.zeros((len(rows), words), dtype=torch.int32)
    numbered = [(matcher, at) for at, (_, matcher) in enumerate(rows)]
    _executor(torch.get_num_threads()).unsafe_compute_mask_ptr(
        numbered, bits.data_ptr(), words * bits.itemsize, len(rows)
    )
    places = torch.arange(WORD, dtype=torch.int32, device=logits.device)
    allowed = (bits.to(logits.device)[..., None] >> places & 1).bool().flatten(1)[:, :vocabulary]
    allowed |= torch.tensor([[m.is_error()] for _, m in rows], device=logits.device)
    at = torch.tensor([row for row, _ in rows], device=logits.device)
    return logits.index_copy(0, at, logits[at].masked_fill(~allowed, -math.inf))


@functools.cache
def _executor(threads: int) -> LLExecutor:
    from llguidance import LLExecutor

    return LLExecutor(threads)
