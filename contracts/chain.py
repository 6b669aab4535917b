"""The chain as its readers and writers see it, and a toncenter v2 client for it.

Invariants: what this client returns is "reported": it is the word of an endpoint that this
party chose, and nothing is proven. Answers are bounded in size and time and read strictly;
every failure raises Unavailable. Reads are repeated when the endpoint is overloaded, sends
never are. A key in the endpoint's URL is sent with each request and is shown in no error.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import urlunsplit

from attestation.errors import ParseError, Unavailable, UsageError
from attestation.formats.address import canonical
from attestation.formats.json import decode
from attestation.formats.url import split_url
from attestation.net.error_text import printable, redacted_url
from attestation.net.http import Answer, Http
from attestation.net.retry import MAY_CHANGE, retry_after, with_retries
from attestation.net.timing import Deadlines
from attestation.trust.anchor import BlockRef, Level

MAX_ANSWER = 16 << 20  # bytes; the whole configuration of the chain is below 1 MiB
RETRIES = 4
NO_REASON = "the endpoint gave no reason"
FIRST_PAUSE = 0.4  # seconds, doubled each time
_OPAQUE = re.compile(r"/[A-Za-z0-9_-]{16,}(?![^/])")
"""A part of a path that may be a key: some providers put it there."""

_PASSING = re.compile(
    r"rate ?limit|too many requests|timed? ?out|not ?ready|temporar|overload|LITE_SERVER_NETWORK",
    re.IGNORECASE,
)
"""Words of toncenter for refusals that are temporary. Some of these answers have no error code."""

MASTERCHAIN = -1
SHARD = "-9223372036854775808"

T = TypeVar("T")
State = Literal["active", "uninitialized", "frozen"]


@dataclass(frozen=True)
class AccountState:
    """An account at one moment. `code` and `data` are bags of cells, empty unless active.

    balance in nano; read_at is the Unix time of the state that was read, seqno its block;
    level says how this is known (attestation/trust/anchor.py).
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
    """Exit code (0 and 1 mean success), gas, and the stack: int, or a bag of cells as bytes."""

    exit_code: int
    gas_used: int
    stack: tuple[int | bytes | None, ...]


class ReadOnlyChain(Protocol):
    """The methods that a reader needs. Every method raises Unavailable. Where proofs are checked,
    NotAuthentic and ParseError are raised too."""

    def head(self) -> BlockRef: ...

    def block(self, seqno: int) -> BlockRef: ...

    def account(self, address: str) -> AccountState: ...


class Chain(ReadOnlyChain, Protocol):
    """The methods that a sender needs besides. Every method raises Unavailable."""

    def run_get_method(
        self, address: str, method: str, stack: tuple[int, ...] = ()
    ) -> GetMethodResult: ...

    def send_boc(self, boc: bytes) -> bytes: ...


def raw_address(text: str, what: str = "address") -> str:
    """The raw form, `workchain:hex`, of an address in any spelling.

    `what` names the option or field that held the address. Raises UsageError, which says what is
    wrong with it.
    """
    try:
        return canonical(text)
    except ParseError as error:
        raise UsageError(f"{what}: {error}") from None


