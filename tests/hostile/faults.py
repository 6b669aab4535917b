"""What a hostile relay can do to one HTTP exchange, chosen by a seed.

A Fault is applied to the exchanges of one question, by the relay process (tests/hostile/relay.py).
`Exchange` is what the relay asked for and what the enclave really answered; `play` yields what the
client gets: bytes, pauses in seconds, or an end of the connection.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from attestation.channel import varint
from attestation.errors import ParseError

RESPONSE_NONCE_BYTES = 32
BOMB = gzip.compress(bytes(64 << 20), 9)
PORTAL = b"<html><body>Welcome to our hotel. <a href=/login>Sign in</a></body></html>"
DRIP_S, DRIPS = 0.2, 40
ENDLESS = 512
"""Pieces of 64 KiB until the relay itself gives up."""


class End(Enum):
    CLOSE, RESET = "close", "reset"


Act = bytes | float | End
Play = Iterator[Act]


@dataclass
class Exchange:
    """`earlier` is the body of another question's answer, empty where there was none."""

    status: int
    media_type: str
    body: bytes
    earlier: bytes
    rng: random.Random

    def whole(self, body: bytes | None = None, *more: str, status: int | None = None) -> bytes:
        """The answer as a well-behaved relay sends it; `more` are header lines."""
        body = self.body if body is None else body
        lines = [
            f"HTTP/1.1 {self.status if status is None else status} X",
            f"content-type: {self.media_type}",
            f"content-length: {len(body)}",
            "connection: close",
            *more,
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def somewhere(self, data: bytes) -> int:
        return self.rng.randrange(max(1, len(data)))

    def chunks(self) -> tuple[bytes, list[bytes]]:
        """The sealed answer's nonce, and its chunks with their lengths; none where it has none."""
        rest, found = self.body[RESPONSE_NONCE_BYTES:], []
        while rest:
            try:
                size = varint.size(rest[0])
                length = varint.decode(rest[:size])
            except ParseError:
                break
            if length == 0:
                break
            found.append(rest[: size + length])
            rest = rest[size + length :]
        return self.body[:RESPONSE_NONCE_BYTES], [*found, rest]


# After the enclave has answered


def nothing(x: Exchange) -> Play:
    yield x.whole()


def late(x: Exchange) -> Play:
    yield x.rng.uniform(0, 2)
    yield x.whole()


def dropped(x: Exchange) -> Play:
    yield End.CLOSE


def reset(x: Exchange) -> Play:
    yield x.whole()[: x.somewhere(x.whole())]
    yield End.RESET


def truncated(x: Exchange) -> Play:
    yield x.whole()[: x.somewhere(x.whole())]


def truncated_well(x: Exchange) -> Play:
    """Cut at a byte of the body, in an answer that is whole for HTTP."""
    yield x.whole(x.body[: x.somewhere(x.body)])


def flipped(x: Exchange) -> Play:
    at = x.somewhere(x.body)
    yield x.whole(x.body[:at] + bytes([x.body[at] ^ 1 << x.rng.randrange(8)]) + x.body[at + 1 :])


def replayed(x: Exchange) -> Play:
    yield x.whole(x.earlier)


def _rearranged(change: Callable[[Exchange, list[bytes]], None]) -> Callable[[Exchange], Play]:
    def play(x: Exchange) -> Play:
        nonce, chunks = x.chunks()
        change(x, chunks)
        yield x.whole(nonce + b"".join(chunks))

    return play


def _repeat(x: Exchange, chunks: list[bytes]) -> None:
    at = x.rng.randrange(len(chunks))
    chunks.insert(at, chunks[at])


def _swap(x: Exchange, chunks: list[bytes]) -> None:
    at = x.rng.randrange(max(1, len(chunks) - 1))
    chunks[at : at + 2] = chunks[at : at + 2][::-1]


def _leave_out(x: Exchange, chunks: list[bytes]) -> None:
    del chunks[x.rng.randrange(len(chunks))]


def _strip_final(x: Exchange, chunks: list[bytes]) -> None:
    del chunks[-1]


def status(x: Exchange) -> Play:
    codes = (101, 201, 204, 206, 301, 304, 400, 401, 404, 413, 429, 431, 500, 502, 503, 504, 599)
    yield x.whole(status=x.rng.choice((*codes, 0, 999, 1000)))


def media_type(x: Exchange) -> Play:
    names = ("", "text/html", "application/json", "message/ohttp-res", "text/event-stream")
    x.media_type = x.rng.choice(names)
    yield x.whole()


def problem(x: Exchange) -> Play:
    """What the enclave would say outside the seal, said by the relay."""
    x.media_type = "application/problem+json"
    said = (b'{"title":"not a request to this enclave"}', b'{"title":"replay"}')
    yield x.whole(x.rng.choice(said), status=400)


def told_to_wait(x: Exchange) -> Play:
    after = x.rng.choice(("1", "999999999", "-1", "soon", "", "1e9", "0x10"))
    yield x.whole(b"", f"retry-after: {after}", status=x.rng.choice((429, 503)))


def redirect(x: Exchange) -> Play:
    where = x.rng.choice(("/", "https://evil.invalid/", "//evil.invalid", "file:///etc/passwd"))
    yield x.whole(b"", f"location: {where}", status=x.rng.choice((301, 302, 303, 307, 308)))


def portal(x: Exchange) -> Play:
    x.media_type = "text/html"
    yield x.whole(PORTAL, status=x.rng.choice((200, 403, 511)))


def cookie(x: Exchange) -> Play:
    yield x.whole(None, "set-cookie: who=you; Path=/; Max-Age=99999")


def bomb(x: Exchange) -> Play:
    coding = x.rng.choice(("gzip", "deflate", "br", "gzip, gzip"))
    yield x.whole(BOMB, f"content-encoding: {coding}")


def endless(x: Exchange) -> Play:
    yield x.whole(b"", "transfer-encoding: chunked").replace(b"content-length: 0\r\n", b"")
    for _ in range(ENDLESS):
        yield b"10000\r\n" + bytes(65536) + b"\r\n"


def endless_head(x: Exchange) -> Play:
    yield b"HTTP/1.1 200 OK\r\n"
    for number in range(ENDLESS):
        yield f"x-{number}: ".encode() + b"a" * 4000 + b"\r\n"


def endless_continue(x: Exchange) -> Play:
    for _ in range(DRIPS):
        yield b"HTTP/1.1 100 Continue\r\n\r\n"
        yield DRIP_S


def dripped_head(x: Exchange) -> Play:
    for byte in x.whole()[:DRIPS]:
        yield bytes([byte])
        yield DRIP_S


def dripped_body(x: Exchange) -> Play:
    whole = x.whole()
    head = len(whole) - len(x.body)
    yield whole[:head]
    for byte in x.body[:DRIPS]:
        yield bytes([byte])
        yield DRIP_S


def silent(x: Exchange) -> Play:
    yield x.whole()[: x.somewhere(x.whole())]
    yield DRIP_S * DRIPS


def lengths(x: Exchange) -> Play:
    """Lengths that contradict each other or the body."""
    size = len(x.body)
    right, both = f"content-length: {size}".encode(), b"transfer-encoding: chunked\r\n"
    wrong = x.rng.choice(
        (
            f"content-length: {size}\r\ncontent-length: {size + 1}".encode(),
            f"content-length: {size + 7}".encode(),
            f"content-length: {max(0, size - 7)}".encode(),
            b"content-length: -1",
            b"content-length: 0x10",
            b"content-length: " + b"9" * 30,
            both + right,
            b"transfer-encoding: chunked, identity",
        )
    )
    yield x.whole().replace(right, wrong, 1)


def chunk_sizes(x: Exchange) -> Play:
    head = x.whole(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
    size = x.rng.choice((b"ffffffffffffffffff", b"-5", b"5 ;x=" + b"y" * 9000, b"zz", b"0x5"))
    yield head + size + b"\r\n" + x.body[:5] + b"\r\n0\r\n\r\n"


def garbage(x: Exchange) -> Play:
    yield x.rng.randbytes(x.rng.randrange(1, 4000))


def more_behind(x: Exchange) -> Play:
    yield x.whole().replace(b"connection: close", b"connection: keep-alive") + x.whole(b"junk")


PLAYS: dict[str, Callable[[Exchange], Play]] = {
    "none": nothing,
    "late": late,
    "dropped": dropped,
    "reset": reset,
    "truncated": truncated,
    "truncated well": truncated_well,
    "flipped": flipped,
    "replayed answer": replayed,
    "repeated chunk": _rearranged(_repeat),
    "swapped chunks": _rearranged(_swap),
    "chunk left out": _rearranged(_leave_out),
    "final chunk stripped": _rearranged(_strip_final),
    "status": status,
    "media type": media_type,
    "problem": problem,
    "told to wait": told_to_wait,
    "redirect": redirect,
    "captive portal": portal,
    "cookie": cookie,
    "gzip bomb": bomb,
    "endless answer": endless,
    "endless head": endless_head,
    "endless continue": endless_continue,
    "dripped head": dripped_head,
    "dripped body": dripped_body,
    "silence": silent,
    "lengths": lengths,
    "chunk sizes": chunk_sizes,
    "garbage": garbage,
    "more behind": more_behind,
}

# Before the enclave has answered

REQUESTS = ("sent twice", "cut request", "lost request", "other request")
"""The relay passes the request on twice, in part, not at all, or another one in its place."""

NAMES = (*PLAYS, *REQUESTS)


@dataclass(frozen=True)
class Fault:
    """`once`: only the first exchange of the question meets it."""

    seed: int
    name: str
    once: bool

    @property
    def play(self) -> Callable[[Exchange], Play]:
        return PLAYS.get(self.name, nothing)


def fault_of(seed: int) -> Fault:
    """Every name in turn, so that few seeds meet them all."""
    rng = random.Random(seed)
    return Fault(seed, NAMES[seed % len(NAMES)], rng.random() < 0.5)
