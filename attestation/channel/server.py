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
        self._session: Session | None = None
        self._ring = ring
        self._limit = limit
        self._head = bytearray()
        self._guard: ReplayGuard | None = None
        self._suite: Suite | None = None
        self._exchange: exchange.Exchange | None = None
        self._reader: chunks.Reader | None = None
        self._reserved = False
        self._refused = False
        self._finished = False
        self._broken = False

    def push(self, data: bytes) -> list[bytes]:
        """Plaintext that authenticated.

        Raises NotForUs for an unknown key, SessionExpired for an unknown session, Replayed,
        TooManyRequests, ChannelError; after that, give up.
        """
        if self._broken or self._finished:
            raise UsageError("request: expected no push after finish or after an error")
        try:
            return self._push(data)
        except UmayError:
            self._broken = True
            raise

    def finish(self) -> bytes:
        """The last plaintext: the request is whole, authentic and new.

        Raises Truncated when it was cut, Replayed, TooManyRequests, ChannelError.
        """
        if self._broken or self._finished:
            raise UsageError("request: expected no finish after finish or after an error")
        self._broken = True
        if self._reader is None:
            raise Truncated("request: expected a whole header, it ends within it")
        plaintext = self._reader.finish()
        self._reserve()
        self._broken = False
        self._finished = True
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
        agreed = self._established()
        nonce = exchange.new_response_nonce(agreed.suite)
        return chunks.writer(agreed.response_messages(nonce), head=nonce, chunked=self.chunked)

    def export(self, label: bytes, length: int) -> bytes:
        """`length` secret bytes that the client exports alike."""
        return self._established().export(label, length)

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
        enc = self._established().enc
        return entry_of(enc) if self._session is None else self._session.name

    @property
    def suite(self) -> Suite:
        """The algorithms that the client chose. Raises UsageError before `finish`."""
        return self._established().suite

    def _push(self, data: bytes) -> list[bytes]:
        if self._reader is None:
            data = self._read_head(data)
            if self._reader is None:
                return []
        plaintext = self._reader.push(data)
        if plaintext:
            self._reserve()
        return plaintext

    def _read_head(self, data: bytes) -> bytes:
        """Feeds header and encapsulated key; returns what comes after them."""
        data = self._fill(data, exchange.HEADER_BYTES)
        if self._suite is None and len(self._head) == exchange.HEADER_BYTES:
            _, self._suite = self._select(bytes(self._head))
        if self._suite is None:
            return b""
        enc_bytes = self._suite.enc_bytes
        whole = exchange.HEADER_BYTES + enc_bytes
        if self._to_session:
            whole += SESSION_ID_BYTES + enc_bytes
        data = self._fill(data, whole)
        if len(self._head) == whole:
            self._exchange = self._agree(self._suite)
            messages = self._exchange.context.messages
            self._reader = chunks.reader(messages, limit=self._limit, chunked=self.chunked)
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

    def _agree(self, suite: Suite) -> exchange.Exchange:
        clear = bytes(self._head)
        held, _ = self._select(clear)  # again: while this arrived, the epoch may have ended
        self._guard = held.guard
        before, enc = clear[: -suite.enc_bytes], clear[-suite.enc_bytes :]
        psk, info = None, exchange.info(before, chunked=self.chunked)
        if self._to_session:
            psk, info = self._session_psk(held, suite), exchange.session_info(before)
        context = hpke.setup_receiver(held.key, aead_id=suite.aead_id, enc=enc, info=info, psk=psk)
        return exchange.Exchange(suite, enc, context, self.chunked)

    def _session_psk(self, held: _EpochKeys, suite: Suite) -> hpke.Psk:
        clear, middle = bytes(self._head), exchange.HEADER_BYTES + SESSION_ID_BYTES
        head, name = clear[: exchange.HEADER_BYTES], clear[exchange.HEADER_BYTES : middle]
        try:
            session = self._ring.sessions.find(name, held.guard)
            key = session.key()
        except SessionExpired as error:
            if held.guard.has(clear[-suite.enc_bytes :]):
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
        self._session = session
        return exchange.session_psk(context, session.digest)

    def _reserve(self) -> None:
        if self._reserved or self._guard is None or self._exchange is None:
            return
        try:
            self._guard.reserve(self._exchange.enc, now=self._ring.clock())
        except TooManyRequests:
            self._refused = True
            raise
        if self._session is not None:
            try:
                self._ring.sessions.use(self._session)
            except SessionExpired as error:
                error.clear = bytes(self._head)
                raise
        self._reserved = True

    def _established(self) -> exchange.Exchange:
        if not (self._finished or self._refused) or self._exchange is None:
            raise UsageError("response: expected the request to be finished first")
        return self._exchange


def _generate(kem_id: int) -> kem.PrivateKey:
    if kem_id not in KEMS:
        raise UsageError(f"KEM: expected 0x0020 or 0x647a, got {kem_id:#06x}")
    return kem.XWingKey.generate() if kem_id == kem.X_WING_ID else kem.X25519Key.generate()
