"""What `Client` and `AsyncClient` have in common: everything but the waiting.

Arguments are checked here, bodies are made here, and the core is put together here. What
verifies and what speaks HTTP is loaded when a client is made, not when it is imported.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from attestation import wire
from attestation.arguments import expect
from attestation.channel import bhttp
from attestation.errors import ParseError, UmayError, UsageError
from attestation.process import one_line
from attestation.trust.policy import Policy
from client_sdk.receipt_book import ReceiptBook

if TYPE_CHECKING:
    from client_sdk.asking import Asker, Patience
    from client_sdk.choosing import Chooser
    from client_sdk.driver import Limit
    from client_sdk.effects import Work
    from client_sdk.finding import Chosen, Directory
    from client_sdk.reading import Reading
    from contracts.chain import ReadOnlyChain

TIMEOUT_SECONDS = 120.0
"""As transport.READ_SECONDS, which is not loaded for its sake."""

LONGEST_SECONDS = 10.0**9
"""As reading.NO_LIMIT; clocks and locks of the system overflow somewhere above."""


class Where(TypedDict):
    """What `connect` finds out for a client."""

    url: str | Directory
    policy: Policy
    chain: ReadOnlyChain
    network: Path | None
    floors: Path | None


def located(
    directory: str | os.PathLike[str] | None,
    *,
    url: str | None,
    policy: Policy | str | os.PathLike[str] | None,
    chain: ReadOnlyChain | str | None,
    network_file: str | os.PathLike[str] | None,
) -> Where:
    """What is given, and the rest from DIRECTORY/umay.toml. Raises UsageError."""
    from client_sdk import config

    if directory is not None:
        expect("directory", directory, str, os.PathLike, what="a directory's path")
    place = config.DEFAULT_DIR if directory is None else Path(directory)
    saved = config.SavedConfig(place)
    accepted = _policy(saved.text("policy") if policy is None else policy)
    relays = None if network_file is None else _relays(network_file, accepted, url)
    return {
        "url": relays or (saved.text("url") if url is None else url),
        "policy": accepted,
        "chain": _chain(saved.text("chain") if chain is None else chain),
        "network": place if url is None and chain is None and relays is None else None,
        "floors": config.floors_in(place),
    }


def _relays(path: str | os.PathLike[str], policy: Policy, url: str | None) -> Directory:
    from client_sdk.network_places import relays_of

    expect("network_file", path, str, os.PathLike, what="a network file's path")
    if url is not None:
        raise UsageError("network_file: expected a network file or url, got both")
    return relays_of(Path(path), policy)


class ClientFace:
    """The part that does not wait. `url` is a relay, an agent or one guest, several of them, or
    a Directory; see `Client` for the other arguments."""

    _name = "Client"

    def __init__(
        self,
        url: str | Sequence[str] | Directory,
        *,
        policy: Policy,
        chain: ReadOnlyChain,
        clock: Callable[[], float] = time.time,
        pacing: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        max_price: tuple[float, float] | None = None,
        on_verified: Callable[[Chosen], None] = lambda chosen: None,
        network: Path | None = None,
        floors: Path | None = None,
        keep_answers: bool = False,
    ) -> None:
        from client_sdk.choosing import Chooser
        from client_sdk.finding import Finder

        _expect(policy, chain, pacing, timeout, max_price)
        directory, self.url = _directory(url)
        self.policy, self.chain, self.timeout = policy, chain, float(timeout)
        self.receipts = ReceiptBook()
        expect("keep_answers", keep_answers, bool)
        self._pacing, self._keep_answers, self._closed = pacing, keep_answers, False
        finder = Finder(
            directory, policy=policy, chain=chain, clock=clock, network=network, floors=floors
        )
        self._use(Chooser(finder, where=self.url, max_price=max_price, on_verified=on_verified))

    def __repr__(self) -> str:
        from client_sdk.presented import host_of

        simulated = ", SIMULATED" if self.policy.roots.simulated else ""
        host = host_of(self.url.split()[0]) if self.url else "a directory"
        return f"<{self._name} of {self.policy.network} at {host}{simulated}>"

    def models(self) -> list[str]:
        """Names of the models that the policy accepts."""
        return list(dict.fromkeys(name for name, _ in self.policy.models))

    def machines(self) -> list[Chosen]:
        """The machines that are verified now and kept for the next questions; asks nobody."""
        return self._chooser.warm()

    def _use(self, chooser: Chooser) -> None:
        from client_sdk.asking import Asker

        self._chooser = chooser
        self._asker: Asker = Asker(
            chooser, pq=self.policy.pq, keep=self._keep_answers, on_end=self._keep
        )

    def _keep(self, reading: Reading, error: UmayError | None) -> None:
        if error is None and reading.receipt is not None:
            self.receipts.keep(reading.id, reading.receipt)

    def _limit(self) -> Limit:
        """For work outside a question."""
        from client_sdk.driver import Limit

        return Limit.after(self.timeout, f"{self.url}: no answer within {self.timeout:g} s")

    def _chat_work(
        self, body: str | Mapping[str, Any], timeout: float | None, key: str | None
    ) -> Work[Reading]:
        expect("body", body, str, Mapping, what="a text, or a mapping with an OpenAI body")
        whole = self._first_message(body) if isinstance(body, str) else body
        content = _json(whole)
        self._expect_named(whole.get("model"))
        return self._request_work("POST", wire.CHAT, content, self._patience(timeout), key)

    def _request_work(
        self,
        method: str,
        path: str,
        content: bytes,
        patience: Patience,
        key: str | None,
        max_price: tuple[float, float] | None = None,
    ) -> Work[Reading]:
        for name, value in (("method", method), ("path", path)):
            expect(name, value, str)
        expect("content", content, bytes)
        if max_price is not None:
            _expect_price(max_price)
        if self._closed:
            raise UsageError("client: this client is closed; make another one")
        request = bhttp.Request(method, path, self._headers(content, key), content)
        model = self._model_in(content)
        return self._asker.ask(request, model=model, patience=patience, max_price=max_price)

    def _patience(self, timeout: float | None) -> Patience:
        from client_sdk.asking import Patience

        if timeout is None:
            return Patience.all(self.timeout)
        return Patience.all(checked_timeout(timeout))

    def _model_in(self, content: bytes) -> str | None:
        """Which of several models is asked for: each has machines of its own."""
        names = self.models()
        if len(names) < 2:
            return None
        try:
            model = json.loads(content)["model"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
        return model if isinstance(model, str) and model in names else None

    def _headers(self, content: bytes, key: str | None) -> bhttp.Fields:
        headers: list[tuple[bytes, bytes]] = []
        if content:
            headers.append((wire.CONTENT_TYPE.encode(), wire.JSON.encode()))
        if content or key is not None:
            headers.append((wire.IDEMPOTENCY_FIELD, _idempotency_key(key)))
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
        wanted = f"model: expected one that the policy names ({', '.join(names)})"
        if not isinstance(model, str):
            raise UsageError(f"{wanted}, got none; nothing was sent")
        if model not in names:
            shown = one_line(model)[:80]
            raise UsageError(f"{wanted}, got {shown}; nothing was sent")


def _idempotency_key(key: object) -> bytes:
    """A new one for None. Raises UsageError for what is none."""
    if key is None:
        return wire.new_idempotency_key()
    expect("idempotency_key", key, str)
    value = str(key).encode()
    try:
        wire.read_idempotency_key(((wire.IDEMPOTENCY_FIELD, value),))
    except ParseError as error:
        raise UsageError(str(error)) from None
    return value


def checked_timeout(timeout: object) -> float:
    """Raises UsageError for what is no number of seconds above 0, up to LONGEST_SECONDS."""
    expect("timeout", timeout, int, float, what="seconds as a number")
    if isinstance(timeout, int | float) and 0 < timeout <= LONGEST_SECONDS:
        return float(timeout)
    most = f"at most {LONGEST_SECONDS:.0f}"
    raise UsageError(f"timeout: expected more than 0 seconds and {most}, got {timeout}")


def _directory(url: str | Sequence[str] | Directory) -> tuple[Directory, str]:
    """And its URLs in words."""
    from client_sdk.finding import Relays
    from client_sdk.transport import check_url

    if callable(getattr(url, "places", None)):
        return url, ""  # type: ignore[return-value]
    urls = (url,) if isinstance(url, str) else url
    expect("url", urls, list, tuple, what="an http(s) URL as text, or a list of them")
    for one in urls:  # type: ignore[union-attr]
        expect("url", one, str, what="an http(s) URL as text")
        check_url(one, name="url")
        _expect_plain(one)
    if not urls:
        raise UsageError("url: expected at least one URL")
    return Relays(tuple(urls)), " ".join(urls)  # type: ignore[arg-type]


def _expect_plain(url: str) -> None:
    from attestation.net.error_text import redacted_url

    if any(sign in url for sign in "@?#"):
        raise UsageError(
            "url: expected the address of a relay, an agent or a guest, without a user, a password "
            f"or parameters, got {redacted_url(url)!r}"
        )


def _policy(policy: Policy | str | os.PathLike[str]) -> Policy:
    from client_sdk.config import read_policy

    expect("policy", policy, Policy, str, os.PathLike, what="a Policy or the path of its file")
    return policy if isinstance(policy, Policy) else read_policy(Path(policy))


def _chain(chain: ReadOnlyChain | str) -> ReadOnlyChain:
    from contracts.endpoint import reading

    return reading(chain) if isinstance(chain, str) else chain


def _expect(
    policy: object, chain: object, pacing: object, timeout: object, max_price: object
) -> None:
    expect("policy", policy, Policy, what="a Policy (Policy.from_toml makes one)")
    if not all(callable(getattr(chain, name, None)) for name in ("head", "block", "account")):
        what = "a reader of the chain with head, block and account, as contracts.chain.ToncenterV2"
        expect("chain", chain, what=what)
    if pacing is not None and pacing not in wire.PACINGS:
        raise UsageError(f"pacing: expected {', '.join(wire.PACINGS)} or None, got {pacing!r}")
    checked_timeout(timeout)
    if max_price is not None:
        _expect_price(max_price)


def _expect_price(price: object) -> None:
    what = "two numbers: nano coins per prompt token, and per completion token"
    expect("max_price", price, tuple, list, what=what)
    if not isinstance(price, tuple | list) or len(price) != 2:
        raise UsageError(f"max_price: expected {what}")
    for one in price:
        expect("max_price", one, int, float, what=what)


def _json(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(dict(body), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):  # whose text and object hold the prompt
        raise UsageError("body: expected a JSON object of Unicode text and numbers") from None
