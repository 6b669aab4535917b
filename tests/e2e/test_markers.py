"""What was planted in questions and answers is written nowhere.

A real client and proxy, a relay, an agent and a guest, each a server on loopback, with an engine
that says what it is told to. Everything that they write is searched: logs, standard output and
error, files, what their hosts may read, errors, and how their objects show themselves.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import gc
import hashlib
import io
import json
import logging
import os
import sys
import tempfile
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from attestation import wire
from attestation.channel import bhttp
from attestation.errors import Unavailable
from client_sdk.finding import Chosen
from client_sdk.presented import Place
from enclave.guest import api, parsing, sealed
from enclave.guest.engines.base import EngineFailed, QueueFull
from enclave.guest.parsing import INLINE_BYTES
from enclave.host.agent import Agent
from enclave.host.registrar import GuestStatus
from enclave.host.relay import Relay
from tests.helpers.fake_enclave import POLICY, FakeClient
from tests.helpers.guest_room import MODEL, Room, Script, post
from tests.helpers.host_parts import Service, ask
from tests.helpers.markers import (
    Leak,
    SharedPlaces,
    files_below,
    forms,
    joined,
    leaks,
    marker,
    of_ids,
)
from tests.helpers.proxies import BEARER, proxy_of
from tests.helpers.waiting import wait_for

PLANTED = {
    name: marker(name)
    for name in (
        "prompt", "system", "name", "answer", "key", "value", "tool", "stop", "inner header",
        "inner path", "idempotency key", "broken json", "large body", "large broken body",
        "cancelled", "engine's error", "late error", "refused generation", "outer body",
        "outer header", "outer path", "outer query", "user", "metadata", "method",
    )
}  # fmt: skip


class Way:
    """Client, proxy, relay, agent and guest, and all that they write."""

    def __init__(self, directory: Path) -> None:
        self.room = Room()
        self.directory, self.log = directory, io.StringIO()
        self.errors: list[BaseException] = []
        self.pages: list[bytes] = []
        self.shown: list[str] = []
        self.shared = SharedPlaces()
        status = GuestStatus(boot=self.room.boot, answering=True)
        registrar: Any = types.SimpleNamespace(status=status, ending=None)
        guest = f"http://127.0.0.1:{self.room.port}"
        agent = Agent(registrar, guest=guest, log=guest, chain=None)  # type: ignore[arg-type]
        self.agent = Service(agent.public())
        self.relay = Service(Relay((self.agent.url,)).app())
        self.base = f"{self.relay.url}{wire.base(self.room.boot)}"
        enclave: Any = types.SimpleNamespace(
            chosen=Chosen(Place(self.room.boot, self.base, "ready"), self.room.verified),
            verified=self.room.verified, other_ways=[], with_sessions=False,
        )  # fmt: skip
        self.client = FakeClient([enclave])
        self.client.policy = dataclasses.replace(POLICY, models=((MODEL, b"\x44" * 32),))

    def close(self) -> None:
        self.client.close()
        for service in (self.relay, self.agent):
            service.stop()
        self.room.close()

    def script(self, **changes: Any) -> None:
        self.room.engine.script = Script(**changes)

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Whatever is raised inside is kept, with what it says."""
        try:
            yield
        except Exception as error:
            self.errors.append(error)

    def ask(self, body: object, **more: Any) -> tuple[int, bytes]:
        """As the client does it; the inner status and content."""
        found = (0, b"")
        with self.noted():
            answer = self.client.request("POST", wire.CHAT, _json(body), **more)
            self.shown += [repr(answer), str(answer)]
            found = answer.status, answer.read()
            self.shown += [repr(answer), repr(answer.receipt), repr(answer.headers)[:0]]
        return found

    def places(self) -> dict[str, bytes]:
        """Everything that was written until now."""
        self._read_pages()
        told = [text for error in self.errors for text in _told(error)]
        return {
            "log": self.log.getvalue().encode(errors="backslashreplace"),
            "pages": b"\n".join(self.pages),
            "errors": joined(told),
            "reprs": joined(self.shown),
            **files_below(self.directory),
            **self.shared.new(),
        }

    def _read_pages(self) -> None:
        base = wire.base(self.room.boot)
        guest = f"http://127.0.0.1:{self.room.port}"
        for name in ("healthz", "metrics", "epochs", "config/host", "config/engine"):
            for url in (guest, self.agent.url, self.relay.url):
                answer = ask(url, base + name)
                self.pages.append(repr(answer.headers).encode() + answer.body)
        for url in (guest, self.agent.url, self.relay.url):
            self.pages.append(ask(url, wire.LISTING).body)

    def show_objects(self) -> None:
        """How every living object of the house shows itself."""
        rooms = ("attestation.", "enclave.", "client_sdk.")
        for item in gc.get_objects():
            if str(type(item).__module__).startswith(rooms):
                self.shown.append(f"{type(item).__qualname__}: {item!r}")


