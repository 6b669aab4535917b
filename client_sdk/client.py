"""Client: private requests to the cheapest enclave that passes every check.

    from client_sdk import connect

    with connect() as umay:
        answer = umay.chat("Good evening.")
        for text in answer.stream():    # as it arrives, once it has authenticated
            print(text, end="", flush=True)
        print(answer.receipt)           # checked; there once the last piece has come

Nothing is ever sent in the clear, and never under a weaker policy. An enclave that does
not answer is left for the next one, which is verified first. A cut answer raises
Truncated and is never repeated in silence: whoever asked must know.

What verifies and what speaks HTTP is loaded when a Client is made, not when it is imported.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from attestation import wire
from attestation.arguments import expect
from attestation.channel import bhttp
from attestation.errors import NotForUs, UmayError, Unavailable, UsageError, VerificationError
from attestation.process import one_line
from attestation.trust.policy import Policy

if TYPE_CHECKING:
    from types import TracebackType

    from attestation.trust.anchor import Anchor
    from attestation.verify.verdict import Report, VerifiedEnclave
    from attestation.verify.verifier import Presented
    from client_sdk.answer import Answer
    from client_sdk.choosing import Chosen
    from client_sdk.presented import Place
    from client_sdk.transport import Transport
    from contracts.chain import ReadOnlyChain

TIMEOUT_SECONDS = 120.0
"""As transport.READ_SECONDS, which is not loaded for its sake."""

MAX_ENCLAVES_TRIED = 8


def connect(
    directory: str | os.PathLike[str] | None = None,
    *,
    url: str | None = None,
    policy: Policy | str | os.PathLike[str] | None = None,
    chain: ReadOnlyChain | str | None = None,
    pacing: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> Client:
    """A Client of the network that `directory` names: ~/.umay unless said otherwise.

        from client_sdk import connect

        with connect() as umay:
            answer = umay.chat("Good evening.")
            print(answer.text())
            print(answer.receipt)

    `umay up` writes umay.toml and policy.toml there. What is given here wins over that file:
    `url` of a relay, an agent or one guest; `policy` as a Policy or its file; `chain` as a
    toncenter v2 URL, "lite:CONFIG.json", or any reader of your own. Nothing is sent yet.
    Raises UsageError for what is missing or wrong.
    """
    from client_sdk import config

    if directory is not None:
        expect("directory", directory, str, os.PathLike, what="a directory's path")
    place = config.DEFAULT_DIR if directory is None else Path(directory)
    saved = config.SavedConfig(place)
    return Client(
        saved.text("url") if url is None else url,
        policy=_policy(saved.text("policy") if policy is None else policy),
        chain=_chain(saved.text("chain") if chain is None else chain),
        pacing=pacing,
        timeout=timeout,
        network=place if url is None and chain is None else None,
    )


class Client:
    """Serves many threads; one verification at a time, shared by all of them.

        from client_sdk import Client, Policy
        from contracts.chain import ToncenterV2

        policy = Policy.from_toml(open("policy.toml", "rb").read())
        chain = ToncenterV2("https://toncenter.example/api/v2")
        with Client("https://relay.example", policy=policy, chain=chain) as umay:
            print(umay.chat("Good evening.").text())

    `url` is a relay, an agent or one guest (…/umay/<boot id>); `chain` an endpoint that
    the caller chose. `pacing` hides token timing ("clock", "strict") or not ("none"); None
    leaves it to the guest. `timeout` in seconds is the longest wait until an answer begins, and
    the longest silence between two pieces of it. `network` is the directory of `umay up` that the
    addresses come from, for errors. Raises UsageError for an argument of a wrong type or value.
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
        timeout: float = TIMEOUT_SECONDS,
        on_verified: Callable[[Chosen], None] = lambda chosen: None,
        network: Path | None = None,
    ) -> None:
        from client_sdk.choosing import Chooser
        from client_sdk.transport import Transport

        _expect(url, policy, chain, pacing, timeout)
        self.url, self.policy, self.chain = url, policy, chain
        self._pacing = pacing
        self._transport = transport or Transport(read_seconds=timeout)
        self._owns_transport = transport is None
        self._closed = False
        self._chooser = Chooser(
            url,
            policy=policy,
            chain=chain,
            transport=self._transport,
            clock=clock,
            on_verified=on_verified,
            network=network,
        )

    def __repr__(self) -> str:
        from client_sdk.presented import host_of

        simulated = ", SIMULATED" if self.policy.roots.simulated else ""
        return f"<Client of {self.policy.network} at {host_of(self.url)}{simulated}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections; no request is possible afterwards. An answer that is still
        being read has a connection of its own: close that too."""
        self._closed = True
        if self._owns_transport:
            self._transport.close()

    # Verification

    def places(self) -> tuple[Place, ...]:
        """What the relay or agent lists. Raises Unavailable or ParseError."""
        return self._chooser.places()

    def anchor(self) -> Anchor:
        """The log's anchor, read now from the chain. Raises Unavailable or ParseError."""
        return self._chooser.anchor()

    def present(self, place: Place, anchor: Anchor) -> Presented:
        """What the host presents for a verification against this anchor."""
        return self._chooser.present(place, anchor)

    def verify(self, place: Place) -> VerifiedEnclave:
        """Fetch and verify one guest now. Raises VerificationError with its Report, …"""
        return self._chooser.verify(place)

    def examine(self, place: Place) -> Report:
        """Every step's result for one guest; never a key."""
        return self._chooser.examine(place)

    def choose(self) -> Chosen:
        """The cheapest guest that passes every step, verified now or not long ago.

        Raises VerificationError of the cheapest refused one, or Unavailable.
        """
        return self._chooser.choose()

    # Requests

    def models(self) -> list[str]:
        """Names of the models that the policy accepts."""
        return list(dict.fromkeys(name for name, _ in self.policy.models))

    def chat(self, body: str | Mapping[str, Any]) -> Answer:
        """One chat completion: an OpenAI body, or just the text of a first message.

        A text goes to the model of the policy where that names exactly one. Raises
        UsageError for what is no JSON and for a model that the policy does not name, before
        anything is sent; else what `request` raises.
        """
        expect("body", body, str, Mapping, what="a text, or a mapping with an OpenAI body")
        whole = self._first_message(body) if isinstance(body, str) else body
        content = _json(whole)
        self._expect_named(whole.get("model"))
        return self.request("POST", wire.CHAT, content)

    def request(self, method: str, path: str, content: bytes = b"") -> Answer:
        """One HTTP request inside the channel; returns when the inner head has come.

        Raises VerificationError (nothing acceptable), Unavailable, ChannelError.
        """
        for name, value in (("method", method), ("path", path)):
            expect(name, value, str)
        expect("content", content, bytes)
        if self._closed:
            raise UsageError("client: this client is closed; make another one")
        return self._first_that_answers(
            bhttp.Request(method, path, self._headers(content), content)
        )

    def _first_that_answers(self, request: bhttp.Request) -> Answer:
        failure: UmayError | None = None
        for _ in range(MAX_ENCLAVES_TRIED):
            chosen = self.choose()
            try:
                return self._send(chosen, request)
            except (Unavailable, NotForUs, VerificationError) as error:
                if failure is not None and self._chooser.has_left(chosen):
                    raise
                failure = error
                self._chooser.leave(chosen)
        raise failure or Unavailable(f"{self.url}: expected an enclave that answers, got none")

    def _send(self, chosen: Chosen, request: bhttp.Request) -> Answer:
        try:
            return self._exchange(chosen, request)
        except NotForUs:
            # Its keys may have changed: one refresh, one retry, under the same policy.
            return self._exchange(self._chooser.refresh(chosen), request)

    def _exchange(self, chosen: Chosen, request: bhttp.Request) -> Answer:
        from client_sdk.answer import Answer
        from client_sdk.session import SealedExchange

        now = self._chooser.now()
        exchange = SealedExchange(chosen.enclave, request, pq=self.policy.pq, now=now)
        headers = wire.sealed_headers(exchange.media_type)
        url = f"{chosen.place.base}ohttp"
        stream = self._transport.stream(url, exchange.body, headers)
        return Answer(exchange, stream, url=url, on_broken=lambda: self._chooser.leave(chosen))

    def _headers(self, content: bytes) -> bhttp.Fields:
        headers: list[tuple[bytes, bytes]] = []
        if content:
            headers.append((wire.CONTENT_TYPE.encode(), wire.JSON.encode()))
        if self._pacing is not None:
            headers.append((wire.PACING_FIELD, self._pacing.encode()))
        return tuple(headers)

    def _first_message(self, text: str) -> dict[str, Any]:
        names = self.models()
        if len(names) != 1:
            raise UsageError(
                f"body: expected a body that names its model, one of {', '.join(names)}: the "
                "policy accepts more than one, so a text alone does not say which"
            )
        return {"model": names[0], "messages": [{"role": "user", "content": text}]}

    def _expect_named(self, model: object) -> None:
        names = self.models()
        if not isinstance(model, str):
            raise UsageError(f"body: expected its model; the policy names {', '.join(names)}")
        if model not in names:
            shown = one_line(model)[:80]
            raise UsageError(f"model {shown}: the policy names {', '.join(names)}")