class ToncenterV2:
    """Any toncenter v2 endpoint: public, self-hosted or the embedded chain.

    `url` is the part before the method names. If it has no path, /api/v2 is added; its query
    (`?api_key=…`) is sent with each request. `timeout`, in seconds, covers one whole request.
    The key is sent to this endpoint only. `http` has its own deadlines, proxy and certificate
    authorities.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 10,
        http: Http | None = None,
    ) -> None:
        self._endpoint = _endpoint(url)
        named = redacted_url(self._endpoint.partition("?")[0]).removesuffix("/jsonRPC")
        self.url = _OPAQUE.sub("/…", named)
        self._http = http or Http(Deadlines(whole=timeout))
        self._headers = {"accept": "application/json"}
        if api_key:
            self._headers["x-api-key"] = api_key

    def __repr__(self) -> str:
        return f"ToncenterV2({self.url!r})"

    def head(self) -> BlockRef:
        """The last masterchain block."""
        return self._read(lambda: self.block(int(self._get("getMasterchainInfo")["last"]["seqno"])))

    def block(self, seqno: int) -> BlockRef:
        """The masterchain block with this sequence number."""
        where = {"workchain": MASTERCHAIN, "shard": SHARD, "seqno": seqno}
        return self._read(lambda: _block(self._get("getBlockHeader", **where), seqno))

    def account(self, address: str) -> AccountState:
        """Code, data and balance now; the address is returned in its raw form."""
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
        """Send one external message and return its hash (32 bytes). It is never sent again."""
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
            what = printable(repr(error), 200)
            raise Unavailable(
                f"{self.url}: expected an answer as toncenter v2 gives it, got one that cannot be "
                f"read: {what}"
            ) from error

    def _get(self, method: str, /, **parameters: object) -> Any:
        return self._call(method, parameters, attempts=RETRIES)

    def _call(self, method: str, parameters: dict[str, Any], *, attempts: int) -> Any:
        asked = {"id": 1, "jsonrpc": "2.0", "method": method, "params": parameters}
        body = json.dumps(asked).encode()
        headers = {**self._headers, "content-type": "application/json"}
        name = f"{self.url}: {method}"

        def once() -> Any:
            answer = self._http.ask(
                "POST", self._endpoint, body, limit=MAX_ANSWER, headers=headers, name=name
            )
            return _opened(answer)

        return with_retries(once, tries=attempts, pause=FIRST_PAUSE)


def _endpoint(url: str) -> str:
    """Where JSON-RPC is posted, with the query of `url`. Raises UsageError."""
    try:
        parts = split_url(url)
    except ParseError:
        got = _OPAQUE.sub("/…", redacted_url(url))
        raise UsageError(f"chain: expected an http(s) URL, got {got!r}") from None
    path = parts.path.rstrip("/").removesuffix("/jsonRPC") or "/api/v2"
    return urlunsplit((parts.scheme, parts.netloc, f"{path}/jsonRPC", parts.query, ""))


def _opened(answer: Answer) -> Any:
    """The result. toncenter sends some refusals with HTTP 200 and "ok": false in the body."""
    value = _refused(answer) if answer.status != 200 else answer.json()
    if not isinstance(value, dict):
        raise Unavailable(f"{answer.url}: expected a JSON object, got another value")
    if value.get("ok") is True and answer.status == 200:
        return value["result"]
    code, reason = _reason(value)
    passing = answer.status in MAY_CHANGE or code in MAY_CHANGE or bool(_PASSING.search(reason))
    raise Unavailable(
        f"{answer.url}: HTTP {answer.status}, code {code}: {reason or NO_REASON}",
        again=passing,
        retry_after=retry_after(answer.headers.get("retry-after")),
    )


def _refused(answer: Answer) -> Any:
    """The JSON body of an answer with an error status. Raises Unavailable if it is not JSON."""
    try:
        return decode(answer.body, what=answer.url)
    except ParseError:
        raise answer.refusal() from None


def _reason(value: dict[str, Any]) -> tuple[int | None, str]:
    """Code and text of {"error": text, "code"} or of JSON-RPC's {"error": {code, message}}."""
    error = value.get("error")
    if isinstance(error, dict):
        value, error = error, error.get("message")
    code = value.get("code")
    return code if type(code) is int else None, printable(str(error or ""), 300)


def _block(header: dict[str, Any], seqno: int) -> BlockRef:
    identity = header["id"]
    if int(identity["seqno"]) != seqno or int(identity["workchain"]) != MASTERCHAIN:
        got = f"workchain {identity['workchain']}, block {identity['seqno']}"
        raise ValueError(f"expected masterchain block {seqno}, got {got}")
    return BlockRef(seqno, _hash(identity["root_hash"]), int(header["gen_utime"]), "reported")


def _hash(text: str) -> bytes:
    digest = base64.b64decode(text, validate=True)
    if len(digest) != 32:
        raise ValueError(f"expected a hash of 32 bytes, got {len(digest)} bytes")
    return digest


def _account(raw: dict[str, Any], address: str) -> AccountState:
    state = raw["state"]
    if state not in ("active", "uninitialized", "frozen"):
        raise ValueError(f"state: expected active, uninitialized or frozen, got {state!r}")
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
        return None  # our contracts do not return these
    raise ValueError(f"stack: expected num, cell, slice or builder, got {kind!r}")
