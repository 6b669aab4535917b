"""Child processes of one network: started in order, watched, stopped in reverse.

Every child ends with this process, however that ends. A child that dies is named. Children
are started from the main thread only: the kernel ties their lives to the starting thread.
"""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from attestation.errors import EXIT_INTERNAL, ParseError, Unavailable
from attestation.files import open_own, own_directory
from attestation.formats.json import decode

LAST_LINES = 3
MAX_LAST_BYTES = 8192
READY_SECONDS = 90.0
STOP_SECONDS = 8.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass
class Child:
    """A running part. `errors` is the file with what it wrote to standard error."""

    name: str
    process: subprocess.Popen[bytes]
    errors: Path
    began: float = field(default_factory=time.monotonic)
    _lines: queue.Queue[bytes] = field(default_factory=queue.Queue)

    def ready(self, seconds: float = READY_SECONDS) -> dict[str, Any]:
        """The JSON line with which it says that it serves. Raises Unavailable."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                return self._parse(self._lines.get(timeout=0.1))
            except queue.Empty:
                self.check()
        raise Unavailable(f"{self.name} was not ready after {seconds:.0f} s{self._last_words()}")

    def check(self) -> None:
        """Raises Unavailable with its last words when it has ended."""
        if self.ended:
            raise Unavailable(self.ended)

    @property
    def ended(self) -> str:
        """How it ended, with its last words and where the rest lies; empty while it runs."""
        code = self.process.poll()
        if code is None:
            return ""
        how = f"exit code {code}" if code >= 0 else f"signal {_signal(-code)}"
        return f"{self.name} ended with {how}{self._last_words()}"

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            value = decode(line, what=self.name)
        except ParseError:
            value = None
        if not isinstance(value, dict):
            raise Unavailable(
                f"{self.name}: expected one line of JSON when it is ready, got other text"
            )
        return value

    def _last_words(self) -> str:
        """No part writes anything of a request there."""
        try:
            with self.errors.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_LAST_BYTES))
                lines = file.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:]
        except OSError:
            lines = []
        if not lines:
            return " and wrote nothing"
        return f": {' / '.join(line[:400] for line in lines)}; its output is in {self.errors}"

    def read(self) -> None:
        """Drains its standard output, so that it never blocks on it."""
        for line in self.process.stdout or ():
            self._lines.put(line)


class Supervisor:
    """Starts and stops children; standard errors go to files under `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = own_directory(directory)
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, arguments: Sequence[str], *, again: bool = False) -> Child:
        """A child of this Python: `arguments` follow the interpreter. `again` keeps what an
        earlier child of that name wrote."""
        errors = self._directory / f"{name}.err"
        with os.fdopen(
            open_own(errors, os.O_WRONLY | (os.O_APPEND if again else os.O_TRUNC)), "wb"
        ) as stderr:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is for this process, which then stops them
                preexec_fn=_end_with_parent(),  # noqa: PLW1509
            )
        child = Child(name, process, errors)
        threading.Thread(target=child.read, daemon=True, name=f"read-{name}").start()
        self._children.append(child)
        return child

    def kill(self, name: str) -> None:
        """End one part at once and no longer expect it: for drills."""
        child = next(child for child in self._children if child.name == name)
        self._children.remove(child)
        child.process.kill()
        child.process.wait()

    def check(self, *, but: str | None = None) -> None:
        """Raises Unavailable, which names the first child that has ended. Children whose names
        begin with `but` are left to `fallen`."""
        for child in self._children:
            if but is None or not child.name.startswith(but):
                child.check()

    def fallen(self, prefix: str) -> list[Child]:
        """Children named so that have ended; they are no longer expected."""
        ended = [c for c in self._children if c.name.startswith(prefix) and c.ended]
        self._children = [child for child in self._children if child not in ended]
        return ended

    def stop(self) -> None:
        """Ends all of them, the last started first."""
        children, self._children = self._children[::-1], []
        for child in children:
            if child.process.poll() is None:
                child.process.terminate()
        until = time.monotonic() + STOP_SECONDS
        for child in children:
            _wait(child.process, until)

    @property
    def pids(self) -> dict[str, int]:
        return {child.name: child.process.pid for child in self._children}


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _wait(process: subprocess.Popen[bytes], until: float) -> None:
    try:
        process.wait(max(0.1, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()


def _end_with_parent() -> Callable[[], None] | None:
    """Linux: SIGTERM to the child when this process dies, even by SIGKILL."""
    libc, parent = _LIBC, os.getpid()
    if libc is None:
        return None

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(EXIT_INTERNAL)

    return ask
