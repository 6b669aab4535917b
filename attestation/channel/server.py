"""The enclave's end: keys by epoch, requests opened, responses sealed.

A request enters its epoch's replay table as soon as its first chunk has authenticated,
before any of it is released. Retiring an epoch drops the only references to its private
keys, and ends its sessions; an exchange under way keeps its own derived secrets until it ends,
and no key that opens another one.

SessionExpired says that a request to a session was not executed and never will be: its name is
in no session, and its encapsulated key was in no request that authenticated. A request that
authenticates is entered first and then asks whether its session still lives, so that the two
answers cannot both be given.

TooManyRequests says the same of a request that came faster than the epoch's table allows. It has
authenticated, so its refusal can be sealed: `response` is there for it too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from attestation.channel import chunks, exchange, hpke, kem
from attestation.channel.key_config import ALGORITHMS, KeyConfig
from attestation.channel.protocol import SESSION_ID_BYTES
from attestation.channel.replay import DEFAULT_CAPACITY, ReplayGuard, entry_of
from attestation.channel.sessions import Session, SessionKeys
from attestation.channel.suite import KEMS, Suite
from attestation.errors import (
    ChannelError,
    NotForUs,
    Replayed,
    SessionExpired,
    TooManyRequests,
    Truncated,
    UmayError,
    UsageError,
)
from attestation.wire import CHUNKED_RESPONSE, MAX_REQUEST_BYTES, OHTTP_RESPONSE


@dataclass(frozen=True)
class Epoch:
    """The public side of one set of keys, and its replay table."""

    configs: tuple[KeyConfig, ...]
    guard: ReplayGuard = field(compare=False)


@dataclass(frozen=True)
class _EpochKeys:
    key: kem.PrivateKey
    config: KeyConfig
    guard: ReplayGuard


@dataclass(frozen=True)
class _Agreed:
    """What the header of a request settles."""

    exchange: exchange.Exchange
    reader: chunks.Reader
    guard: ReplayGuard
    session: Session | None


class KeyRing:
    """The private keys of the epochs that are alive, by key id, and their `sessions`."""

    def __init__(
        self,
        *,
        replay_capacity: int = DEFAULT_CAPACITY,
        sessions: SessionKeys | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sessions = SessionKeys() if sessions is None else sessions
        self.clock = clock
        self._capacity = replay_capacity
        self._held: dict[int, _EpochKeys] = {}
        self._next_id = 0
        self._lock = threading.Lock()

    def open_epoch(self, kems: Sequence[int] = KEMS) -> Epoch:
        """New keys, one per KEM, under ids that no living epoch uses."""
        with self._lock:
            return self._install({self._free_id(): _generate(kem_id) for kem_id in kems})

    def install(
        self,
        keys: Mapping[int, kem.PrivateKey],
        *,
        algorithms: tuple[tuple[int, int], ...] = ALGORITHMS,
    ) -> Epoch:
        """An epoch of given keys by key id. Raises UsageError where an id is taken."""
        with self._lock:
            return self._install(keys, algorithms)

    def retire(self, epoch: Epoch) -> None:
        """Forget the epoch's keys, replay table and sessions; retiring twice does nothing."""
        with self._lock:
            for config in epoch.configs:
                held = self._held.get(config.key_id)
                if held is not None and held.guard is epoch.guard:
                    del self._held[config.key_id]
        epoch.guard.ended = True  # first, so that no session is made after these have ended
        self.sessions.retire(epoch.guard)

    def request(
        self, *, chunked: bool, to_session: bool = False, limit: int = MAX_REQUEST_BYTES
    ) -> ServerRequest:
        """A request about to arrive; `limit` bounds its plaintext bytes. One to a session is
        always chunked."""
        return ServerRequest(self, chunked=chunked, to_session=to_session, limit=limit)

    def find(self, key_id: int) -> _EpochKeys:
        """Raises NotForUs for an id that no living epoch has."""
        held = self._held.get(key_id)
        if held is None:
            raise NotForUs(
                f"request: expected the id of a key that this enclave holds now, got {key_id}"
            )
        return held

    def _install(
        self,
        keys: Mapping[int, kem.PrivateKey],
        algorithms: tuple[tuple[int, int], ...] = ALGORITHMS,
    ) -> Epoch:
        taken = self._held.keys() & keys.keys()
        if taken or not keys:
            raise UsageError(f"key ring: expected new key ids, got {sorted(taken)} again")
        configs = {
            key_id: KeyConfig(key_id, key.kem_id, key.public, algorithms)
            for key_id, key in keys.items()
        }
        guard = ReplayGuard(self._capacity)
        for key_id, key in keys.items():
            self._held[key_id] = _EpochKeys(key, configs[key_id], guard)
        return Epoch(tuple(configs.values()), guard)

    def _free_id(self) -> int:
        for _ in range(256):
            self._next_id = (self._next_id + 1) % 256
            if self._next_id not in self._held:
                return self._next_id
        raise UsageError("key ring: expected a free key id from 0 to 255, every one is in use")

    def __repr__(self) -> str:
        return f"<KeyRing of {len(self._held)} keys, secret>"


