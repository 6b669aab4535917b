"""How a process ends: one line and its exit code, whatever happened inside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from attestation.errors import NotChecked, ParseError, Unavailable
from attestation.process import EXIT_NOBODY_READS, failure_of, one_line
from tests.helpers.places import ROOT

PROMPT = "my secret prompt"


def python(
    code: str, shell: str = "", *, where: Path = ROOT, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own; `shell` follows the command on its line."""
    more = {"CODE": f"import sys\nfrom attestation.process import run\n{code}"}
    env = {**os.environ, "PYTHONPATH": str(ROOT), **more, **(environment or {})}
    line = f'"{sys.executable}" -c "$CODE" {shell}'
    words = ["bash", "-c", line]
    done = subprocess.run(words, check=False, cwd=where, capture_output=True, env=env)
    out, err = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(words, done.returncode, out, err)


def ended(
    body: str, shell: str = "", *, traces: bool = True, **more: Any
) -> subprocess.CompletedProcess[str]:
    """A process whose command is `body`, lines of Python."""
    command = "def command():\n" + "".join(f"    {line}\n" for line in body.splitlines())
    code = f"{command}\nsys.exit(run('umay', command, traces={traces}))"
    return python(code, shell, **more)


FAULTS = {
    "a fault of ours": ("1 // 0", 70, "ZeroDivisionError in __main__, line "),
    "no end to itself": ("command()", 70, "RecursionError"),
    "a message in place of a code": ("sys.exit('text')", 70, "fault of Umay itself"),
    "no memory": ("raise MemoryError", 5, "memory is used up"),
    "a full disk": ("raise OSError(28, 'No space left on device')", 5, "No space left"),
    "a file that is none": ("open('/no/such/file')", 2, "/no/such/file: No such file"),
    "a directory in place of a file": ("open('/')", 2, "/: Is a directory"),
    "a name that nobody knows": (
        "import socket\nsocket.create_connection(('no.invalid', 1))",
        5,
        "operating system says: ",
    ),
    "a library that lacks": ("import no_such_library", 2, "no_such_library is not installed"),
    "a log that contradicts itself": (
        "from attestation.errors import LogError\nraise LogError('log: two roots')",
        1,
        "log: two roots",
    ),
    "ctrl-c": ("raise KeyboardInterrupt", 130, ""),
    "ctrl-c where a loop is meant to end by it": (
        "import os, signal\nfrom attestation.process import end_on_signals\nend_on_signals()\n"
        "os.kill(os.getpid(), signal.SIGINT)",
        0,
        "",
    ),
    "SIGTERM there": (
        "import os, signal\nfrom attestation.process import end_on_signals\nend_on_signals()\n"
        "os.kill(os.getpid(), signal.SIGTERM)",
        0,
        "",
    ),
    "an exit code": ("sys.exit(4)", 4, ""),
    "a returned code": ("return 6", 6, ""),
}


def signalled(where: str) -> str:
    """A loop that gets the signal within a callback whose exceptions the interpreter drops."""
    return (
        "import os, signal, subprocess, sys, time, weakref\n"
        "def kill(*_): os.kill(os.getpid(), number)\n"
        f"{where}\n"
        "while True: time.sleep(0.01)"
    )


FORK = "os.register_at_fork({}=kill)\nsubprocess.Popen(['true'], preexec_fn=lambda: None).wait()"
CALLBACKS = {
    "before a fork": FORK.format("before"),
    "after a fork": FORK.format("after_in_parent"),
    "a weak reference's end": "class A: pass\na = A()\nr = weakref.ref(a, kill)\ndel a",
    "an object's end": "class A: __del__ = kill\nA()",
}


@pytest.mark.parametrize("where", CALLBACKS.values(), ids=CALLBACKS)
@pytest.mark.parametrize("traces", [True, False])
def test_a_signal_within_a_callback_still_ends_the_process(where: str, traces: bool) -> None:
    interrupted = ended("number = 2\n" + signalled(where), traces=traces)
    assert (interrupted.returncode, interrupted.stderr) == (130, "")
    looping = "from attestation.process import end_on_signals\nend_on_signals()\nnumber = 15\n"
    assert ended(looping + signalled(where), traces=traces).returncode == 0


@pytest.mark.parametrize(("body", "code", "said"), FAULTS.values(), ids=FAULTS)
def test_every_end_is_one_line_and_its_exit_code(body: str, code: int, said: str) -> None:
    done = ended(body)
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == (1 if said else 0), done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr


LACKING = {
    "client_sdk.proxy.app": ("starlette", "proxy"),
    "client_sdk.async_transport": ("httpx", "openai"),
    "client_sdk.openai_transport": ("httpx", "openai"),
    "contracts.logservice.server": ("starlette", "log"),
    "contracts.logservice.postgres": ("psycopg", "log"),
    "enclave.host.relay": ("starlette", "host"),
    "enclave.guest.engines.torch_engine": ("torch", "guest"),
}


@pytest.mark.parametrize(("module", "lacking"), LACKING.items(), ids=LACKING)
def test_the_one_extra_that_is_missing_is_named_and_no_foreign_package(
    module: str, lacking: tuple[str, str]
) -> None:
    package, extra = lacking
    done = ended(f"sys.modules[{package!r}] = None\nimport {module}")
    assert done.returncode == 2, done.stderr
    assert f"the package {package} is not installed" in done.stderr
    assert f"in your checkout run: pip install -c constraints.txt '.[{extra}]'" in done.stderr
    assert "umay[" not in done.stderr