def _told(error: BaseException) -> Iterator[str]:
    yield str(error)
    yield repr(error)
    yield repr(vars(error))
    yield "".join(traceback.format_exception(error))


def _json(body: object) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def turn(content: str, role: str = "user", **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


def chat(*turns: dict[str, object], **more: object) -> dict[str, object]:
    return {"model": MODEL, "messages": list(turns), **more}


def good_questions(way: Way, m: dict[str, str]) -> None:
    answer = m["answer"]
    for streamed in (False, True):
        way.script(pieces=["Well: ", answer[:7], answer[7:], "."])
        turns = turn(m["system"], "system"), turn(m["prompt"], name=m["name"])
        body = chat(*turns, stop=[m["stop"]], user=m["user"], stream=streamed)
        status, content = way.ask(body, idempotency_key=m["idempotency key"] + str(streamed))
        assert status == 200 and b"Well" in content


def refused_questions(way: Way, m: dict[str, str]) -> None:
    way.script()
    hello = turn("hello")
    tool = {"type": "function", "function": {"name": m["tool"], "parameters": {}}}
    bodies: list[object] = [
        chat(hello, **{m["key"]: 1}),
        chat(hello, temperature=m["value"]),
        chat(hello, tools=[tool]),
        chat(hello, metadata=m["metadata"]),
        chat(turn(m["value"], "wizard")),
        _json(chat(turn(m["broken json"])))[:-2],
        b'{"a": 1, "a": "%s"}' % m["broken json"].encode(),
    ]
    for body in bodies:
        assert way.ask(body)[0] == 400, body
    key = m["idempotency key"] + "again"
    assert way.ask(chat(hello), idempotency_key=key)[0] == 200
    assert way.ask(chat(turn(m["prompt"])), idempotency_key=key)[0] == 422


def large_bodies(way: Way, m: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read by another process, which also ends in the middle of one."""
    filling = "ab " * INLINE_BYTES
    assert way.ask(chat(turn(m["large body"] + filling)))[0] == 200
    broken = _json(chat(turn(filling, **{m["key"]: m["large broken body"]})))
    assert way.ask(broken)[0] == 400
    assert way.ask(broken[:-1])[0] == 400
    asked = parsing.Worker.ask

    async def dies(self: parsing.Worker, head: bytes, body: bytes) -> bytearray:
        self._process.kill()
        self._process.wait()
        return await asked(self, head, body)

    with monkeypatch.context() as patched:
        patched.setattr(parsing.Worker, "ask", dies)
        assert way.ask(broken)[0] in (0, 503)


def requests_by_hand(way: Way, m: dict[str, str]) -> None:
    """Fields of an inner request that the client itself never sends."""
    way.room.base = way.base
    requests = [
        post(chat(turn("hello")), path=f"/v1/{m['inner path']}"),
        post(chat(turn("hello")), path=f"{wire.CHAT}?{m['inner path']}"),
        post(chat(turn("hello")), method=m["method"]),
        post(chat(turn("hello")), key=m["idempotency key"].encode()[:3]),
        post(chat(turn("hello")), pacing=m["inner header"]),
    ]
    headers = ((m["inner header"].encode(), m["value"].encode()),)
    requests.append(bhttp.Request("POST", wire.CHAT, headers, _json(chat(turn(m["prompt"])))))
    for request in requests:
        with way.noted():
            answer = way.room.open(request)
            answer.read()
            way.shown.append(repr(answer))


def unsealed_requests(way: Way, m: dict[str, str]) -> None:
    """A client that forgot to seal, or whose address has a secret."""
    base = wire.base(way.room.boot)
    fields = {"x_secret": m["outer header"], "user_agent": m["outer header"]}
    body = _json(chat(turn(m["outer body"])))
    for url in (way.relay.url, way.agent.url, f"http://127.0.0.1:{way.room.port}"):
        for kind in ("application/json", wire.CHUNKED_REQUEST, wire.SESSION_REQUEST, m["value"]):
            ask(url, f"{base}ohttp", method="POST", body=body, content_type=kind, **fields)
        ask(url, f"{base}session", method="POST", body=body, **fields)
        ask(url, f"{base}{m['outer path']}?{m['outer query']}", **fields)
        ask(url, wire.CHAT, method="POST", body=body, **fields)
        ask(url, f"/{m['outer path']}", method="DELETE", **fields)


def cancelled_questions(way: Way, m: dict[str, str]) -> None:
    """Left while their answers are written; how all objects show themselves is read before."""
    way.script(pieces=[m["answer"]] * 100_000, pause=0.01)
    question = chat(turn(m["cancelled"]), stream=True)
    with way.noted():
        answer = way.client.request("POST", wire.CHAT, _json(question))
        next(iter(answer))
        way.show_objects()
        answer.close()
    wait_for(lambda: all(one.cancelled.is_set() or one._done for one in way.room.engine.answers))


def failing_engine(way: Way, m: dict[str, str]) -> None:
    """Every way in which an engine can break, with a prompt in what it raises."""
    for text, changes in (
        (m["refused generation"], {"refuse": RuntimeError(m["refused generation"])}),
        ("full", {"refuse": QueueFull("engine: expected a free place")}),
        (m["engine's error"], {"fail": ValueError(m["engine's error"])}),
        (m["late error"], {"fail": RuntimeError(m["late error"]), "fail_at": 2}),
        ("stopped", {"fail": EngineFailed("engine: it was stopped by RuntimeError")}),
    ):
        for streamed in (False, True):
            way.script(**changes)
            way.ask(chat(turn(text), stream=streamed))


def questions_to_the_proxy(way: Way, m: dict[str, str]) -> None:
    """As any program sends them that knows OpenAI's API."""
    way.script(pieces=[m["answer"]])
    bodies = (
        _json(chat(turn(m["prompt"]))), _json(chat(turn(m["prompt"]), **{m["key"]: 1})),
        m["broken json"].encode(), b'{"model": 1, "messages": "%s"}' % m["prompt"].encode(),
    )  # fmt: skip
    with proxy_of(way.client) as url:
        for body in bodies:
            fields = {**BEARER, "x_secret": m["outer header"], "content_type": wire.JSON}
            ask(url, wire.CHAT, method="POST", body=body, **fields)
        ask(url, f"/{m['outer path']}?{m['outer query']}", **BEARER)
        ask(url, wire.CHAT, method="POST", body=bodies[0], authorization=f"Bearer {m['value']}")
        for name in ("/", "/healthz", wire.MODELS):
            way.pages.append(ask(url, name, **BEARER).body)


def everything(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    good_questions(way, PLANTED)
    refused_questions(way, PLANTED)
    large_bodies(way, PLANTED, monkeypatch)
    requests_by_hand(way, PLANTED)
    unsealed_requests(way, PLANTED)
    cancelled_questions(way, PLANTED)
    failing_engine(way, PLANTED)
    questions_to_the_proxy(way, PLANTED)
    way.show_objects()


@pytest.fixture
def way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """All of it works in a directory of its own, where its files are found."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    opened = Way(tmp_path)
    handler, root = logging.StreamHandler(opened.log), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield opened
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        opened.close()


def found(way: Way, printed: pytest.CaptureFixture[str]) -> list[Leak]:
    out, err = printed.readouterr()
    places = {**way.places(), "stdout": out.encode(), "stderr": err.encode()}
    return leaks(places, PLANTED)


def test_nothing_planted_is_written_anywhere(
    way: Way, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    everything(way, monkeypatch)
    leaked = found(way, capfd)
    assert not leaked, "\n".join(map(str, leaked))


# The same search, where something does leak

IN_PARSER = """
import pathlib, tempfile
from enclave.guest import parse_worker
read = parse_worker.read_body
def leaking(content, **more):
    with tempfile.NamedTemporaryFile(prefix="umay-test-", delete=False) as file:
        file.write(bytes(content).hex().encode())
    return read(content, **more)
parse_worker.read_body = leaking
parse_worker.run(parse_worker.answered)
"""


def to_a_log(way: Way, text: str) -> None:
    logging.getLogger("enclave.guest").debug("asked: %r", text)


def to_a_log_with_a_traceback(way: Way, text: str) -> None:
    try:
        raise ValueError(text[::-1])
    except ValueError:
        logging.getLogger("anything").exception("failed")


def to_stdout(way: Way, text: str) -> None:
    print(json.dumps({"ids": list(text.encode())}))


def to_stderr(way: Way, text: str) -> None:
    os.write(2, quote(text).encode())


def to_a_file(way: Way, text: str) -> None:
    Path("debug.bin").write_bytes(text.encode("utf-16-le"))


def to_a_file_in_a_directory(way: Way, text: str) -> None:
    Path("cache").mkdir(exist_ok=True)
    Path("cache/entry").write_bytes(base64.b64encode(b"x" + text.encode()))


def to_the_name_of_a_file(way: Way, text: str) -> None:
    Path(hashlib.sha256(text.encode()).hexdigest()).touch()


def to_a_shared_file(way: Way, text: str) -> None:
    with tempfile.NamedTemporaryFile(dir="/tmp", prefix="umay-test-", delete=False) as file:
        file.write(text.upper().encode())


def to_a_page(way: Way, text: str) -> None:
    object.__setattr__(way.room.guest.configs, "host", text.encode().hex().encode())


def to_an_error(way: Way, text: str) -> None:
    way.errors.append(Unavailable(f"relay: expected an answer to {text}"))


def to_what_an_error_holds(way: Way, text: str) -> None:
    error = Unavailable("relay: expected an answer")
    error.request = text  # type: ignore[attr-defined]
    way.errors.append(error)


def to_a_repr(way: Way, text: str) -> None:
    way.kept = Place(text, "", "ready")
    way.show_objects()


LEAKING = [
    to_a_log, to_a_log_with_a_traceback, to_stdout, to_stderr, to_a_file,
    to_a_file_in_a_directory, to_the_name_of_a_file, to_a_shared_file, to_a_page, to_an_error,
    to_what_an_error_holds, to_a_repr,
]  # fmt: skip


def test_each_kind_of_leak_is_found(
    way: Way, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A guest that tells what it was asked, in each kind of place and another encoding each."""
    respond = api.respond
    for leak in LEAKING:
        told = marker(leak.__name__)

        async def leaking(*given: Any, leak: Any = leak, told: str = told, **more: Any) -> Any:
            leak(way, told)
            return await respond(*given, **more)

        monkeypatch.setattr(sealed, "respond", leaking)
        assert way.ask(chat(turn("hello")))[0] == 200
        out, err = capfd.readouterr()
        places = {**way.places(), "stdout": out.encode(), "stderr": err.encode()}
        assert leaks(places, {leak.__name__: told}), leak.__name__
        assert not leaks(places, {"another": marker("another")})
    clean(way)


def test_a_leak_of_the_process_that_reads_bodies_is_found(
    way: Way, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parsing, "COMMAND", (sys.executable, "-P", "-c", IN_PARSER))
    assert way.ask(chat(turn(PLANTED["prompt"] + "ab " * INLINE_BYTES)))[0] == 200
    assert {(leak.name, leak.form) for leak in found(way, capfd)} == {("prompt", "hex")}
    clean(way)


def clean(way: Way) -> None:
    for path in way.shared.new():
        if Path(path).name.startswith("umay-test-"):
            Path(path).unlink(missing_ok=True)


TEXT = 'Ünïcode? "quoted" and\nlonger than a marker'


@pytest.mark.parametrize("text", [marker("any"), TEXT])
def test_every_form_is_found_within_other_bytes(text: str) -> None:
    for name, form in forms(text):
        for around in (b"", b"\0" * 7, b"level=info msg="):
            hits = leaks({"a log": around + form + b"\n"}, {"it": text})
            assert hits, name
    assert leaks({"a log": b"nothing of it"}, {"it": text}) == []


def test_token_ids_are_found_as_lists_and_as_words() -> None:
    ids = [17, 4, 260, 9, 1023, 8]
    for name, form in of_ids(ids):
        assert leaks({"a log": b"ids=[3, " + form + b"]"}, {}, {"it": ids}), name
    assert leaks({"a log": b"17, 4, 260, 9, 1023"}, {}, {"it": ids}) == []
