"""The chain as its readers and writers see it, and a toncenter v2 client for it.

Invariants: what this client returns is "reported": an endpoint that this party chose
said so, nothing is proven. Answers are bounded in size and time and read strictly;
whatever goes wrong raises Unavailable. Reads are repeated on overload, sends never.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

import requests

from attestation.errors import ParseError, Unavailable, UsageError
from attestation.formats.address import canonical
from attestation.trust.anchor import BlockRef, Level

MAX_ANSWER = 16 << 20  # bytes; the whole configuration of the chain is below 1 MiB
RETRIES = 4
FIRST_PAUSE = 0.4  # seconds, doubled each time
MASTERCHAIN = -1
SHARD = "-9223372036854775808"

T = TypeVar("T")
State = Literal["active", "uninitialized", "frozen"]


@dataclass(frozen=True)
class AccountState:
    """An account at one moment. `code` and `data` are bags of cells, empty unless active.

    balance in nano; read_at is the Unix time of the state that was read, seqno its block;
    level says how that is known (attestation/trust/anchor.py).
    """

    address: str
    code: bytes
    data: bytes
    balance: int
    state: State
    read_at: int
    seqno: int
    level: Level = "reported"


@dataclass(frozen=True)
class GetMethodResult:
    """Exit code (0 and 1 are good), gas, and the stack: int, or a bag of cells as bytes."""

    exit_code: int
    gas_used: int
    stack: tuple[int | bytes | None, ...]


class ReadOnlyChain(Protocol):
    """What whoever only reads needs. Every method raises Unavailable; where proofs are
    checked, NotAuthentic and ParseError too."""

    def head(self) -> BlockRef: ...

    def block(self, seqno: int) -> BlockRef: ...

    def account(self, address: str) -> AccountState: ...


class Chain(ReadOnlyChain, Protocol):
    """What a sender needs too. Every method raises Unavailable."""

    def run_get_method(
        self, address: str, method: str, stack: tuple[int, ...] = ()
    ) -> GetMethodResult: ...

    def send_boc(self, boc: bytes) -> bytes: ...


def raw_address(text: str, what: str = "address") -> str:
    """The one form, `workchain:hex`, of any spelling of an address that somebody gave.

    `what` names where it was given. Raises UsageError, which says what is wrong with it.
    """
    try:
        return canonical(text)
    except ParseError as error:
        raise UsageError(f"{what}: {error}") from None


class ToncenterV2:
    """Any toncenter v2 endpoint: public, self-hosted or the embedded chain.

    `url` is what stands before the method names; where it has no path, /api/v2 is added.
    `timeout` in seconds covers one request. The key goes nowhere but to this endpoint.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = 10) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UsageError(f"chain: expected an http(s) URL, got {url!r}")
        path = parts.path.rstrip("/").removesuffix("/jsonRPC") or "/api/v2"
        self.url = f"{parts.scheme}://{parts.netloc}{path}"
        self._timeout = timeout
        self._session = requests.Session()
        self._session.headers["accept"] = "application/json"
        if api_key:
            self._session.headers["x-api-key"] = api_key

    def __repr__(self) -> str:
        return f"ToncenterV2({self.url!r})"

    def head(self) -> BlockRef:
        """The last masterchain block."""
        return self._read(lambda: self.block(int(self._get("getMasterchainInfo")["last"]["seqno"])))

    def block(self, seqno: int) -> BlockRef:
        """The masterchain block of this number."""
        where = {"workchain": MASTERCHAIN, "shard": SHARD, "seqno": seqno}
        return self._read(lambda: _block(self._get("getBlockHeader", **where), seqno))

    def account(self, address: str) -> AccountState:
        """Code, data and balance now, under the address's one form."""
        raw = raw_address(address)
        return self._read(lambda: _account(self._get("getAddressInformation", address=raw), raw))

    def run_get_method(
        self, address: str, method: str, stack: tuple[int, ...] = ()
    ) -> GetMethodResult:
        """Run a get method at the endpoint; integers in, integers and cells out."""
        raw, entries = raw_address(address), [["num", hex(value)] for value in stack]
        return self._read(
            lambda: _result(self._get("runGetMethod", address=raw, method=method, stack=entries))
        )

    def send_boc(self, boc: bytes) -> bytes:
        """Hand over one external message; its hash (32 bytes). Sent once, never repeated."""
        text = base64.b64encode(boc).decode()
        return self._read(
            lambda: _hash(self._call("sendBocReturnHash", {"boc": text}, attempts=1)["hash"])
        )

    def transactions(self, address: str, *, limit: int = 10) -> tuple[bytes, ...]:
        """The latest transactions of an account as bags of cells, newest first."""
        raw = raw_address(address)
        return self._read(
            lambda: tuple(
                base64.b64decode(entry["data"], validate=True)
                for entry in self._get("getTransactions", address=raw, limit=limit)
            )
        )

    def config_param(self, number: int) -> bytes:
        """A parameter of the chain's configuration as a bag of cells."""
        return self._read(
            lambda: base64.b64decode(
                self._get("getConfigParam", config_id=number)["config"]["bytes"], validate=True
            )
        )

    def _read(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise Unavailable(f"{self.url}: malformed answer: {error!r}") from error

    def _get(self, method: str, /, **parameters: object) -> Any:
        return self._call(method, parameters, attempts=RETRIES)

    def _call(self, method: str, parameters: dict[str, Any], *, attempts: int) -> Any:
        pause = FIRST_PAUSE
        for attempt in range(1, attempts + 1):
            try:
                return self._once(method, parameters)
            except _Overloaded as error:
                if attempt == attempts:
                    raise Unavailable(f"{self.url}: {method}: {error}") from error
                time.sleep(pause)
                pause *= 2
        raise Unavailable(f"{self.url}: {method}: no attempt allowed")

    def _once(self, method: str, parameters: dict[str, Any]) -> Any:
        request = {"id": 1, "jsonrpc": "2.0", "method": method, "params": parameters}
        try:
            with self._session.post(
                f"{self.url}/jsonRPC",
                json=request,
                timeout=self._timeout,
                stream=True,
                allow_redirects=False,
            ) as response:
                status, body = response.status_code, _bounded(response, self._timeout)
        except requests.RequestException as error:
            raise _Overloaded(f"no answer ({type(error).__name__})") from error
        return _opened(status, body, method)


class _Overloaded(Unavailable):
    """Worth another try."""


def _bounded(response: requests.Response, seconds: float) -> bytes:
    until = time.monotonic() + seconds
    body = bytearray()
    for part in response.iter_content(1 << 16):
        body += part
        if len(body) > MAX_ANSWER:
            raise Unavailable(f"answer: expected at most {MAX_ANSWER} bytes, got more")
        if time.monotonic() > until:
            raise _Overloaded(f"no whole answer within {seconds} s")
    return bytes(body)


def _opened(status: int, body: bytes, method: str) -> Any:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if isinstance(answer, dict) and answer.get("ok") is True and status == 200:
        return answer["result"]
    reason = str(answer.get("error", ""))[:300] if isinstance(answer, dict) else ""
    if status == 429 or status >= 500:
        raise _Overloaded(f"HTTP {status} {reason}".strip())
    raise Unavailable(f"{method}: HTTP {status} {reason}".strip())


def _block(header: dict[str, Any], seqno: int) -> BlockRef:
    identity = header["id"]
    if int(identity["seqno"]) != seqno or int(identity["workchain"]) != MASTERCHAIN:
        raise ValueError(f"expected masterchain block {seqno}, got another")
    return BlockRef(seqno, _hash(identity["root_hash"]), int(header["gen_utime"]), "reported")


def _hash(text: str) -> bytes:
    digest = base64.b64decode(text, validate=True)
    if len(digest) != 32:
        raise ValueError(f"expected 32 bytes, got {len(digest)}")
    return digest


def _account(raw: dict[str, Any], address: str) -> AccountState:
    state = raw["state"]
    if state not in ("active", "uninitialized", "frozen"):
        raise ValueError(f"expected an account state, got {state!r}")
    return AccountState(
        address=address,
        code=base64.b64decode(raw["code"], validate=True),
        data=base64.b64decode(raw["data"], validate=True),
        balance=max(int(raw["balance"]), 0),  # toncenter says -1 for an unknown account
        state=state,
        read_at=int(raw["sync_utime"]),
        seqno=int(raw["block_id"]["seqno"]),
    )


def _result(raw: dict[str, Any]) -> GetMethodResult:
    stack = tuple(_entry(kind, value) for kind, value in raw["stack"])
    return GetMethodResult(int(raw["exit_code"]), int(raw["gas_used"]), stack)


def _entry(kind: str, value: Any) -> int | bytes | None:
    if kind == "num":
        return int(value, 16)
    if kind in ("cell", "slice", "builder"):
        return base64.b64decode(value["bytes"], validate=True)
    if kind in ("list", "tuple", "null"):
        return None  # no contract of ours answers with these
    raise ValueError(f"unknown stack entry {kind!r}")
