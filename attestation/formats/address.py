"""TON account addresses: every spelling that the chain's documents allow, one canonical form.

Invariant: two spellings name one account exactly when their canonical forms are equal. The
canonical form is the raw one, `workchain:hex`, with 64 lower-case hex digits. A friendly
spelling's flags (bounceable or not, for test networks only) are hints to wallets: they are
checked and then dropped, because they say nothing about which account it is.

Source: TEP-2, https://github.com/ton-blockchain/TEPs/blob/master/text/0002-address.md
"""

from __future__ import annotations

import base64
import binascii
import re

from attestation.errors import ParseError

FRIENDLY_CHARACTERS = 48
"""36 bytes: tag, workchain, 32 bytes of account, CRC16; base64 needs no padding for them."""

BOUNCEABLE, NON_BOUNCEABLE, TEST_ONLY = 0x11, 0x51, 0x80
WORKCHAINS = (0, -1)
"""Base chain and masterchain: the only ones that exist."""

EXPECTED = (
    "expected a TON address: 0: or -1: and 64 hex digits, or its friendly form of 48 characters"
)
_RAW = re.compile(r"(0|-1):([0-9a-fA-F]{64})")
_FRIENDLY = re.compile(r"[0-9A-Za-z+/]{48}|[0-9A-Za-z_-]{48}")
_SHOWN = 80


def canonical(text: str) -> str:
    """The raw form `workchain:hex` (lower case) of any spelling of an address.

    Raises ParseError, which says what is wrong with any other text.
    """
    if ":" in text:
        return _canonical_raw(text)
    if len(text) != FRIENDLY_CHARACTERS:
        raise _wrong(text, f"it has {len(text)} characters")
    data = _friendly_bytes(text)
    if binascii.crc_hqx(data[:34], 0).to_bytes(2) != data[34:]:
        raise _wrong(text, "its checksum does not hold, so a character was mistyped or lost")
    if data[0] & ~TEST_ONLY not in (BOUNCEABLE, NON_BOUNCEABLE):
        raise _wrong(text, f"its tag is {data[0]:#04x}, which no address has")
    workchain = int.from_bytes(data[1:2], signed=True)
    if workchain not in WORKCHAINS:
        raise _wrong(text, f"its workchain is {workchain}")
    return f"{workchain}:{data[2:34].hex()}"


def same_account(one: str, other: str) -> bool:
    """Whether both are spellings of one account; False where one is not an address."""
    try:
        return canonical(one) == canonical(other)
    except ParseError:
        return False


def _canonical_raw(text: str) -> str:
    found = _RAW.fullmatch(text)
    if found is None:
        raise _wrong(text, _raw_fault(text))
    return f"{found[1]}:{found[2].lower()}"


def _raw_fault(text: str) -> str:
    workchain, _, digits = text.partition(":")
    if workchain not in map(str, WORKCHAINS):
        return f"its workchain is {_short(workchain)}"
    if len(digits) != 64:
        return f"it has {len(digits)} characters after the colon"
    return "it has other characters than hex digits after the colon"


def _friendly_bytes(text: str) -> bytes:
    """36 bytes. The decoder alone would take both alphabets mixed."""
    if not _FRIENDLY.fullmatch(text):
        raise _wrong(text, "it has characters that are not of one base64 alphabet")
    return base64.b64decode(text.encode(), altchars=b"-_", validate=True)


def _wrong(text: str, fault: str) -> ParseError:
    return ParseError(f"{EXPECTED}; got {_short(text)}: {fault}")


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
