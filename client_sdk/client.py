"""Client: find enclaves, verify them, seal requests to the cheapest that passed.

    client = Client("https://relay.example", policy=policy, chain=ToncenterV2(endpoint))
    answer = client.chat({"model": "umay-demo", "messages": [...], "stream": True})
    for piece in answer:            # bytes of the inner HTTP body, as they arrive
        ...
    answer.receipt                  # checked; there once the last piece has come

Nothing is ever sent in the clear, and never under a weaker policy. An enclave that does
not answer is left for the next one, which is verified first. A cut answer raises
Truncated and is never repeated in silence: whoever asked must know.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from attestation import wire
from attestation.channel import bhttp
from attestation.errors import (
    NotForUs,
    ParseError,
    UmayError,
    Unavailable,
    UsageError,
    VerificationError,
)
from attestation.formats.evidence import Evidence
from attestation.formats.keys import KeyBundle
from attestation.trust.anchor import Anchor
from attestation.trust.policy import Policy
from attestation.verify.verdict import Report, VerifiedEnclave
from attestation.verify.verifier import Presented, Verifier
from client_sdk.answer import Answer
from client_sdk.chain_reader import ChainReader
from client_sdk.presented import Place, fetch_places, fetch_presented
from client_sdk.pricing import claimed_offer
from client_sdk.session import SealedExchange
from client_sdk.transport import Transport
from contracts.chain import ReadOnlyChain

REST_SECONDS = 20.0
"""How long an enclave that failed is left alone; a later choice may take it again."""

MARGIN_SECONDS = 5
"""A verification that would end sooner than this is renewed before sealing."""

MAX_ENCLAVES_TRIED = 8


@dataclass(frozen=True)
class Offer:
    """A guest and what its host presented; nothing of it is believed."""

    place: Place
    presented: Presented


@dataclass(frozen=True)
class Chosen:
    place: Place
    enclave: VerifiedEnclave


class Client:
    """Serves many threads; one verification at a time, shared by all of them.

    `url` is a relay, an agent or one guest (…/umay/<boot id>); `chain` an endpoint that
    the caller chose; `pacing` hides token timing ("clock") or not ("none").
    """

    def __init__(
        self,
        url: str,
        *,
        policy: Policy,
        chain: ReadOnlyChain,
        transport: Transport | None = None,
        clock: Callable[[], float] = time.time,
        pacing: str | None = None,
        on_verified: Callable[[Chosen], None] = lambda chosen: None,
    ) -> None:
        self.url, self.policy = url, policy
        self._transport = transport or Transport()
        self._reader = ChainReader(chain, policy)
        self._verifier = Verifier(policy)
        self._clock = clock
        self._pacing = pacing
        self._on_verified = on_verified
        self._lock = threading.Lock()
        self._current: Chosen | None = None
        self._resting: dict[str, float] = {}

    # Verification

    def places(self) -> tuple[Place, ...]:
        """What the relay or agent lists. Raises Unavailable or ParseError."""
        return fetch_places(self._transport, self.url)

    def anchor(self) -> Anchor:
        """The log's anchor, read now from the chain. Raises Unavailable or ParseError."""
        return self._reader.anchor()

    def present(self, place: Place, anchor: Anchor) -> Presented:
        """What the host presents for a verification against this anchor."""
        nonce = secrets.token_bytes(32) if self.policy.challenge == "required" else None
        return fetch_presented(self._transport, place, size=anchor.size, nonce=nonce)

    def verify(self, place: Place) -> VerifiedEnclave:
        """Fetch and verify one guest now. Raises VerificationError with its Report, …"""
        anchor = self.anchor()
        return self._verify(Offer(place, self.present(place, anchor)), anchor)

    def examine(self, place: Place) -> Report:
        """Every step's result for one guest; never a key."""
        anchor = self.anchor()
        presented = self.present(place, anchor)
        beacon = None
        try:
            beacon = self._reader.beacon(_bundle(presented).beacon[0])
        except (ParseError, Unavailable):
            pass  # the report says which steps could not be checked for want of it
        return self._verifier.examine(presented, anchor=anchor, beacon=beacon, now=self._now())

    def choose(self) -> Chosen:
        """The cheapest guest that passes every step, verified now or not long ago.

        Raises VerificationError of the cheapest refused one, or Unavailable.
        """
        with self._lock:
            current = self._current
            if current is None or not self._holds(current.enclave):
                current = self._current = self._choose()
            return current

    def _choose(self) -> Chosen:
        anchor = self.anchor()
        refusal: VerificationError | None = None
        for offer in self._offers(anchor):
            try:
                chosen = Chosen(offer.place, self._verify(offer, anchor))
            except VerificationError as error:
                refusal = refusal or error
                continue
            except (Unavailable, ParseError):
                continue
            self._on_verified(chosen)
            return chosen
        raise refusal or Unavailable(f"{self.url}: no enclave answers")

    def _offers(self, anchor: Anchor) -> list[Offer]:
        offers: list[Offer] = []
        late: list[Offer] = []
        for place in self.places():
            try:
                offer = Offer(place, self.present(place, anchor))
            except (Unavailable, ParseError):
                continue
            (late if self._rests(place) else offers).append(offer)
        # Ordered by what hosts claim; the claim is bound by the quote and verified after.
        return [*_by_price(offers), *_by_price(late)]

    def _rests(self, place: Place) -> bool:
        return self._resting.get(place.boot, 0.0) > time.monotonic()

    def _verify(self, offer: Offer, anchor: Anchor) -> VerifiedEnclave:
        beacon = self._reader.beacon(_bundle(offer.presented).beacon[0])
        return self._verifier.verify(offer.presented, anchor=anchor, beacon=beacon, now=self._now())

    def _holds(self, enclave: VerifiedEnclave) -> bool:
        return self._now() + MARGIN_SECONDS < enclave.valid_until

    # Requests

    def chat(self, body: Mapping[str, Any]) -> Answer:
        """POST /v1/chat/completions with an OpenAI body. Raises UsageError for what is no JSON,
        else what `request` raises."""
        return self.request("POST", wire.CHAT, _json(body))

    def request(self, method: str, path: str, content: bytes = b"") -> Answer:
        """One HTTP request inside the channel; returns when the inner head has come.

        Raises VerificationError (nothing acceptable), Unavailable, ChannelError.
        """
        request = bhttp.Request(method, path, self._headers(content), content)
        failure: UmayError | None = None
        for _ in range(MAX_ENCLAVES_TRIED):
            chosen = self.choose()
            try:
                return self._send(chosen, request)
            except (Unavailable, NotForUs, VerificationError) as error:
                if failure is not None and self._resting.get(chosen.place.boot):
                    raise
                failure = error
                self.leave(chosen)
        raise failure or Unavailable(f"{self.url}: no enclave answers")

    def leave(self, chosen: Chosen) -> None:
        """Forget a choice that failed, and prefer others for a while."""
        with self._lock:
            self._resting[chosen.place.boot] = time.monotonic() + REST_SECONDS
            if self._current is not None and self._current.place == chosen.place:
                self._current = None

    def _send(self, chosen: Chosen, request: bhttp.Request) -> Answer:
        try:
            return self._exchange(chosen, request)
        except NotForUs:
            # Its keys may have changed: one refresh, one retry, under the same policy.
            return self._exchange(self._refresh(chosen), request)

    def _refresh(self, chosen: Chosen) -> Chosen:
        fresh = Chosen(chosen.place, self.verify(chosen.place))
        with self._lock:
            if self._current is chosen:
                self._current = fresh
        return fresh

    def _exchange(self, chosen: Chosen, request: bhttp.Request) -> Answer:
        exchange = SealedExchange(chosen.enclave, request, pq=self.policy.pq, now=self._now())
        headers = wire.sealed_headers(exchange.media_type)
        url = f"{chosen.place.base}ohttp"
        stream = self._transport.stream(url, exchange.body, headers)
        return Answer(exchange, stream, url=url, on_broken=lambda: self.leave(chosen))

    def _headers(self, content: bytes) -> bhttp.Fields:
        headers: list[tuple[bytes, bytes]] = []
        if content:
            headers.append((wire.CONTENT_TYPE.encode(), wire.JSON.encode()))
        if self._pacing is not None:
            headers.append((wire.PACING_FIELD, self._pacing.encode()))
        return tuple(headers)

    def _now(self) -> int:
        return int(self._clock())


def _json(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):  # whose text and object hold the prompt
        raise UsageError("body: expected a JSON object of Unicode text and numbers") from None


def _bundle(presented: Presented) -> KeyBundle:
    return KeyBundle.from_bytes(Evidence.from_bytes(presented.evidence).bundle)


def _by_price(offers: list[Offer]) -> list[Offer]:
    return sorted(offers, key=lambda offer: claimed_offer(offer.presented.price_table))
