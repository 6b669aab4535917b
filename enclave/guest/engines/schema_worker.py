"""`python -m enclave.guest.engines.schema_worker`: compiles schemas for one guest, to see what they
cost, until the guest hangs up.

Questions and answers are frames as in `parse_worker`. The first question has the tokenizer, each
later one a schema. What is too much for this process ends it, without a word.
"""

from __future__ import annotations

import contextlib
import signal

from llguidance import LLTokenizer

from attestation.formats.json import decode
from enclave.guest.engines.base import FieldRefused
from enclave.guest.engines.schemas import matcher_of, tokenizer_of
from enclave.guest.parse_worker import run

DONE = b"\x01"
"""Every answer: it says that the question was not too much."""

SCHEMA = b"schema"
"""The head of a question with a schema. The head of the first question has the arguments of
`tokenizer_of`."""

COMPILE_S = 1.0
"""Of processor time for one schema. The kernel counts it, so a busy machine changes nothing."""


class Checker:
    """Answers the questions of one guest."""

    def __init__(self) -> None:
        self._tokenizer: LLTokenizer | None = None

    def answered(self, head: bytes, body: bytes | bytearray) -> bytes:
        """DONE, also for a schema that is refused: the guest finds the reason itself."""
        if head != SCHEMA or self._tokenizer is None:
            told = decode(head, what="tokenizer")
            self._tokenizer = tokenizer_of(bytes(body).decode(), **told)
            return DONE
        signal.setitimer(signal.ITIMER_PROF, COMPILE_S)  # its signal ends the process
        with contextlib.suppress(FieldRefused):
            matcher_of(self._tokenizer, bytes(body).decode())
        signal.setitimer(signal.ITIMER_PROF, 0)
        return DONE


if __name__ == "__main__":
    run(Checker().answered)
