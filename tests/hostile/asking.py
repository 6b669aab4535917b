"""Asks through a hostile relay, many questions at once, and says how each ended.

`python -m tests.hostile.asking FACE FIRST COUNT` with the relay's first line on standard input;
prints one JSON line. A process of its own, so that its memory, threads and sockets can be counted.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from attestation.channel.key_config import KeyConfig
from attestation.errors import UmayError
from client_sdk.answer import Answer
from client_sdk.choosing import Chosen
from client_sdk.presented import Place
from tests.helpers.fake_enclave import DONE, PIECES, FakeAsyncClient, FakeClient, verified
from tests.hostile.faults import NAMES, fault_of
from tests.hostile.relay import MARKER, QUESTION

AT_ONCE = 16
TIMEOUT_S = 1.0
SETTLE_S = 60.0
URL = "https://umay.invalid/v1/chat/completions"
BOOT = "ab" * 16
RIGHT = b"".join([*PIECES, DONE])
Ask = Callable[[int], bytes]


@dataclass
class Tally:
    """`wrong` names seeds whose answer was not the right one, `escaped` those whose error is
    outside the tree; `slowest` is in seconds."""

    right: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    escaped: list[str] = field(default_factory=list)
    slowest: float = 0.0
    slowest_fault: str = ""


class Machine:
    """What FakeClient asks of an enclave: where it stands, and its keys as verified."""

    def __init__(self, relay: str, told: dict[str, Any]) -> None:
        configs = [KeyConfig.from_bytes(bytes.fromhex(text)) for text in told["configs"]]
        self.verified = verified(configs, _Public(told["receipt_key"]), bytes.fromhex(BOOT))
        self.relay = relay

    def at(self, seed: int) -> Any:
        place = Place(BOOT, f"{self.relay}/{seed}/umay/{BOOT}/", "ready")
        chosen, rest = Chosen(place, self.verified), {"other_ways": (), "with_sessions": False}
        return SimpleNamespace(verified=self.verified, chosen=chosen, **rest)


class _Public:
    """Stands for a private key where only the public one is looked at."""

    def __init__(self, text: str) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))

    def public_key(self) -> Ed25519PublicKey:
        return self._key


# Ways to ask: each returns the content, or raises UmayError


def by_client(machine: Machine) -> Ask:
    def ask(seed: int) -> bytes:
        with FakeClient([machine.at(seed)], timeout=TIMEOUT_S) as client:
            return client.chat(question(seed)).read()

    return ask


def by_transport(machine: Machine) -> Ask:
    import httpx

    from client_sdk.openai_transport import SealedTransport

    def ask(seed: int) -> bytes:
        client = FakeClient([machine.at(seed)], timeout=TIMEOUT_S)
        with client, httpx.Client(transport=SealedTransport(client), timeout=TIMEOUT_S) as http:
            answer = http.post(URL, json=question(seed))
            return whole(answer.status_code, answer.read())

    return ask


def by_async_client(machine: Machine) -> Ask:
    async def ask(seed: int) -> bytes:
        async with FakeAsyncClient([machine.at(seed)], timeout=TIMEOUT_S) as client:
            return await (await client.chat(question(seed))).read()

    return _in_a_loop(ask)


def by_async_transport(machine: Machine) -> Ask:
    import httpx

    from client_sdk.openai_transport import AsyncSealedTransport

    async def ask(seed: int) -> bytes:
        client = FakeAsyncClient([machine.at(seed)], timeout=TIMEOUT_S)
        http = httpx.AsyncClient(transport=AsyncSealedTransport(client), timeout=TIMEOUT_S)
        async with client, http:
            answer = await http.post(URL, json=question(seed))
            return whole(answer.status_code, await answer.aread())

    return _in_a_loop(ask)


def _in_a_loop(ask: Callable[[int], Coroutine[Any, Any, bytes]]) -> Ask:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return lambda seed: asyncio.run_coroutine_threadsafe(ask(seed), loop).result()


class _PerQuestion(FakeClient):
    """The proxy's client: each question goes to the relay's place for its seed."""

    def __init__(self, machine: Machine) -> None:
        super().__init__([machine.at(0)], timeout=TIMEOUT_S)
        self.machine = machine

    def request(self, method: str, path: str, content: bytes = b"", **more: Any) -> Answer:
        found = QUESTION.search(content)
        assert found is not None, "expected a question of this trial"
        client = FakeClient([self.machine.at(int(found[1]))], timeout=TIMEOUT_S)
        return client.request(method, path, content, **more)


def by_proxy(machine: Machine) -> Ask:
    import http.client

    from attestation.net.serve import serve
    from client_sdk.proxy.app import create_app

    token, ready = "0123456789abcdef", threading.Event()
    where: list[str] = []

    def listening(urls: Sequence[str]) -> None:
        where.append(urls[0])
        ready.set()

    app = create_app(_PerQuestion(machine), token=token)
    words = {"ready": listening}
    threading.Thread(
        target=serve, args=([(app, "127.0.0.1:0")],), kwargs=words, daemon=True
    ).start()
    ready.wait()
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}

    def ask(seed: int) -> bytes:
        connection = http.client.HTTPConnection(where[0].partition("//")[2])
        try:
            body = json.dumps(question(seed))
            connection.request("POST", "/v1/chat/completions", body, headers)
            answer = connection.getresponse()
            return whole(answer.status, answer.read())
        finally:
            connection.close()

    return ask


FACES = {
    "client": by_client,
    "transport": by_transport,
    "async client": by_async_client,
    "async transport": by_async_transport,
    "proxy": by_proxy,
}


def question(seed: int) -> dict[str, Any]:
    content = f"{MARKER.decode()}question-{seed}-"
    messages = [{"role": "user", "content": content}]
    return {"model": "demo", "messages": messages, "stream": True}


class Told(UmayError):
    """An error that came as an HTTP answer: its code is the one in OpenAI's form."""

    code = "told"


