"""What was planted is written by no process of a whole network, also when one of them dies.

As tests/e2e/test_markers.py, with the real processes and the real engine, and with what a host can
turn on to see more: tracebacks, asyncio's debug mode, and every byte that passes the relay.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from attestation import wire
from attestation.errors import UmayError
from client_sdk.client import Client
from client_sdk.config import read_policy
from client_sdk.localnet.devnet import MODEL_NAME, Network
from client_sdk.localnet.netfiles import GuestSpec, demo_model
from client_sdk.localnet.supervisor import Child
from contracts import node
from enclave.guest.engines.prompt import PromptEncoder
from enclave.guest.model import read_model
from enclave.guest.parsing import INLINE_BYTES
from tests.helpers.commands import command
from tests.helpers.dying_guest import DIES
from tests.helpers.host_parts import ask
from tests.helpers.markers import SharedPlaces, files_below, joined, leaks, marker, windows
from tests.helpers.places import ROOT
from tests.helpers.waiting import wait_for

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.skipif(not node.installed(), reason="contracts/localnet not installed"),
]
NAMES = (
    "prompt", "system", "key", "tool", "large", "large broken", "cancelled", "queued", "dying",
    "header", "proxy", "outer body",
)  # fmt: skip
PLANTED = {name: marker(f"process {name}") for name in NAMES}
QUEUED = 90
"""More than the engine's slots and its queue together."""


class Watched(Network):
    """Its guest dies when it is told to, and what each part prints is kept."""

    def _module(self, name: str, module: str, **options: Any) -> Child:
        if module == "enclave.guest":
            module = "tests.helpers.dying_guest"
        return super()._module(name, module, **options)

    def printed(self) -> dict[str, bytes]:
        children = {child.name: child for child in self.supervisor._children}
        return {
            f"stdout of {name}": b"\n".join(child._lines.queue) for name, child in children.items()
        }


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    for name, value in {
        "TMPDIR": str(tmp_path), "HOME": str(tmp_path), DIES: str(tmp_path / "dies"),
        "UMAY_TRACEBACK": "1", "PYTHONASYNCIODEBUG": "1", "PYTHONFAULTHANDLER": "1",
        "PYTHONPATH": str(ROOT),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)  # where a core file would lie
    guests = (GuestSpec("ada", 40, 120),)
    with Watched(tmp_path / "net", guests=guests, record=True, threads=1) as network:
        network.start()
        yield network


def chat(content: str, **more: object) -> bytes:
    turns = [
        {"role": "system", "content": PLANTED["system"]}, {"role": "user", "content": content},
    ]  # fmt: skip
    return json.dumps({"model": MODEL_NAME, "messages": turns, "max_tokens": 24, **more}).encode()


class Asking:
    """A client; `told` keeps what its errors and answers say of themselves."""

    def __init__(self, network: Network) -> None:
        policy = read_policy(network.files.policy)
        self.client = Client(network.relay, policy=policy, chain=network.chain())
        self.told: list[str] = []
        self.answers: list[str] = []

    def ask(self, body: bytes) -> int:
        try:
            answer = self.client.request("POST", wire.CHAT, body)
            content = answer.read()
            self.told += [repr(answer), repr(answer.receipt)]
            if answer.status == 200:
                self.answers.append(json.loads(content)["choices"][0]["message"]["content"])
            return answer.status
        except UmayError as error:
            self.told += [str(error), repr(error), repr(vars(error))]
            return 0


