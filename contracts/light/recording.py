"""Answers of lite servers in one file, so that the same proofs can be checked without a network.

The file: `umay-lite-1\\n`, the second it was begun (u64, little-endian), then question and
answer, each a TL `bytes`, in the order they were first asked. It is as trustworthy as a lite
server, which is not at all: whoever reads it goes out from a block of their own.
"""

from __future__ import annotations

import threading
from pathlib import Path

from attestation.errors import ParseError, Unavailable
from attestation.files import unusable
from contracts.light.liteserver import Ask
from contracts.light.tl import TlReader, tl_bytes

MAGIC = b"umay-lite-1\n"
MAX_FILE = 1 << 30  # bytes


class Recording:
    """Asks through, and writes each new question down with its answer before it returns it.

    A question asked again gets the first answer, so that what was concluded can be again.
    Raises UsageError where the file is there already or cannot be made.
    """

    def __init__(self, ask: Ask, path: Path, *, now: int) -> None:
        self._ask, self._path, self._lock = ask, path, threading.Lock()
        self._known: dict[bytes, bytes] = {}
        try:
            self._file = path.open("xb")
        except OSError as error:
            raise unusable(path, error) from None
        self._write(MAGIC + now.to_bytes(8, "little"))

    def ask(self, question: bytes) -> bytes:
        with self._lock:
            if question not in self._known:
                answer = self._ask(question)
                self._write(tl_bytes(question) + tl_bytes(answer))
                self._known[question] = answer
            return self._known[question]

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise unusable(self._path, error) from None


class Replay:
    """Answers from such a file; `begun` is what it says of its time (Unix seconds)."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError where it cannot be read, ParseError where it is no recording."""
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_FILE + 1)
        except OSError as error:
            raise unusable(path, error) from None
        self.begun, self._answers = read_recording(raw)

    def ask(self, question: bytes) -> bytes:
        if question not in self._answers:
            raise Unavailable("the recording has no answer to this")
        return self._answers[question]


def read_recording(raw: bytes) -> tuple[int, dict[bytes, bytes]]:
    """When it was begun, and the answers by question. Raises ParseError."""
    data = TlReader(raw, "recording")
    if len(raw) > MAX_FILE or data.take(len(MAGIC)) != MAGIC:
        raise ParseError(f"recording: expected {MAGIC!r} first, at most {MAX_FILE} bytes in all")
    begun = data.uint(8)
    answers: dict[bytes, bytes] = {}
    while not data.ended():
        question, answer = data.blob(), data.blob()
        if question in answers:
            raise ParseError("recording: expected each question once, got one twice")
        answers[question] = answer
    return begun, answers
