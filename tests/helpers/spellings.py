"""One TON account in every spelling, made without the reader under test."""

from __future__ import annotations

import base64
import binascii

TAGS = {"bounceable": 0x11, "non-bounceable": 0x51}
TEST_ONLY = 0x80


def friendly(tag: int, workchain: int, account: bytes, *, url_safe: bool = True) -> str:
    body = bytes([tag]) + workchain.to_bytes(1, signed=True) + account
    whole = body + binascii.crc_hqx(body, 0).to_bytes(2)
    return (base64.urlsafe_b64encode if url_safe else base64.b64encode)(whole).decode()


def spellings(raw: str) -> dict[str, str]:
    """Every spelling of the account at this raw address, the raw one first."""
    workchain, _, digits = raw.partition(":")
    found = {"raw": raw, "raw in capitals": f"{workchain}:{digits.upper()}"}
    for name, tag in TAGS.items():
        for net, bit in (("", 0), (" for test networks", TEST_ONLY)):
            for alphabet, safe in (("base64url", True), ("base64", False)):
                text = friendly(tag | bit, int(workchain), bytes.fromhex(digits), url_safe=safe)
                found[f"{name}{net}, {alphabet}"] = text
    return found
