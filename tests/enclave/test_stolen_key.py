"""A relay that holds an epoch's private keys, before a real guest on the simulator.

Where no session is asked for it reads everything, as it did when a challenge was a quote over a
nonce. With a session it reads nothing, whatever it passes on, keeps, swaps or makes itself.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from attestation import wire
from attestation.channel.client import ClientRequest
from attestation.channel.server import KeyRing
from attestation.errors import (
    ChannelError,
    SessionBusy,
    UmayError,
    Unavailable,
    VerificationError,
)
from attestation.formats.session import SessionAnswer, SessionRequest, session_leaf
from attestation.log.merkle import leaf_hash
from attestation.net.serve import Server
from attestation.net.server_connection import Limits
from attestation.trust.anchor import Anchor
from attestation.verify.verifier import Presented, Verifier
from client_sdk import Client
from client_sdk.presented import Place, fetch_presented
from client_sdk.transport import Transport
from contracts import artefact
from contracts.codec import LogState
from enclave.guest import server
from enclave.guest.guest import Guest
from enclave.guest.sessions import Sessions
from tests.client_sdk.test_registry_client import Chain
from tests.enclave.test_guest_boot import Rig, rig, verify
from tests.helpers.waiting import wait_for
from tests.helpers.world import NOW

__all__ = ["rig"]
PROMPT = "xyzzy, the secret question"
Forward = Callable[[bytes], bytes]


@dataclass
class Thief(Transport):
    """The relay: it has copied the epoch's private keys, and reaches the guest. `answer` is what
    it makes of a question for a session; `sealed` and `read` are what it got of prompts."""

    guest: str
    presented: Presented
    ring: KeyRing
    answer: Callable[[bytes, Forward], bytes] = lambda asked, forward: forward(asked)
    sealed: list[bytes] = field(default_factory=list)
    read: list[bytes] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def get(self, url: str, **options: Any) -> bytes:
        below = url.removeprefix(self.guest)
        own = {"collateral": self.presented.collateral.to_bytes()}
        if below.startswith("proof"):
            return self.presented.proof or b""
        return own.get(below) or super().get(url, **options)

    def post(self, url: str, body: bytes, **options: Any) -> bytes:
        self.asked.append(body)
        send = super().post
        return self.answer(body, lambda asked: send(url, asked, **options))

    def stream(self, url: str, body: bytes, headers: Any, **options: Any) -> Any:
        self.sealed.append(body)
        for to_session in (False, True):
            request = self.ring.request(chunked=True, to_session=to_session)
            try:
                self.read.append(request.open(body))
            except UmayError:
                continue
        return super().stream(url, body, headers, **options)


@dataclass
class Scene:
    rig: Rig
    guest: Guest
    base: str
    chain: Chain
    thief: Thief
    place: Place

    def client(self, challenge: str) -> Client:
        code_hash = artefact.load("attestation_log").code_hash
        policy = dataclasses.replace(
            self.rig.world.policy, challenge=challenge, log_code_hash=code_hash
        )
        return Client(
            self.base.rstrip("/"),
            policy=policy,
            chain=self.chain,
            transport=self.thief,
            clock=lambda: float(NOW),
        )

    def chat(self, challenge: str = "required") -> int:
        return (
            self.client(challenge)
            .chat({"model": "toy", "messages": [{"role": "user", "content": PROMPT}]})
            .status
        )

    @property
    def session_keys(self) -> int:
        return len(self.guest.epochs.ring.sessions)


@pytest.fixture
def scene(rig: Rig) -> Iterator[Scene]:
    guest = rig.boot()
    rig.serve(guest)
    verify(rig, guest)  # sets the policy to this guest's engine and model
    presented, anchor = rig.world.logged(rig.presented(guest))
    with socket.create_server(("127.0.0.1", 0)) as bound:
        served = Server(server.create_app(guest, listen="guest.internal:1"), Limits())
        thread = threading.Thread(target=served.run, args=([bound],), daemon=True)
        thread.start()
        wait_for(lambda: served.started)
        boot = guest.boot.boot_id.hex()
        base = f"http://127.0.0.1:{bound.getsockname()[1]}{wire.base(boot)}"
        thief = Thief(base, presented, copied(guest))
        place = Place(boot, base, "ready")
        yield Scene(rig, guest, base, chain_of(rig, anchor), thief, place)
        served.should_exit = served.force_exit = True
        thread.join()


def copied(guest: Guest) -> KeyRing:
    """The private keys of the guest's epoch, in another's hands. A session that nobody knows
    yet cannot be copied; the ring makes its own."""
    (epoch, _), *_ = guest.epochs.living
    ring = KeyRing()
    ring.install({c.key_id: guest.epochs.ring.find(c.key_id).key for c in epoch.keys.configs})
    return ring


def chain_of(rig: Rig, anchor: Anchor) -> Chain:
    state = LogState.genesis(
        origin=anchor.origin, log_key=anchor.log_key, size=anchor.size, root=anchor.root
    )
    return Chain(state, rig.world)


def test_without_a_session_it_reads_everything(scene: Scene) -> None:
    """As under mode 1: that quote named no key which the thief did not have."""
    scene.chat("optional")
    assert len(scene.thief.sealed) == len(scene.thief.read) == 1
    assert PROMPT.encode() in scene.thief.read[0]


def test_with_a_session_that_it_passes_on_it_reads_nothing(scene: Scene) -> None:
    assert scene.chat() == 500  # the toy engine has no answers; the guest opened the request
    assert len(scene.thief.sealed) == 1 and scene.thief.read == []
    assert PROMPT.encode() not in b"".join(scene.thief.sealed)
    assert [len(asked) for asked in scene.thief.asked] == [wire.SESSION_REQUEST_BYTES]


def test_the_guest_reads_what_the_thief_cannot(scene: Scene) -> None:
    anchor = scene.client("required").anchor()
    presented = fetch_presented(
        scene.thief, scene.place, size=anchor.size, nonce=bytes(range(32)), pq="required"
    )
    policy = dataclasses.replace(
        scene.rig.world.policy, challenge="required", log_code_hash=anchor.code_hash
    )
    enclave = Verifier(policy).verify(
        presented, anchor=anchor, beacon=scene.rig.world.beacon, now=NOW
    )
    body = ClientRequest.to(enclave, pq="required", now=NOW).seal(b"prompt")
    ring = scene.guest.epochs.ring
    assert ring.request(chunked=True, to_session=True).open(body) == b"prompt"
    with pytest.raises(ChannelError):
        scene.thief.ring.request(chunked=True, to_session=True).open(body)


def its_own_key(scene: Scene) -> Callable[[bytes, Forward], bytes]:
    """A key of the thief's in place of the guest's, which it has quoted."""

    def answer(asked: bytes, forward: Forward) -> bytes:
        real = SessionAnswer.from_bytes(forward(asked))
        epoch = next(iter(scene.thief.ring._held.values())).guard
        mine = scene.thief.ring.sessions.open(SessionRequest.from_bytes(asked).kem_id, epoch)
        return dataclasses.replace(real, config=mine).to_bytes()

    return answer


def an_old_answer(scene: Scene) -> Callable[[bytes, Forward], bytes]:
    kept: list[bytes] = []

    def answer(asked: bytes, forward: Forward) -> bytes:
        kept.append(forward(SessionRequest(bytes(32), 0x647A).to_bytes()))
        return kept[0]

    return answer


def own_quote(scene: Scene) -> Callable[[bytes, Forward], bytes]:
    """From a machine of the thief's own, which runs the very same guest."""

    def answer(asked: bytes, forward: Forward) -> bytes:
        forward(asked)
        other = scene.rig.boot()
        scene.rig.serve(other)
        sessions = Sessions(other.epochs, other.platform)
        return asyncio.run(sessions.open(SessionRequest.from_bytes(asked)))

    return answer


