"""How a process of Umay begins and ends: one line for every failure, and its exit code.

Invariants: exit code 1 means that a violation was found, so nothing else ends with it; no
traceback is shown, since it could hold prompts and keys, unless UMAY_TRACEBACK=1 asks for one;
in an enclave never.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType

from attestation.errors import EXIT_INTERNAL, UmayError, Unavailable, UsageError
from attestation.files import unusable

EXIT_INTERRUPTED = 128 + 2
EXIT_NOBODY_READS = 128 + 13
TRACEBACK = "UMAY_TRACEBACK"
LOG = "UMAY_LOG"
FORMS = ("text", "json")
"""How a line on standard error is written: `part: message`, or an object of JSON."""

ROOMS = ("attestation", "contracts", "enclave", "client_sdk")
IMPORT_PAUSE_S = 0.05
PR_SET_DUMPABLE = 4
"""Of linux/prctl.h."""

Handler = Callable[[int, FrameType | None], None]
EXTRAS = {
    "client_sdk.proxy": "proxy",
    "client_sdk.commands": "proxy",
    "client_sdk.async_transport": "openai",
    "client_sdk.openai_transport": "openai",
    "contracts.logservice": "log",
    "enclave.guest": "guest",
    "enclave.host": "host",
    "enclave.importer": "import",
}
"""By module, the extra in setup.cfg with the packages that it needs beside the client's."""

MAX_LINE = 2000
"""Characters of a failure's line."""


@dataclass(frozen=True)
class Failure:
    """What ended a command: `code` is a stable word, `text` one line for people."""

    exit_code: int
    code: str
    text: str
    step: str = ""

    def to_json(self) -> dict[str, object]:
        step = {"step": self.step} if self.step else {}
        return {**step, "code": self.code, "message": self.text, "exit_code": self.exit_code}


def failure_of(error: BaseException) -> Failure:
    """What any exception means to whoever ran the command."""
    if isinstance(error, OSError) and error.errno is not None:
        if error.filename is None:  # nothing that the caller named
            error = Unavailable(f"the operating system says: {error.strerror}")
        else:
            error = unusable(error.filename, error)
    if isinstance(error, MemoryError):
        error = Unavailable("this machine's memory is used up")
    if isinstance(error, ModuleNotFoundError) and _foreign(error.name):
        error = UsageError(lacks(str(error.name).partition(".")[0], _extra_of(error)))
    if isinstance(error, UmayError) and error.exit_code != EXIT_INTERNAL:
        step = getattr(error, "step", "")
        return Failure(error.exit_code, error.code, one_line(str(error)), step)
    text = (
        f"a fault of Umay itself ({type(error).__name__} in {_place(error)}), which says nothing "
        "about what was asked. Please report this line on the repository's issue page, or as "
        f"SECURITY.md says. {TRACEBACK}=1 shows more, and may show prompts and keys"
    )
    return Failure(EXIT_INTERNAL, UmayError.code, text)


def lacks(package: str, extra: str | None) -> str:
    """In words: a package is not installed, and the extra of this repository that brings it."""
    how = f"pip install -c constraints.txt '.[{extra}]'" if extra else "make dev"
    needs = f"needs the extra {extra}" if extra else "needs an extra"
    return f"the package {package} is not installed; this {needs}: in your checkout run: {how}"


def run(
    name: str,
    command: Callable[[], int | None],
    *,
    traces: bool = True,
    told: Callable[[Failure], None] = lambda failure: None,
) -> int:
    """Runs a process's command; its exit code.

    `told` hears of a failure after standard error has its line; `traces` is False where not
    even UMAY_TRACEBACK may show what memory holds.
    """
    traces = traces and os.environ.get(TRACEBACK) == "1"
    try:
        _prepare(name, traces)
        code = _run(name, command, traces, told)
        return EXIT_INTERRUPTED if _interrupted_late() else code
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _interrupted_late()
        return EXIT_INTERRUPTED


def _run(
    name: str, command: Callable[[], int | None], traces: bool, told: Callable[[Failure], None]
) -> int:
    try:
        _check_log()
        code = _ended(command)
        _flush()
        return code
    except BrokenPipeError:
        return _nobody_reads()
    except Exception as error:
        return _failed(name, error, traces, told)


def interrupt(_number: int, frame: FrameType | None) -> None:
    """What Ctrl-C does, for signal.signal. Within an import it waits until that has ended:
    extension modules swallow what is raised there."""
    if not _importing(frame) or not hasattr(signal, "setitimer"):
        raise KeyboardInterrupt
    _soon(interrupt)


def keep_memory_private() -> None:
    """From now on no core dump and no other process of this user shows this one's memory.

    Elsewhere than on Linux only core dumps are off. Raises UsageError where the kernel refuses.
    """
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise UsageError("expected the kernel to make this process undumpable, but it refused")


