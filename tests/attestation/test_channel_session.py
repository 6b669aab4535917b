"""Requests to a session: two keys are needed, and a session ends when it should."""

from __future__ import annotations

import gc
import hashlib
import weakref
from dataclasses import dataclass, field

import pyhpke
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from attestation import wire
from attestation.channel import chunks, exchange, hpke, kem
from attestation.channel.client import ClientRequest
from attestation.channel.key_config import KeyConfig
from attestation.channel.server import Epoch, KeyRing
from attestation.channel.sessions import LIFE_SECONDS, UNUSED_SECONDS, SessionKeys
from attestation.channel.suite import KEMS, Suite
from attestation.errors import (
    ChannelError,
    NotForUs,
    Refused,
    Replayed,
    SessionBusy,
    SessionExpired,
    UmayError,
    Unavailable,
    UsageError,
)
from attestation.verify.verdict import VerifiedSession
from tests.helpers.fake_enclave import verified

MESSAGE = b"a question"


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Enclave:
    """A key ring with one epoch and one session for each KEM."""

    clock: Clock = field(default_factory=Clock)
    capacity: int = 8

    def __post_init__(self) -> None:
        sessions = SessionKeys(capacity=self.capacity, clock=self.clock)
        self.ring = KeyRing(sessions=sessions)
        self.epoch = self.ring.open_epoch()

    @property
    def sessions(self) -> SessionKeys:
        return self.ring.sessions

    def session(self, kem_id: int = kem.X25519_ID, epoch: Epoch | None = None) -> bytes:
        return self.sessions.open(kem_id, (epoch or self.epoch).guard)

    def configs(self, kem_id: int = kem.X25519_ID) -> list[bytes]:
        return [c.to_bytes() for c in self.epoch.configs if c.kem_id == kem_id]

    def client(self, session: bytes | None = None, kem_id: int = kem.X25519_ID) -> ClientRequest:
        session = session or self.session(kem_id)
        return ClientRequest(self.configs(kem_id), pq="preferred", session=session)

    def open(self, sealed: bytes) -> bytes:
        return self.ring.request(chunked=True, to_session=True).open(sealed)


@pytest.fixture
def enclave() -> Enclave:
    return Enclave()


@pytest.mark.parametrize("kem_id", KEMS)
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_a_request_to_a_session_and_its_answer(enclave: Enclave, kem_id: int, step: int) -> None:
    client = enclave.client(kem_id=kem_id)
    sealed = client.seal(MESSAGE)
    incoming = enclave.ring.request(chunked=True, to_session=True)
    plain = [p for i in range(0, len(sealed), step) for p in incoming.push(sealed[i : i + step])]
    assert b"".join(plain) + incoming.finish() == MESSAGE
    writer = incoming.response()
    assert client.response().open(writer.write(b"answer") + writer.finish()) == b"answer"
    assert client.export(b"salt", 32) == incoming.export(b"salt", 32)
    assert client.media_type == wire.SESSION_REQUEST
    assert client.response_media_type == incoming.response_media_type == wire.CHUNKED_RESPONSE


def test_the_bytes_on_the_wire(enclave: Enclave) -> None:
    session = enclave.session()
    assert session[0] == 0  # its key id (docs/spec/formats.md, SessionAnswer)
    client = enclave.client(session)
    sealed = client.seal(MESSAGE)
    assert sealed.startswith(client.clear) and len(client.clear) == 7 + 16 + 32 + 32
    assert client.clear[0] == client.key_id
    assert client.clear[7:23] == exchange.session_id(session)