def _policy(policy: Policy | str | os.PathLike[str]) -> Policy:
    from client_sdk.config import read_policy

    expect("policy", policy, Policy, str, os.PathLike, what="a Policy or the path of its file")
    return policy if isinstance(policy, Policy) else read_policy(Path(policy))


def _chain(chain: ReadOnlyChain | str) -> ReadOnlyChain:
    from contracts.endpoint import reading

    return reading(chain) if isinstance(chain, str) else chain


def _expect(url: object, policy: object, chain: object, pacing: object, timeout: object) -> None:
    from client_sdk.transport import check_url

    expect("url", url, str, what="an http(s) URL as text")
    check_url(str(url), name="url")
    expect("policy", policy, Policy, what="a Policy (Policy.from_toml makes one)")
    if not all(callable(getattr(chain, name, None)) for name in ("head", "block", "account")):
        what = "a reader of the chain with head, block and account, as contracts.chain.ToncenterV2"
        expect("chain", chain, what=what)
    if pacing is not None and pacing not in wire.PACINGS:
        raise UsageError(f"pacing: expected {', '.join(wire.PACINGS)} or None, got {pacing!r}")
    expect("timeout", timeout, int, float, what="seconds as a number")
    if isinstance(timeout, int | float) and not 0 < timeout < float("inf"):
        raise UsageError(f"timeout: expected more than 0 seconds, got {timeout}")


def _json(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(dict(body), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):  # whose text and object hold the prompt
        raise UsageError("body: expected a JSON object of Unicode text and numbers") from None
