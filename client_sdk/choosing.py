"""Which enclave a client talks to: found, verified, the cheapest first, and kept while it holds.

One verification at a time, shared by all threads. An enclave that failed is left alone for a
while and taken again only where nothing else passes.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attestation.errors import ParseError, Unavailable, VerificationError
from attestation.formats.evidence import Evidence
from attestation.formats.keys import KeyBundle
from attestation.trust.anchor import Anchor
from attestation.trust.policy import Policy
from attestation.verify.verdict import Report, VerifiedEnclave
from attestation.verify.verifier import Presented, Verifier
from client_sdk.chain_reader import ChainReader
from client_sdk.config import asking
from client_sdk.presented import Place, fetch_places, fetch_presented
from client_sdk.pricing import claimed_offer
from client_sdk.transport import Transport
from contracts.chain import ReadOnlyChain

REST_SECONDS = 20.0
"""How long an enclave that failed is left alone; a later choice may take it again."""

MARGIN_SECONDS = 5
"""A verification that would end sooner than this is renewed before sealing."""


@dataclass(frozen=True)
class Offer:
    """A guest and what its host presented; nothing of it is believed."""

    place: Place
    presented: Presented


@dataclass(frozen=True)
class Chosen:
    """A guest that passed every step, and where it is reached."""

    place: Place
    enclave: VerifiedEnclave


class Chooser:
    """Chooses among what stands at `url`, under one policy. Serves many threads."""

    def __init__(
        self,
        url: str,
        *,
        policy: Policy,
        chain: ReadOnlyChain,
        transport: Transport,
        clock: Callable[[], float],
        on_verified: Callable[[Chosen], None],
        network: Path | None = None,
    ) -> None:
        self._url, self._policy = url, policy
        self._transport = transport
        self._reader = ChainReader(chain, policy)
        self._verifier = Verifier(policy)
        self._clock = clock
        self._on_verified = on_verified
        self._network = network
        self._lock = threading.Lock()
        self._current: Chosen | None = None
        self._resting: dict[str, float] = {}

    def places(self) -> tuple[Place, ...]:
        """What the relay or agent lists. Raises Unavailable or ParseError."""
        with asking(self._network):
            return fetch_places(self._transport, self._url)

    def anchor(self) -> Anchor:
        """The log's anchor, read now from the chain. Raises Unavailable or ParseError."""
        with asking(self._network):
            return self._reader.anchor()

    def present(self, place: Place, anchor: Anchor) -> Presented:
        """What the host presents for a verification against this anchor."""
        nonce = secrets.token_bytes(32) if self._policy.challenge == "required" else None
        return fetch_presented(self._transport, place, size=anchor.size, nonce=nonce)

    def verify(self, place: Place) -> VerifiedEnclave:
        """Fetch and verify one guest now."""
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
        return self._verifier.examine(presented, anchor=anchor, beacon=beacon, now=self.now())

    def choose(self) -> Chosen:
        """The cheapest guest that passes every step, verified now or not long ago.

        Raises VerificationError of the cheapest refused one, or Unavailable.
        """
        with self._lock:
            current = self._current
            if current is None or not self._holds(current.enclave):
                current = self._current = self._choose()
            return current

    def refresh(self, chosen: Chosen) -> Chosen:
        """The same guest verified anew: its keys may have changed."""
        fresh = Chosen(chosen.place, self.verify(chosen.place))
        with self._lock:
            if self._current is chosen:
                self._current = fresh
        return fresh

    def leave(self, chosen: Chosen) -> None:
        """Forget a choice that failed, and prefer others for a while."""
        with self._lock:
            self._resting[chosen.place.boot] = time.monotonic() + REST_SECONDS
            if self._current is not None and self._current.place == chosen.place:
                self._current = None

    def has_left(self, chosen: Chosen) -> bool:
        """Whether this guest has failed before."""
        return chosen.place.boot in self._resting

    def now(self) -> int:
        """Unix seconds by this client's clock."""
        return int(self._clock())

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
        raise refusal or Unavailable(
            f"{self._url}: expected an enclave that answers, got none; try again later"
        )

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
        return self._verifier.verify(offer.presented, anchor=anchor, beacon=beacon, now=self.now())

    def _holds(self, enclave: VerifiedEnclave) -> bool:
        return self.now() + MARGIN_SECONDS < enclave.valid_until


def _bundle(presented: Presented) -> KeyBundle:
    return KeyBundle.from_bytes(Evidence.from_bytes(presented.evidence).bundle)


def _by_price(offers: list[Offer]) -> list[Offer]:
    return sorted(offers, key=lambda offer: claimed_offer(offer.presented.price_table))