def test_a_client_made_from_the_page_alone(enclave: Enclave) -> None:
    """docs/spec/channel.md, "Request to a session", with pyhpke."""
    suite = pyhpke.CipherSuite.new(
        pyhpke.KEMId.DHKEM_X25519_HKDF_SHA256, pyhpke.KDFId.HKDF_SHA256, pyhpke.AEADId.AES256_GCM
    )

    def public(config: bytes) -> pyhpke.KEMKey:
        key = X25519PublicKey.from_public_bytes(config[3:35])
        return pyhpke.KEMKey.from_pyca_cryptography_key(key)

    session, (epoch,) = enclave.session(), enclave.configs()
    digest = hashlib.sha256(session).digest()
    named = epoch[:1] + bytes.fromhex("002000010002") + digest[:16]
    enc_s, context = suite.create_sender_context(
        public(session), info=b"message/umay-session key\0" + named
    )
    enc, sender = suite.create_sender_context(
        public(epoch),
        info=b"message/umay-session request\0" + named + enc_s,
        psk=context.export(b"umay/session-psk/v1", 32),
        psk_id=digest,
    )
    sealed = sender.seal(MESSAGE)
    chunk = bytes([len(sealed)]) + sealed
    last = b"\0" + sender.seal(b"", aad=b"final")
    assert enclave.open(named + enc_s + enc + chunk + last) == MESSAGE


def test_a_client_is_told_from_others_by_its_session_or_its_key(enclave: Enclave) -> None:
    client = enclave.client()
    incoming = enclave.ring.request(chunked=True, to_session=True)
    incoming.open(client.seal(MESSAGE))
    assert incoming.sender == client.clear[7:23]
    client = ClientRequest(enclave.configs(), pq="preferred")
    incoming = enclave.ring.request(chunked=True)
    incoming.open(client.seal(MESSAGE))
    assert incoming.sender == hashlib.sha256(client.clear[7:]).digest()[:16]


def test_many_requests_to_one_session(enclave: Enclave) -> None:
    session = enclave.session()
    for number in range(3):
        message = b"question %d" % number
        assert enclave.open(enclave.client(session).seal(message)) == message


# Two keys


def thief(enclave: Enclave, **held: bool) -> KeyRing:
    """A ring with some of the enclave's private keys, as who copied its memory once."""
    ring = KeyRing(sessions=SessionKeys(clock=enclave.clock))
    keys = {c.key_id: enclave.ring.find(c.key_id).key for c in enclave.epoch.configs}
    if not held["epoch"]:
        keys = {name: type(key).generate() for name, key in keys.items()}
    epoch = ring.install(keys)
    for name, session in enclave.sessions._unused.items():
        copied = type(session)(
            name,
            session.digest,
            session.kem_id,
            epoch.guard,
            session.made,
            bytearray(session._seed if held["session"] else b"\1" * 32),
        )
        ring.sessions._unused[name] = copied
    return ring


@pytest.mark.parametrize("kem_id", KEMS)
def test_both_private_keys_open_a_request(enclave: Enclave, kem_id: int) -> None:
    sealed = enclave.client(kem_id=kem_id).seal(MESSAGE)
    ring = thief(enclave, epoch=True, session=True)
    assert ring.request(chunked=True, to_session=True).open(sealed) == MESSAGE


@pytest.mark.parametrize("kem_id", KEMS)
@pytest.mark.parametrize("held", ["epoch", "session"])
def test_either_private_key_alone_opens_nothing(enclave: Enclave, kem_id: int, held: str) -> None:
    sealed = enclave.client(kem_id=kem_id).seal(MESSAGE)
    ring = thief(enclave, epoch=held == "epoch", session=held == "session")
    with pytest.raises(ChannelError, match="not authentic"):
        ring.request(chunked=True, to_session=True).open(sealed)


@pytest.mark.parametrize("kem_id", KEMS)
def test_the_epoch_key_in_base_mode_opens_nothing(enclave: Enclave, kem_id: int) -> None:
    """As who knows the format, but not that a second key is needed."""
    client = enclave.client(kem_id=kem_id)
    sealed = client.seal(MESSAGE)
    enc = client.clear[-client.suite.enc_bytes :]
    for info in (exchange.session_info(client.clear[: -len(enc)]), b""):
        context = hpke.setup_receiver(
            enclave.ring.find(client.key_id).key, aead_id=client.suite.aead_id, enc=enc, info=info
        )
        with pytest.raises(ChannelError):
            reader = chunks.reader(context.messages, limit=99, chunked=True)
            reader.push(sealed[len(client.clear) :])


