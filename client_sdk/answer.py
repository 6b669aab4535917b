"""An answer on its way out of an enclave: status and headers first, then its content.

Iterating ends normally only when the last sealed chunk arrived and the receipt held; what
was cut, refused or left before its end raises again each time it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

from attestation.errors import UsageError

if TYPE_CHECKING:
    from attestation.channel import bhttp
    from attestation.verify.verdict import VerifiedEnclave
    from client_sdk.disclosure import DisclosedReceipt
    from client_sdk.driver import Driver
    from client_sdk.reading import Reading
    from client_sdk.session import CheckedReceipt


class AnswerHead:
    """What is known of an answer without waiting; both faces of it share this."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def __repr__(self) -> str:
        receipt = "receipt checked" if self.receipt else "no receipt yet"
        return f"<{type(self).__name__} with status {self.status}, {receipt}>"

    @property
    def status(self) -> int:
        """The inner HTTP status."""
        return self._reading.status

    @property
    def headers(self) -> bhttp.Fields:
        """The inner header fields, names in lower case."""
        return self._reading.headers

    @property
    def enclave(self) -> VerifiedEnclave:
        """Whose answer this is."""
        return self._reading.exchange.enclave

    @property
    def receipt(self) -> CheckedReceipt | None:
        """None until the content has ended; an answer with status 200 always has one then, an
        error has one only where the enclave gave it."""
        return self._reading.receipt

    @property
    def id(self) -> str:
        """What the client's `receipts` know its receipt by: 24 hex digits, known to nobody else."""
        return self._reading.id

    @property
    def asked(self) -> int:
        """How many sealed requests this question took."""
        return self._reading.asked

    @property
    def may_have_run(self) -> int:
        """How many of them a machine may have executed."""
        return self._reading.may_have_run

    @property
    def sealed_request(self) -> int:
        """Bytes that relays saw of the request."""
        return len(self._reading.exchange.body)

    @property
    def sealed_pieces(self) -> list[int]:
        """Bytes that relays saw of the answer, in the pieces that arrived here."""
        return self._reading.sealed_pieces

    def header(self, name: bytes) -> bytes | None:
        """The value of the first field of that name, in lower case."""
        return self._reading.header(name)

    def disclosure(self) -> DisclosedReceipt:
        """The receipt with the request and the answer that it is of, to keep or to show: as
        secret as both. Raises UsageError before the content has ended, and where there is none."""
        if self.receipt is None:
            raise UsageError("answer: expected one with a receipt, read to its end")
        return self._reading.exchange.disclosure(self.receipt)

    def close(self) -> None:
        """Stop reading; the enclave notices and stops too."""
        self._reading.close()


class Answer(AnswerHead):
    """The inner HTTP response of one exchange. Use it once, or `close` it.

        answer = umay.chat({"model": "umay-demo", "messages": messages, "stream": True})
        for text in answer.stream():
            print(text, end="", flush=True)
        print(answer.status, answer.receipt)

    `umay.receipts[answer.id]` is the same receipt.
    """

    def __init__(self, reading: Reading, driver: Driver) -> None:
        super().__init__(reading)
        self._driver = driver

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[bytes]:
        """Content as it arrives. Raises Truncated, ChannelError, NotAuthentic (receipt)."""
        while (piece := self._driver.run(self._reading.piece())) is not None:
            yield piece

    def read(self) -> bytes:
        """All of the content."""
        return self._driver.run(self._reading.read())

    def text(self) -> str:
        """What the model said: the whole message of a chat completion, streamed or not.

        Raises UsageError or Unavailable where the enclave refused the request (`raise_for_status`),
        ParseError where this is no chat completion, and what reading raises.
        """
        return self._driver.run(self._reading.text())

    def stream(self) -> Iterator[str]:
        """The same, piece by piece as it arrives; an answer that does not stream is one piece."""
        while (texts := self._driver.run(self._reading.texts())) is not None:
            yield from texts

    def json(self) -> Any:
        """The content as JSON. Raises ParseError where it is none."""
        return self._driver.run(self._reading.json())

    def raise_for_status(self) -> None:
        """Raises Unavailable (it is busy or broken) or UsageError (it refused the request), with
        what the enclave says; nothing for status 200."""
        self._driver.run(self._reading.raise_for_status())
