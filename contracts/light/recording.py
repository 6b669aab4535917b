"""Answers of lite servers in one file, so that the same proofs can be checked without a network.

The file has `umay-lite-1\\n`, the Unix second when it was begun (u64, little-endian), then each
question and its answer, both as TL `bytes`, in the order of the first requests. Like a lite
server it is not trusted: its reader starts from a key block of their own.
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
    """Passes questions on, and writes each new question with its answer before it returns.

    A repeated question gets its first answer, so that a replay reaches the same conclusion.
    Raises UsageError if the file exists or cannot be created.
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
    """Answers from a recording; `begun` is the time that it claims (Unix seconds)."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError if the file cannot be read, ParseError if it is not a recording."""
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_FILE + 1)
        except OSError as error:
            raise unusable(path, error) from None
        self.begun, self._answers = read_recording(raw)

    def ask(self, question: bytes) -> bytes:
        if question not in self._answers:
            raise Unavailable(
                "recording: expected an answer to this question, found none; make a recording with "
                "?save=FILE for the same command"
            )
        return self._answers[question]


def read_recording(raw: bytes) -> tuple[int, dict[bytes, bytes]]:
    """The Unix second when it was begun, and the answers by question. Raises ParseError."""
    data = TlReader(raw, "recording")
    if len(raw) > MAX_FILE or data.take(len(MAGIC)) != MAGIC:
        raise ParseError(
            f"recording: expected {MAGIC!r} first and at most {MAX_FILE} bytes in all, got "
            f"{raw[: len(MAGIC)]!r} and {len(raw)} bytes"
        )
    begun = data.uint(8)
    answers: dict[bytes, bytes] = {}
    while not data.ended():
        question, answer = data.blob(), data.blob()
        if question in answers:
            raise ParseError("recording: expected each question once, got one twice")
        answers[question] = answer
    return begun, answers
