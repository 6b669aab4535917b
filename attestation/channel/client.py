"""The client's end: seal one request, open its response.

A ClientRequest is used once: a retry is a new one, sealed anew.
"""

from __future__ import annotations

from collections.abc import Iterable

from attestation.channel import chunks, exchange, hpke
from attestation.channel.key_config import KeyConfig, choose
from attestation.errors import Refused, Truncated, UsageError
from attestation.formats.dates import dated
from attestation.formats.digests import sha256
from attestation.verify.verdict import VerifiedEnclave, reporting
from attestation.wire import (
    CHUNKED_REQUEST,
    CHUNKED_RESPONSE,
    MAX_RESPONSE_BYTES,
    OHTTP_REQUEST,
    OHTTP_RESPONSE,
    SESSION_REQUEST,
)


class ClientRequest:
    """One exchange with the holder of one of `configs` (bytes, as in a KeyBundle).

    `pq` is the floor of the policy: "required" or "preferred". `session` is the key
    configuration of a session (bytes): its key is then needed too. `clear` is what stands before
    the first chunk. `ephemeral` is for vectors. Raises Refused when no suite is left, ParseError
    for bad configurations, ChannelError for a public key that is none.
    """

    def __init__(
        self,
        configs: Iterable[bytes],
        *,
        pq: str,
        chunked: bool = True,
        session: bytes | None = None,
        ephemeral: bytes | None = None,
    ) -> None:
        config, self.suite = choose([KeyConfig.from_bytes(data) for data in configs], pq=pq)
        if session is not None and not chunked:
            raise UsageError("request: expected a chunked one to a session, got one that is not")
        self.key_id = config.key_id
        self.chunked = chunked
        self.to_session = session is not None
        before = exchange.header(config.key_id, self.suite)
        psk = None
        if session is not None:
            before, psk = self._within(session, before)
        enc, context = hpke.setup_sender(
            kem_id=self.suite.kem_id,
            aead_id=self.suite.aead_id,
            public=config.public,
            info=exchange.session_info(before) if psk else exchange.info(before, chunked=chunked),
            psk=psk,
            ephemeral=ephemeral,
        )
        self.clear = before + enc
        self._exchange = exchange.Exchange(self.suite, enc, context, chunked)
        self._sealed = False
        self._opened = False

    @classmethod
    def to(
        cls, enclave: VerifiedEnclave, *, pq: str, now: int, chunked: bool = True
    ) -> ClientRequest:
        """To a verified enclave, and to its session where its verification has one, while both
        hold (`now` in Unix seconds).

        Raises Refused when they no longer do, or no suite reaches the floor.
        """
        session = enclave.session
        if session is not None and now > session.until:
            raise Refused(
                "freshness",
                "session-expired",
                f"expected a session that the enclave still holds, until {dated(session.until)}, "
                f"now is {dated(now)}; verify the enclave again",
            )
        if not enclave.bundle.not_before <= now <= enclave.valid_until:
            raise Refused(
                "freshness",
                "expired",
                f"expected a verification that still holds, until {dated(enclave.valid_until)}, "
                f"now is {dated(now)}; verify the enclave again",
                report=enclave.report,
            )
        config = session.config if session else None
        with reporting(enclave.report):
            return cls(enclave.bundle.key_configs, pq=pq, chunked=chunked, session=config)

    @property
    def media_type(self) -> str:
        if self.to_session:
            return SESSION_REQUEST
        return CHUNKED_REQUEST if self.chunked else OHTTP_REQUEST

    @property
    def response_media_type(self) -> str:
        return CHUNKED_RESPONSE if self.chunked else OHTTP_RESPONSE

    def seal(self, message: bytes) -> bytes:
        """The whole body to send: `message` is a binary HTTP request, padded."""
        writer = self.writer()
        return writer.write(message) + writer.finish()

    def writer(self) -> chunks.Writer:
        """For a request that is sent as it is made; `seal` for one that is whole."""
        if self._sealed:
            raise UsageError("request: expected to be sealed once; seal a new request for a retry")
        self._sealed = True
        messages = self._exchange.context.messages
        return chunks.writer(messages, head=self.clear, chunked=self.chunked)

    def response(self, *, limit: int = MAX_RESPONSE_BYTES) -> ClientResponse:
        """The opener of the one response."""
        if not self._sealed or self._opened:
            raise UsageError("response: expected to be opened once, after the request is sealed")
        self._opened = True
        return ClientResponse(self._exchange, limit=limit)

    def export(self, label: bytes, length: int) -> bytes:
        """`length` secret bytes that the enclave exports alike."""
        return self._exchange.export(label, length)

    def _within(self, session: bytes, head: bytes) -> tuple[bytes, hpke.Psk]:
        """What stands before `enc`, and the secret that the session key contributes."""
        config = KeyConfig.from_bytes(session)
        suite = self.suite
        offered = (suite.kdf_id, suite.aead_id) in config.algorithms
        if config.kem_id != suite.kem_id or not offered:
            raise Refused(
                "channel",
                "no-common-suite",
                f"session: expected a key for KEM {suite.kem_id:#06x} and AEAD "
                f"{suite.aead_id:#06x}, as the KeyBundle's, got KEM {config.kem_id:#06x}",
            )
        name = exchange.session_id(session)
        enc, context = hpke.setup_sender(
            kem_id=suite.kem_id,
            aead_id=suite.aead_id,
            public=config.public,
            info=exchange.session_key_info(head, name),
        )
        return head + name + enc, exchange.session_psk(context, sha256(session))


class ClientResponse:
    """Opens a response as it arrives. Only when `finish` has returned is it whole."""

    def __init__(self, agreed: exchange.Exchange, *, limit: int) -> None:
        self._exchange = agreed
        self._limit = limit
        self._nonce = bytearray()
        self._reader: chunks.Reader | None = None

    def push(self, data: bytes) -> list[bytes]:
        """Plaintext that authenticated. Raises ChannelError; after that, give up."""
        if self._reader is not None:
            return self._reader.push(data)
        missing = exchange.response_nonce_bytes(self._exchange.suite) - len(self._nonce)
        self._nonce += data[:missing]
        if len(data) < missing:
            return []
        self._reader = self._make_reader()
        return self._reader.push(data[missing:])

    def finish(self) -> bytes:
        """The last plaintext. Raises Truncated when the response was cut, ChannelError."""
        if self._reader is None:
            raise Truncated("response: expected a whole nonce, it ends within it")
        return self._reader.finish()

    def open(self, data: bytes) -> bytes:
        """The whole response at once."""
        return b"".join(self.push(data)) + self.finish()

    def _make_reader(self) -> chunks.Reader:
        messages = self._exchange.response_messages(bytes(self._nonce))
        return chunks.reader(messages, limit=self._limit, chunked=self._exchange.chunked)