def test_the_answer_needs_both_keys_too(enclave: Enclave) -> None:
    client = enclave.client()
    sealed = client.seal(MESSAGE)
    incoming = enclave.ring.request(chunked=True, to_session=True)
    incoming.open(sealed)
    writer = incoming.response()
    answer = writer.write(b"answer") + writer.finish()
    stolen = hpke.setup_receiver(
        enclave.ring.find(client.key_id).key,
        aead_id=client.suite.aead_id,
        enc=client.clear[-32:],
        info=exchange.session_info(client.clear[:-32]),
    )
    guessed = exchange.Exchange(client.suite, client.clear[-32:], stolen, True)
    nonce, rest = answer[:32], answer[32:]
    with pytest.raises(ChannelError):
        chunks.reader(guessed.response_messages(nonce), limit=99, chunked=True).push(rest)


@given(at=st.integers(0, 7 + 16 + 32 + 32 - 1), bit=st.integers(0, 7))
def test_every_bit_before_the_first_chunk_counts(at: int, bit: int) -> None:
    enclave = SHARED
    sealed = bytearray(enclave.client(SESSION).seal(MESSAGE))
    sealed[at] ^= 1 << bit
    with pytest.raises(UmayError):
        enclave.open(bytes(sealed))


@given(data=st.binary(max_size=300))
def test_whatever_else_comes_is_refused(data: bytes) -> None:
    with pytest.raises(UmayError):
        SHARED.open(data)


SHARED = Enclave(capacity=4)
SESSION = SHARED.session()


# Replays


def test_a_request_that_came_before_is_a_replay(enclave: Enclave) -> None:
    sealed = enclave.client().seal(MESSAGE)
    enclave.open(sealed)
    with pytest.raises(Replayed):
        enclave.open(sealed)


def test_after_its_session_has_ended_it_still_is_one(enclave: Enclave) -> None:
    """Else the enclave would say that it did not execute what it did."""
    sealed = enclave.client().seal(MESSAGE)
    enclave.open(sealed)
    enclave.clock.now += LIFE_SECONDS
    with pytest.raises(Replayed):
        enclave.open(sealed)


def test_a_session_that_ends_while_the_request_arrives(enclave: Enclave) -> None:
    client = enclave.client()
    sealed = client.seal(MESSAGE)
    incoming = enclave.ring.request(chunked=True, to_session=True)
    incoming.push(sealed[:-40])
    enclave.clock.now += UNUSED_SECONDS
    with pytest.raises(SessionExpired) as caught:
        incoming.push(sealed[-40:])
    assert caught.value.clear == client.clear
    enclave.clock.now -= UNUSED_SECONDS
    with pytest.raises(Replayed):
        enclave.open(sealed)


def test_a_session_that_is_put_out_while_the_request_arrives(enclave: Enclave) -> None:
    sealed = enclave.client().seal(MESSAGE)
    incoming = enclave.ring.request(chunked=True, to_session=True)
    incoming.push(sealed[:-40])
    for _ in range(enclave.capacity):
        enclave.session()
    with pytest.raises(SessionExpired):
        incoming.push(sealed[-40:])


def test_what_is_signed_away_stays_so_whatever_the_clock_says(enclave: Enclave) -> None:
    """The host's clock goes back between two copies of one request: it was told of the one that
    nothing ran, so the other must not run."""
    sealed = enclave.client().seal(MESSAGE)
    incoming = enclave.ring.request(chunked=True, to_session=True)
    incoming.push(sealed[:-40])
    enclave.clock.now += UNUSED_SECONDS
    with pytest.raises(SessionExpired):
        enclave.open(sealed)
    enclave.clock.now -= UNUSED_SECONDS
    with pytest.raises(SessionExpired):
        incoming.push(sealed[-40:])


# The life of a session


def expired(enclave: Enclave, session: bytes) -> bool:
    client = enclave.client(session)
    try:
        enclave.open(client.seal(MESSAGE))
    except SessionExpired as error:
        assert error.clear == client.clear and error.code == "session-expired"
        return True
    return False