def test_a_traceback_comes_for_who_asks_and_says_what_it_may_hold() -> None:
    body = f"prompt = {PROMPT!r}\nraise ValueError(prompt)"
    quiet = ended(body)
    assert PROMPT not in quiet.stderr and "UMAY_TRACEBACK=1" in quiet.stderr
    asked = ended(body, environment={"UMAY_TRACEBACK": "1"})
    assert "Traceback" in asked.stderr and PROMPT in asked.stderr
    assert "may hold prompts and keys" in asked.stderr and asked.returncode == 70
    for value in ("0", "", "yes"):
        assert "Traceback" not in ended(body, environment={"UMAY_TRACEBACK": value}).stderr


def test_an_enclave_shows_none_even_when_asked() -> None:
    body = f"raise ValueError({PROMPT!r})"
    done = ended(body, environment={"UMAY_TRACEBACK": "1"}, traces=False)
    assert done.returncode == 70 and PROMPT not in done.stderr and "Traceback" not in done.stderr


BESIDE = {
    "a thread": (
        "from threading import Thread\nt = Thread(target=lambda: 1 // 0)\nt.start()\nt.join()"
    ),
    "a log record": "import logging\ntry: 1 // 0\nexcept Exception: logging.exception('failed')",
    "a destructor": "class A:\n    def __del__(self): 1 // 0\ndel A",
    "a task": (
        "import asyncio\n"
        "async def bad(): raise ValueError('my secret prompt')\n"
        "async def main():\n    asyncio.ensure_future(bad()); await asyncio.sleep(0.01)\n"
        "asyncio.run(main())"
    ),
    "a warning": "import warnings\nwarnings.warn('old')",
}


@pytest.mark.parametrize("body", BESIDE.values(), ids=BESIDE)
def test_what_fails_beside_the_command_shows_no_traceback(body: str) -> None:
    done = ended(body)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 3 and "File " not in done.stderr


def test_characters_that_the_terminal_lacks_are_written_out() -> None:
    for environment in (
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "latin-1"},
    ):
        done = ended(r"print('pr\xeat \u2026 \u2713 \udcff')", environment=environment)
        assert done.returncode == 0 and "\\u2713" in done.stdout, done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_lead_nowhere_and_no_file_takes_their_place(
    tmp_path: Path, closed: str
) -> None:
    body = "print('lost'); sys.stderr.write('lost'); open('file', 'w').write('kept')"
    done = ended(body, closed, where=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == "kept"


def test_an_answer_that_cannot_be_written_is_not_good() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    for body in (
        "print(1)",
        "print('x' * 99999)",
        "sys.stdout.write('x')",
        "print(1); sys.exit(0)",
    ):
        done = ended(body, "> /dev/full")
        assert done.returncode == 5 and len(done.stderr.splitlines()) == 1
        assert "No space left on device" in done.stderr


def test_a_reader_that_leaves_is_no_verdict() -> None:
    done = ended("for _ in range(999): print('x' * 999)", "| true; exit ${PIPESTATUS[0]}")
    assert done.returncode == EXIT_NOBODY_READS and done.stderr == ""


def test_what_a_server_says_cannot_steer_a_terminal() -> None:
    failure = failure_of(Unavailable("relay: \x1b]0;owned\x07\nsecond line\r\x9b31m" + "x" * 9999))
    assert failure.text.isprintable() and len(failure.text) < 2100
    assert one_line("a\n\n b\tc") == "a b c"


def test_a_failure_as_data() -> None:
    assert failure_of(ParseError("x")).to_json() == {
        "code": "malformed",
        "message": "x",
        "exit_code": 3,
    }
    told = failure_of(NotChecked("no anchor", step="log")).to_json()
    assert told["step"] == "log" and told["code"] == "not-checked" and told["exit_code"] == 6


JSON = {"UMAY_LOG": "json"}
LINES = {
    "its end": ("from attestation.errors import Refused\nraise Refused('log', 'late', 'no')", 4),
    "a log record": (BESIDE["a log record"], 0),
    "a warning of a logger": ("import logging\nlogging.getLogger('x').warning('failed')", 0),
    "a thread": (
        "from threading import Thread\nt = Thread(target=lambda: 1 // 0)\nt.start()\nt.join()", 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "code"), LINES.values(), ids=LINES)
def test_every_line_is_json_where_that_is_asked_for(body: str, code: int) -> None:
    done = ended(body, environment=JSON)
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    told = json.loads(line)
    assert told.keys() == {"at", "part", "message"} and told["part"] == "umay"
    assert datetime.fromisoformat(told["at"]).utcoffset() == timedelta(0)
    plain = ended(body, environment={"UMAY_LOG": "text"})
    assert plain.stderr == f"umay: {told['message']}\n"


def test_another_form_of_lines_is_refused_by_name() -> None:
    done = ended("print('ran')", environment={"UMAY_LOG": "xml"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "umay: UMAY_LOG: expected text or json, got xml\n"