def end_on_signals() -> None:
    """From now on Ctrl-C and SIGTERM end this process with 0: for a loop that has no other end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)


def _end(*_: object) -> None:
    raise SystemExit(0)


def _soon(handler: Handler) -> None:
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, IMPORT_PAUSE_S)


def _swallowed(lost: sys.UnraisableHookArgs, *, traces: bool) -> None:
    """What is raised in a callback of a fork or of the garbage collector is lost: an end that was
    asked for there is asked for again."""
    handlers: dict[type[BaseException], Handler] = {
        KeyboardInterrupt: interrupt,
        SystemExit: _end,
    }
    if lost.exc_type in handlers and hasattr(signal, "setitimer"):
        _soon(handlers[lost.exc_type])
    elif traces:
        sys.__unraisablehook__(lost)


def tell(name: str, text: str) -> None:
    """One line on standard error, where there is one; as JSON where UMAY_LOG=json asks for it."""
    with suppress(OSError, ValueError):
        sys.stderr.write(_line(name, one_line(text)) + "\n")
        sys.stderr.flush()


def _line(name: str, text: str) -> str:
    if os.environ.get(LOG) != "json":
        return f"{name}: {text}"
    import json
    from datetime import UTC, datetime

    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"at": at, "part": name, "message": text})


def _check_log() -> None:
    form = os.environ.get(LOG)
    if form is not None and form not in FORMS:
        raise UsageError(f"{LOG}: expected {' or '.join(FORMS)}, got {one_line(form)[:40]}")


def one_line(text: str) -> str:
    """Without line breaks and control characters: what a server says must not steer a terminal."""
    shown = "".join(char if char.isprintable() else " " for char in text)
    line = " ".join(shown.split())
    return line if len(line) <= MAX_LINE else line[:MAX_LINE] + " …"


def _failed(name: str, error: Exception, traces: bool, told: Callable[[Failure], None]) -> int:
    failure = failure_of(error)
    tell(name, failure.text)
    if traces:
        _show(error)
    try:
        told(failure)
        _flush()
    except (OSError, ValueError):  # standard output is what failed
        _nobody_reads()
    return failure.exit_code


def _ended(command: Callable[[], int | None]) -> int:
    try:
        return command() or 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        raise UmayError(str(end.code)) from None


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _nobody_reads()
        raise unusable("standard output", error) from None


def _nobody_reads() -> int:
    """So that nothing is written there at the end either, and no verdict is claimed."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return EXIT_NOBODY_READS


def _interrupted_late() -> bool:
    """Whether a Ctrl-C still waits, which the process then ends without."""
    return hasattr(signal, "setitimer") and signal.setitimer(signal.ITIMER_REAL, 0)[0] > 0


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _prepare(name: str, traces: bool) -> None:
    """Standard streams that exist and take every character; nothing beside our own lines."""
    import logging
    import threading
    import warnings

    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = partial(_swallowed, traces=traces)
    for number, mode in enumerate(("r", "w", "w")):
        _exist(number, mode)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    if traces:
        return
    threading.excepthook = lambda failed: tell(
        name, f"a part stopped: {failure_of(failed.exc_value or MemoryError()).text}"
    )
    make = logging.getLogRecordFactory()

    def without_traceback(*args: object, **named: object) -> logging.LogRecord:
        record = make(*args, **named)
        if record.exc_info and record.exc_info[1]:
            kind = type(record.exc_info[1]).__name__
            record.msg, record.args = f"{record.getMessage().strip()} ({kind})", ()
        record.exc_info = record.exc_text = record.stack_info = None
        return record

    logging.setLogRecordFactory(without_traceback)

    class Told(logging.Handler):
        """What a library or a server logs, in the form of every other line."""

        def emit(self, record: logging.LogRecord) -> None:
            tell(name, record.getMessage())

    logging.getLogger().addHandler(Told(logging.WARNING))


def _exist(number: int, mode: str) -> None:
    """A closed standard stream leads nowhere: else the next file that is opened gets its number,
    and our lines go into that file."""
    try:
        os.fstat(number)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
    name = ("stdin", "stdout", "stderr")[number]
    if getattr(sys, name) is None:
        setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _foreign(module: str | None) -> bool:
    return bool(module) and str(module).partition(".")[0] not in ROOMS


def _extra_of(error: BaseException) -> str | None:
    """The extra of the first module in EXTRAS that it passed."""
    names = (module for module, _ in _passed(error))
    found = (EXTRAS.get(".".join(name.split(".")[:2])) for name in names)
    return next((extra for extra in found if extra), None)


def _place(error: BaseException) -> str:
    """The last line of our own that it passed; nothing of what was at work there."""
    place = "an unknown place"
    for module, line in _passed(error):
        if module.partition(".")[0] in (*ROOMS, "__main__"):
            place = f"{module}, line {line}"
    return place


def _passed(error: BaseException) -> Iterator[tuple[str, int]]:
    """Modules and lines, from where it was caught to where it was raised."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_globals.get("__name__", ""), trace.tb_lineno
        trace = trace.tb_next


def _show(error: BaseException) -> None:
    import traceback

    tell(TRACEBACK, "what follows may hold prompts and keys: read it before you send it")
    with suppress(OSError, ValueError):
        traceback.print_exception(error)