def test_an_unknown_session(enclave: Enclave) -> None:
    assert expired(enclave, Enclave().session())


def test_a_session_without_a_request_ends_after_two_minutes(enclave: Enclave) -> None:
    early, late = enclave.session(), enclave.session()
    enclave.clock.now += UNUSED_SECONDS - 1
    assert not expired(enclave, early)
    enclave.clock.now += 1
    assert expired(enclave, late) and not expired(enclave, early)


def test_a_request_to_an_ended_session_takes_no_place_in_the_replay_table(
    enclave: Enclave,
) -> None:
    sealed = enclave.client().seal(MESSAGE)
    enclave.clock.now += UNUSED_SECONDS
    for _ in range(2):
        with pytest.raises(SessionExpired):
            enclave.open(sealed)
    assert len(enclave.epoch.guard) == 0


def test_a_session_in_use_ends_after_ten_minutes(enclave: Enclave) -> None:
    session = enclave.session()
    assert not expired(enclave, session)
    enclave.clock.now += LIFE_SECONDS - 1
    assert not expired(enclave, session)
    enclave.clock.now += 1
    assert expired(enclave, session)


def test_a_sweep_forgets_what_is_over_and_nothing_else(enclave: Enclave) -> None:
    used, unused = enclave.session(), enclave.session()
    assert not expired(enclave, used)
    held = list(enclave.sessions._unused.values())
    enclave.clock.now += UNUSED_SECONDS
    young = enclave.session()
    enclave.sessions.sweep()
    assert len(enclave.sessions) == 2 and not any(held[0]._seed)
    assert expired(enclave, unused)
    assert not expired(enclave, used) and not expired(enclave, young)
    enclave.clock.now += LIFE_SECONDS
    enclave.sessions.sweep()
    assert len(enclave.sessions) == 0


def test_the_oldest_without_a_request_makes_room(enclave: Enclave) -> None:
    first, second = enclave.session(), enclave.session()
    assert not expired(enclave, first)
    newer = [enclave.session() for _ in range(enclave.capacity - 1)]
    assert len(enclave.sessions) == enclave.capacity
    assert expired(enclave, second) and not expired(enclave, first)
    assert not expired(enclave, newer[-1])


def test_room_for_new_sessions_counts_those_in_use(enclave: Enclave) -> None:
    first, _ = enclave.session(), enclave.session()
    assert enclave.sessions.room == enclave.capacity
    assert not expired(enclave, first)
    assert enclave.sessions.room == enclave.capacity - 1


def test_a_session_in_use_is_never_put_out(enclave: Enclave) -> None:
    used = [enclave.session() for _ in range(enclave.capacity)]
    assert not any(expired(enclave, session) for session in used)
    with pytest.raises(SessionBusy, match="every one is in use") as caught:
        enclave.session()
    assert caught.value.code == "session-busy"
    assert not any(expired(enclave, session) for session in used)


def test_a_session_ends_with_its_epoch(enclave: Enclave) -> None:
    session = enclave.session()
    held = list(enclave.sessions._unused.values())
    sealed = enclave.client(session).seal(MESSAGE)
    other = enclave.ring.open_epoch()
    kept = enclave.session(epoch=other)
    enclave.ring.retire(enclave.epoch)
    with pytest.raises(NotForUs):
        enclave.open(sealed)
    assert len(enclave.sessions) == 1 and not any(held[0]._seed)
    enclave.epoch = other
    assert not expired(enclave, kept)


@pytest.mark.parametrize("arrived", ["all", "the header"])
def test_nothing_under_way_keeps_the_private_key_of_an_epoch(
    enclave: Enclave, arrived: str
) -> None:
    """Else who takes his answer slowly keeps it in memory, where it opens all of its epoch."""
    client = enclave.client()
    sealed, key = client.seal(MESSAGE), weakref.ref(enclave.ring.find(client.key_id).key)
    incoming = enclave.ring.request(chunked=True, to_session=True)
    if arrived == "all":
        assert incoming.open(sealed) == MESSAGE
    else:
        incoming.push(sealed[:20])
    enclave.ring.retire(enclave.epoch)
    gc.collect()
    assert key() is None
    if arrived == "all":
        writer = incoming.response()
        assert client.response().open(writer.write(b"answer") + writer.finish()) == b"answer"
    else:
        with pytest.raises(NotForUs):
            incoming.push(sealed[20:])


