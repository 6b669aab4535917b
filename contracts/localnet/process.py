"""The embedded chain as a child process, with its faucet and its clock.

Invariant: the child ends with the parent: it watches its stdin, which the parent holds.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from attestation.errors import ParseError, Unavailable
from attestation.formats.json import decode
from attestation.net.http import Http
from attestation.net.timing import Deadlines
from contracts.chain import ToncenterV2, raw_address
from contracts.localnet.server import command

STOP_SECONDS = 120
LOCAL_TIMEOUT = 300.0
MAX_LOCAL = 64 * 1024  # bytes


@dataclass(frozen=True)
class LocalChain:
    """A running embedded chain; `url` is its toncenter v2 base address."""

    url: str
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, directory: Path, *, listen: str = "127.0.0.1:0") -> LocalChain:
        """Start it on `directory`; returns when it listens. Raises Unavailable."""
        arguments = ["--dir", str(directory), "--listen", listen, "--parent-watch"]
        process = subprocess.Popen(
            command(arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        line = process.stdout.readline() if process.stdout else b""
        try:
            return cls(decode(line, what="embedded chain")["listening"], process)
        except (ParseError, KeyError, TypeError) as error:
            process.kill()
            tail = process.stderr.read()[-400:].decode(errors="replace") if process.stderr else ""
            silent = (
                f"embedded chain on {directory}: expected one line of JSON with its URL, but the "
                "process ended without a message"
            )
            raise Unavailable(tail.strip() or silent) from error

    def client(self) -> ToncenterV2:
        return ToncenterV2(self.url, timeout=LOCAL_TIMEOUT)

    def faucet(self, address: str, amount: int) -> None:
        """Create `amount` nano for any account."""
        faucet(self.url, address, amount)

    def advance(self, seconds: int) -> int:
        """Move the chain's clock forward; the new time."""
        return int(str(_local(self.url, "time", {"advance": seconds})["now"]))

    def stop(self) -> None:
        """End the process and wait for it; its state is on disk."""
        self.process.terminate()
        self.process.wait(STOP_SECONDS)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                stream.close()

    def __enter__(self) -> LocalChain:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def faucet(url: str, address: str, amount: int) -> None:
    """Ask the embedded chain at `url` to create `amount` nano for this address."""
    _local(url.rstrip("/"), "faucet", {"address": raw_address(address), "amount": str(amount)})


def _local(url: str, what: str, body: dict[str, object]) -> dict[str, object]:
    where, seconds = f"{url}/local/{what}", Deadlines(whole=LOCAL_TIMEOUT)
    with Http(seconds) as http:
        answer = http.post(
            where, json.dumps(body).encode(), media_type="application/json", limit=MAX_LOCAL
        ).json()
    try:
        result: dict[str, object] = answer["result"]
    except (TypeError, KeyError) as error:
        raise Unavailable(
            f"{where}: expected a JSON object with the field result, got another answer; check "
            "that "
            "this is the URL of an embedded chain"
        ) from error
    return result