def test_no_process_writes_what_was_planted(network: Watched) -> None:
    shared, asking, m = SharedPlaces(), Asking(network), PLANTED
    assert asking.ask(chat(m["prompt"])) == 200
    tools = [{"type": "function", "function": {"name": m["tool"]}}]
    for refused in (chat("x", **{m["key"]: 1}), chat("x", tools=tools), chat(m["prompt"])[:-1]):
        assert asking.ask(refused) == 400
    for large in (chat(m["large"] + " ab" * INLINE_BYTES), chat("ab " * INLINE_BYTES + m["large"])):
        assert asking.ask(large) == 400
        assert asking.ask(large[:-1]) == 400
    through_the_proxy(network, m)
    unsealed(network, m)
    cancelled(asking, m)
    full(asking, m)
    pages = metrics(network)
    dies(network, asking, m)
    places = {
        **files_below(network.files.directory.parent), **network.printed(), **shared.new(),
        "metrics": pages, "client": joined(asking.told),
    }  # fmt: skip
    answers = {f"answer {n}: {part}": part for n, text in enumerate(asking.answers)
               for part in windows(text)}  # fmt: skip
    encoder = PromptEncoder(read_model(demo_model()).files)
    ids = {name: encoder.encode_text(text, max_tokens=1024) for name, text in PLANTED.items()}
    leaked = leaks(places, {**PLANTED, **answers}, ids)
    assert asking.answers and answers
    # The relay's own record holds what was sent to it unsealed, as its host asked.
    own = {("relay.record", "outer body"), ("relay.record", "header")}
    found = [leak for leak in leaked if (Path(leak.place).name, leak.name) not in own]
    assert not found, joined(found).decode()
    assert {(Path(leak.place).name, leak.name) for leak in leaked} == own


def through_the_proxy(network: Watched, m: dict[str, str]) -> None:
    base = network.start_proxy().removesuffix("/v1")
    fields = {"authorization": f"Bearer {network.files.api_token()}", "x_secret": m["proxy"]}
    for body in (chat(m["proxy"]), chat("x", **{m["proxy"]: 1}), m["proxy"].encode()):
        ask(base, wire.CHAT, method="POST", body=body, content_type=wire.JSON, **fields)
    ask(base, f"/{m['proxy']}?{m['proxy']}", **fields)


def unsealed(network: Watched, m: dict[str, str]) -> None:
    place = next(iter(network.wait_ready(1)))
    path = wire.base(place.boot) + "ohttp"
    for kind in (wire.JSON, wire.CHUNKED_REQUEST):
        body = m["outer body"].encode()
        ask(network.relay, path, method="POST", body=body, content_type=kind, x_a=m["header"])


def cancelled(asking: Asking, m: dict[str, str]) -> None:
    body = chat(m["cancelled"], stream=True, max_tokens=900, logit_bias={"2": -100})
    for _ in range(3):
        answer = asking.client.request("POST", wire.CHAT, body)
        next(iter(answer))
        answer.close()


def full(asking: Asking, m: dict[str, str]) -> None:
    """So many at once that some find the queue full."""
    body = chat(m["queued"], max_tokens=200, logit_bias={"2": -100})
    with ThreadPoolExecutor(QUEUED) as pool:
        statuses = list(pool.map(asking.ask, [body] * QUEUED))
    assert 200 in statuses and set(statuses) <= {0, 200, 429}


def metrics(network: Watched) -> bytes:
    token = (network.files.directory / "feed.token").read_text().strip()
    feed = network.url("feed-ada")
    found = ask(feed, "/metrics", authorization=f"Bearer {token}").body
    assert b"umay_requests_total" in found
    shown = command("host", "top", "--feed", feed, "--once", "--token-file",
                    str(network.files.directory / "feed.token"))  # fmt: skip
    assert shown.exit_code == 0 and "serving" in shown.stdout
    return found + shown.stdout.encode()


def dies(network: Watched, asking: Asking, m: dict[str, str]) -> None:
    """The engine stops in the middle of three answers, and the guest with it."""
    (child,) = [child for child in network.supervisor._children if child.name == "guest-ada"]
    limits = Path(f"/proc/{child.process.pid}/limits").read_text()
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
    body = chat(m["dying"], max_tokens=900, logit_bias={"2": -100})
    threads = [threading.Thread(target=asking.ask, args=(body,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    Path(network.files.directory.parent / "dies").touch()
    for thread in threads:
        thread.join()
    wait_for(lambda: child.process.poll() is not None)
    assert child.process.returncode == 5
    assert b"it was stopped by RuntimeError" in child.errors.read_bytes()