def test_no_session_is_made_for_an_epoch_that_has_ended(enclave: Enclave) -> None:
    """As where a quote's thread is still at work when a boot ends."""
    enclave.ring.retire(enclave.epoch)
    with pytest.raises(Unavailable, match="has ended"):
        enclave.session()
    assert len(enclave.sessions) == 0


def test_a_session_of_another_epoch(enclave: Enclave) -> None:
    other = enclave.ring.open_epoch()
    assert expired(enclave, enclave.session(epoch=other))


def test_a_session_that_no_client_hears_of_is_forgotten(enclave: Enclave) -> None:
    session = enclave.session()
    enclave.sessions.forget([session, Enclave().session()])
    assert len(enclave.sessions) == 0


def test_an_ended_session_gives_no_key(enclave: Enclave) -> None:
    enclave.session()
    (session,) = enclave.sessions._unused.values()
    assert session.key().public
    session.wipe()
    with pytest.raises(SessionExpired):
        session.key()


def test_keys_are_fresh_and_not_shown(enclave: Enclave) -> None:
    assert enclave.session() != enclave.session()
    (session, _) = enclave.sessions._unused.values()
    shown = repr(enclave.sessions) + repr(session)
    assert session._seed.hex() not in shown and repr(bytes(session._seed))[2:-1] not in shown


def test_another_kem_is_refused(enclave: Enclave) -> None:
    with pytest.raises(ChannelError, match="KEM"):
        enclave.session(0x0010)


# The client's end


def test_a_session_key_of_another_kem_or_without_our_aead(enclave: Enclave) -> None:
    key = KeyConfig.from_bytes(enclave.session())
    chacha = KeyConfig(0, key.kem_id, key.public, ((1, 3),)).to_bytes()
    for session in (enclave.session(kem.X_WING_ID), chacha):
        with pytest.raises(Refused, match="no-common-suite"):
            enclave.client(session)


def test_a_request_whose_kem_is_not_the_sessions(enclave: Enclave) -> None:
    """Our client refuses to make one; another one may not."""
    head = exchange.header(
        next(c.key_id for c in enclave.epoch.configs if c.kem_id == kem.X_WING_ID),
        Suite(kem.X_WING_ID, 2),
    )
    name = exchange.session_id(enclave.session())
    with pytest.raises(ChannelError, match="KEM 0x0020, the session's"):
        enclave.open(head + name + bytes(2 * 1120))


def test_a_session_takes_chunked_requests_alone(enclave: Enclave) -> None:
    with pytest.raises(UsageError):
        ClientRequest(enclave.configs(), pq="preferred", session=enclave.session(), chunked=False)
    with pytest.raises(UsageError):
        enclave.ring.request(chunked=False, to_session=True)


def test_sealing_to_an_enclave_with_a_session(enclave: Enclave) -> None:
    minted = verified(enclave.epoch.configs, Ed25519PrivateKey.generate(), bytes(16))
    now = minted.bundle.not_before
    session = VerifiedSession(enclave.session(kem.X_WING_ID), now + 100)
    minted = verified(
        enclave.epoch.configs, Ed25519PrivateKey.generate(), bytes(16), session=session
    )
    request = ClientRequest.to(minted, pq="required", now=now + 100)
    assert request.media_type == wire.SESSION_REQUEST
    assert enclave.open(request.seal(MESSAGE)) == MESSAGE
    with pytest.raises(Refused) as caught:
        ClientRequest.to(minted, pq="required", now=now + 101)
    assert (caught.value.step, caught.value.code) == ("freshness", "session-expired")