def of_another_machine(scene: Scene) -> Callable[[bytes, Forward], bytes]:
    """A quote over the right words, by a machine that measured something else."""

    def answer(asked: bytes, forward: Forward) -> bytes:
        nonce = SessionRequest.from_bytes(asked).nonce
        real = SessionAnswer.from_bytes(forward(asked))
        assert real.size == 1 and leaf_hash(session_leaf(nonce, real.config))
        scene.rig.world.evidence = dataclasses.replace(scene.rig.world.evidence, quote=real.quote)
        forged = scene.rig.world.forge(mr_td=b"\xaa" * 48).quote
        return dataclasses.replace(real, quote=forged).to_bytes()

    return answer


THEFTS = {
    "its own key": (its_own_key, "wrong-session"),
    "an old answer": (an_old_answer, "wrong-session"),
    "a machine of its own": (own_quote, "wrong-session"),
    "another machine's quote": (of_another_machine, "other-machine"),
}


@pytest.mark.parametrize(("make", "code"), THEFTS.values(), ids=THEFTS)
def test_whatever_it_answers_itself_nothing_is_sealed(scene: Scene, make: Any, code: str) -> None:
    scene.thief.answer = make(scene)
    with pytest.raises(VerificationError) as caught:
        scene.chat()
    assert (caught.value.step, caught.value.code) == ("freshness", code)
    assert not scene.thief.sealed and not scene.thief.read


