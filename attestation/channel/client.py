"""The client's end: seal one request, open its response.

A ClientRequest is used once: a retry is a new one, sealed anew.
"""

from __future__ import annotations

from collections.abc import Iterable

from attestation.channel import chunks, exchange, hpke
from attestation.channel.key_config import KeyConfig, choose
from attestation.errors import Refused, Truncated, UsageError
from attestation.formats.dates import dated
from attestation.verify.verdict import VerifiedEnclave
from attestation.wire import (
    CHUNKED_REQUEST,
    CHUNKED_RESPONSE,
    MAX_RESPONSE_BYTES,
    OHTTP_REQUEST,
    OHTTP_RESPONSE,
)


class ClientRequest:
    """One exchange with the holder of one of `configs` (bytes, as in a KeyBundle).

    `pq` is the floor of the policy: "required" or "preferred". `ephemeral` is for vectors.
    Raises Refused when no suite is left, ParseError for bad configurations, ChannelError
    for a public key that is none.
    """

    def __init__(
        self,
        configs: Iterable[bytes],
        *,
        pq: str,
        chunked: bool = True,
        ephemeral: bytes | None = None,
    ) -> None:
        config, self.suite = choose([KeyConfig.from_bytes(data) for data in configs], pq=pq)
        self.key_id = config.key_id
        self.chunked = chunked
        self._header = exchange.header(config.key_id, self.suite)
        enc, context = hpke.setup_sender(
            kem_id=self.suite.kem_id,
            aead_id=self.suite.aead_id,
            public=config.public,
            info=exchange.info(self._header, chunked=chunked),
            ephemeral=ephemeral,
        )
        self._exchange = exchange.Exchange(self.suite, enc, context, chunked)
        self._sealed = False
        self._opened = False

    @classmethod
    def to(
        cls, enclave: VerifiedEnclave, *, pq: str, now: int, chunked: bool = True
    ) -> ClientRequest:
        """To a verified enclave, while its verification holds (`now` in Unix seconds).

        Raises Refused when it no longer does, or no suite reaches the floor.
        """
        if not enclave.bundle.not_before <= now <= enclave.valid_until:
            raise Refused(
                "freshness",
                "expired",
                f"expected a verification that still holds, until {dated(enclave.valid_until)}, "
                f"now is {dated(now)}; verify the enclave again",
            )
        return cls(enclave.bundle.key_configs, pq=pq, chunked=chunked)

    @property
    def media_type(self) -> str:
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
        head = self._header + self._exchange.enc
        messages = self._exchange.context.messages
        return chunks.writer(messages, head=head, chunked=self.chunked)

    def response(self, *, limit: int = MAX_RESPONSE_BYTES) -> ClientResponse:
        """The opener of the one response."""
        if not self._sealed or self._opened:
            raise UsageError("response: expected to be opened once, after the request is sealed")
        self._opened = True
        return ClientResponse(self._exchange, limit=limit)

    def export(self, label: bytes, length: int) -> bytes:
        """`length` secret bytes that the enclave exports alike."""
        return self._exchange.export(label, length)


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