class ServerRequest:
    """One request, opened as it arrives. Act on it only when `finish` has returned."""

    def __init__(self, ring: KeyRing, *, chunked: bool, to_session: bool, limit: int) -> None:
        if to_session and not chunked:
            raise UsageError("request: expected a chunked one to a session, got one that is not")
        self.chunked = chunked
        self._to_session = to_session
        self._ring = ring
        self._limit = limit
        self._head = bytearray()
        self._agreed: _Agreed | None = None
        self._reserved = False
        self._closed = False
        self._to_answer: _Agreed | None = None
        """Where it is whole, or has come too fast."""

    def push(self, data: bytes) -> list[bytes]:
        """Plaintext that authenticated.

        Raises NotForUs for an unknown key, SessionExpired for an unknown session, Replayed,
        TooManyRequests, ChannelError; after that, give up.
        """
        if self._closed:
            raise UsageError("request: expected no push after finish or after an error")
        try:
            return self._push(data)
        except UmayError:
            self._closed = True
            raise

    def finish(self) -> bytes:
        """The last plaintext: the request is whole, authentic and new.

        Raises Truncated when it was cut, Replayed, TooManyRequests, ChannelError.
        """
        if self._closed:
            raise UsageError("request: expected no finish after finish or after an error")
        self._closed = True
        if self._agreed is None:
            raise Truncated("request: expected a whole header, it ends within it")
        plaintext = self._agreed.reader.finish()
        self._reserve(self._agreed)
        self._to_answer = self._agreed
        return plaintext

    def open(self, data: bytes) -> bytes:
        """The whole request at once."""
        return b"".join(self.push(data)) + self.finish()

    @property
    def response_media_type(self) -> str:
        return CHUNKED_RESPONSE if self.chunked else OHTTP_RESPONSE

    def response(self) -> chunks.Writer:
        """The writer of the response. Raises UsageError before `finish` has returned, unless
        TooManyRequests was raised: then it says so."""
        agreed = self._established().exchange
        nonce = exchange.new_response_nonce(agreed.suite)
        return chunks.writer(agreed.response_messages(nonce), head=nonce, chunked=self.chunked)

    def export(self, label: bytes, length: int) -> bytes:
        """`length` secret bytes that the client exports alike."""
        return self._established().exchange.export(label, length)

    @property
    def key_id(self) -> int:
        """Of the key that opened it. Raises UsageError before `finish`."""
        self._established()
        return self._head[0]

    @property
    def sender(self) -> bytes:
        """16 bytes, all that tells its client from others: the name of its session, or a hash of
        the encapsulated key, which each request has of its own. Raises UsageError before `finish`.
        """
        agreed = self._established()
        return entry_of(agreed.exchange.enc) if agreed.session is None else agreed.session.name

    @property
    def suite(self) -> Suite:
        """The algorithms that the client chose. Raises UsageError before `finish`."""
        return self._established().exchange.suite

    def _push(self, data: bytes) -> list[bytes]:
        if self._agreed is None:
            data = self._read_head(data)
        if self._agreed is None:
            return []
        plaintext = self._agreed.reader.push(data)
        if plaintext:
            self._reserve(self._agreed)
        return plaintext

    def _read_head(self, data: bytes) -> bytes:
        """Feeds header and encapsulated key; returns what comes after them."""
        data = self._fill(data, exchange.HEADER_BYTES)
        if len(self._head) < exchange.HEADER_BYTES:
            return b""
        held, suite = self._select(bytes(self._head))  # for each piece: the epoch may have ended
        whole = exchange.HEADER_BYTES + suite.enc_bytes
        if self._to_session:
            whole += SESSION_ID_BYTES + suite.enc_bytes
        data = self._fill(data, whole)
        if len(self._head) == whole:
            self._agreed = self._agree(held, suite)
        return data

    def _fill(self, data: bytes, size: int) -> bytes:
        missing = max(0, size - len(self._head))
        self._head += data[:missing]
        return data[missing:]

    def _select(self, head: bytes) -> tuple[_EpochKeys, Suite]:
        held = self._ring.find(head[0])
        kem_id, kdf_id, aead_id = (int.from_bytes(head[i : i + 2], "big") for i in (1, 3, 5))
        if kem_id != held.config.kem_id or (kdf_id, aead_id) not in held.config.algorithms:
            raise ChannelError(
                f"request: expected algorithms that key id {head[0]} offers, got "
                f"KEM {kem_id:#06x}, KDF {kdf_id:#06x}, AEAD {aead_id:#06x}"
            )
        return held, Suite(kem_id, aead_id, kdf_id)

    def _agree(self, held: _EpochKeys, suite: Suite) -> _Agreed:
        clear = bytes(self._head)
        before, enc = clear[: -suite.enc_bytes], clear[-suite.enc_bytes :]
        session, psk, info = None, None, exchange.info(before, chunked=self.chunked)
        if self._to_session:
            session, psk = self._session_psk(held.guard, suite)
            info = exchange.session_info(before)
        context = hpke.setup_receiver(held.key, aead_id=suite.aead_id, enc=enc, info=info, psk=psk)
        reader = chunks.reader(context.messages, limit=self._limit, chunked=self.chunked)
        agreed = exchange.Exchange(suite, enc, context, self.chunked)
        return _Agreed(agreed, reader, held.guard, session)

    def _session_psk(self, guard: ReplayGuard, suite: Suite) -> tuple[Session, hpke.Psk]:
        clear, middle = bytes(self._head), exchange.HEADER_BYTES + SESSION_ID_BYTES
        head, name = clear[: exchange.HEADER_BYTES], clear[exchange.HEADER_BYTES : middle]
        try:
            session = self._ring.sessions.find(name, guard)
            key = session.key()
        except SessionExpired as error:
            if guard.has(clear[-suite.enc_bytes :]):
                raise Replayed("request: expected a new one, this was seen before") from None
            error.clear = clear
            raise
        if session.kem_id != suite.kem_id:
            raise ChannelError(
                f"request: expected KEM {session.kem_id:#06x}, the session's, got "
                f"{suite.kem_id:#06x}"
            )
        context = hpke.setup_receiver(
            key,
            aead_id=suite.aead_id,
            enc=clear[middle : -suite.enc_bytes],
            info=exchange.session_key_info(head, name),
        )
        return session, exchange.session_psk(context, session.digest)

    def _reserve(self, agreed: _Agreed) -> None:
        if self._reserved:
            return
        try:
            agreed.guard.reserve(agreed.exchange.enc, now=self._ring.clock())
        except TooManyRequests:
            self._to_answer = agreed
            raise
        if agreed.session is not None:
            try:
                self._ring.sessions.use(agreed.session)
            except SessionExpired as error:
                error.clear = bytes(self._head)
                raise
        self._reserved = True

    def _established(self) -> _Agreed:
        if self._to_answer is None:
            raise UsageError("response: expected the request to be finished first")
        return self._to_answer


def _generate(kem_id: int) -> kem.PrivateKey:
    if kem_id not in KEMS:
        raise UsageError(f"KEM: expected 0x0020 or 0x647a, got {kem_id:#06x}")
    return kem.XWingKey.generate() if kem_id == kem.X_WING_ID else kem.X25519Key.generate()