def whole(status: int, body: bytes) -> bytes:
    """The content of a good answer. Raises Told for an error, also for one at a stream's end."""
    last = body.rstrip(b"\n").rpartition(b"\n")[2]
    if status == 200 and b'"error"' not in last:
        return body
    raise Told(str(json.loads(last.removeprefix(b"data: "))["error"]["code"]))


# The trial


def run(ask: Ask, seeds: range) -> Tally:
    tally, lock = Tally(), threading.Lock()

    def one(seed: int) -> None:
        began = time.monotonic()
        kind, text = _outcome(ask, seed)
        seconds, named = time.monotonic() - began, f"{seed} ({fault_of(seed).name})"
        with lock:
            if kind == "right":
                tally.right += 1
            elif kind == "error":
                tally.errors[text] += 1
            else:
                getattr(tally, kind).append(f"{named}: {text}")
            if seconds > tally.slowest:
                tally.slowest, tally.slowest_fault = round(seconds, 2), named

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, seeds))
    return tally


def _outcome(ask: Ask, seed: int) -> tuple[str, str]:
    try:
        content = ask(seed)
    except UmayError as error:
        return "error", str(error) if isinstance(error, Told) else error.code
    except Exception as error:
        return "escaped", f"{type(error).__name__}: {error}"[:200]
    return ("right", "") if content == RIGHT else ("wrong", repr(content[:200]))


def _sockets() -> int:
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:
            continue
    return found


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(face: str, first: int, count: int) -> None:
    told = json.loads(sys.stdin.readline())
    ask = FACES[face](Machine(f"http://127.0.0.1:{told['port']}", told))
    warm = 10**9 * len(NAMES)
    run(ask, range(warm, warm + AT_ONCE * len(NAMES), len(NAMES)))  # as many threads as will be
    sockets, threads, peak = _sockets(), threading.active_count(), _peak_mib()
    tally = run(ask, range(first, first + count))
    until = time.monotonic() + SETTLE_S
    while (_sockets() > sockets or threading.active_count() > threads) and time.monotonic() < until:
        gc.collect()
        time.sleep(0.1)
    left = {
        "sockets": _sockets() - sockets,
        "threads": threading.active_count() - threads,
        "mib": round(_peak_mib() - peak, 1),
    }
    print(json.dumps({**vars(tally), "more": left}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