def test_an_epoch_that_changes_between_evidence_and_session_is_asked_once_more(
    scene: Scene,
) -> None:
    old = an_old_answer(scene)
    old(
        bytes(34),
        lambda asked: (
            scene.thief._http.post(f"{scene.base}session", asked, limit=wire.MAX_SESSION_BYTES).body
        ),
    )

    def answer(asked: bytes, forward: Forward) -> bytes:
        return old(asked, forward) if len(scene.thief.asked) == 1 else forward(asked)

    scene.thief.answer = answer
    assert scene.chat() == 500
    assert len(scene.thief.asked) == 2 and len(scene.thief.sealed) == 1


def test_where_it_gives_no_session_nothing_is_sealed(scene: Scene) -> None:
    def answer(asked: bytes, forward: Forward) -> bytes:
        raise Unavailable("HTTP 404")

    scene.thief.answer = answer
    with pytest.raises(Unavailable) as caught:
        scene.chat()
    assert not isinstance(caught.value, SessionBusy) and not scene.thief.sealed


def test_a_guest_that_is_busy_is_named_so(scene: Scene) -> None:
    def answer(asked: bytes, forward: Forward) -> bytes:
        error = Unavailable("HTTP 429", retry_after=1.0)
        error.status = 429
        raise error

    scene.thief.answer = answer
    with pytest.raises(SessionBusy) as caught:
        scene.chat()
    assert caught.value.code == "session-busy" and caught.value.again
    assert caught.value.retry_after == 1.0 and not scene.thief.sealed


def test_a_session_that_the_guest_has_forgotten(scene: Scene) -> None:
    client = scene.client("required")
    body = {"model": "toy", "messages": [{"role": "user", "content": PROMPT}]}
    client.chat(body)
    (epoch, _), *_ = scene.guest.epochs.living
    scene.guest.epochs.ring.sessions.retire(epoch.keys.guard)
    answer = client.chat(body)
    assert (answer.status, answer.asked, answer.may_have_run) == (500, 2, 1)
    assert len(scene.thief.asked) == 2 and scene.session_keys == 1 and not scene.thief.read


def test_a_session_is_of_the_kem_that_the_policy_takes(scene: Scene) -> None:
    scene.chat()
    (asked,) = map(SessionRequest.from_bytes, scene.thief.asked)
    assert asked.kem_id == 0x647A


def test_examining_asks_for_a_session_too(scene: Scene) -> None:
    assert scene.client("required").examine(scene.place).ok
    assert len(scene.thief.asked) == 1
