"""Compares the check of recorded mainnet links in the light client with that of their signatures
alone.

It needs the recordings in the directory that UMAY_EVIDENCE names. The peer is libsodium, through
PyNaCl. It verifies the same Ed25519 signatures and does nothing else, so the ratio shows what
proofs, cells and the validator set cost in addition.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from nacl.signing import VerifyKey

from contracts.light import walk
from contracts.light.blocks import read_validators
from contracts.light.boc import read_bag
from contracts.light.cells import proof_root
from contracts.light.links import ForwardLink, payload, read_proof

EVIDENCE = Path(os.environ.get("UMAY_EVIDENCE", "../shared/evidence"))
RUNS = 50


def run() -> Iterator[dict[str, Any]]:
    for form in ("ordinary", "simplex"):
        path = EVIDENCE / "ton" / f"one-link-{form}.hex"
        if path.exists():
            yield _figure(form, bytes.fromhex("".join(path.read_text().split())))


def _figure(form: str, answer: bytes) -> dict[str, Any]:
    _, source, _, (link,) = read_proof(answer, 1)
    signed = _signatures(link)
    ours, theirs = _ms(lambda: walk(source, answer)), _ms(lambda: _verify(signed))
    return {
        "bench": f"light-link-{form}",
        "value": ours,
        "unit": "ms",
        "peer": f"PyNaCl, {len(signed)} signatures",
        "peer_value": theirs,
        "ratio": round(ours / theirs, 3),
        "n": RUNS,
    }


def _signatures(link: ForwardLink) -> list[tuple[bytes, bytes, bytes]]:
    """The key, the text and the signature for each signature of the link."""
    (proof,) = read_bag(link.config_proof)
    members = read_validators(proof_root(proof, link.source.root_hash, "configuration")).members
    text = payload(link.signatures, link.target)
    return [(members[who][0], text, signature) for who, signature in link.signatures.signatures]


def _verify(signed: list[tuple[bytes, bytes, bytes]]) -> None:
    for key, text, signature in signed:
        VerifyKey(key).verify(text, signature)


def _ms(work: Callable[[], object]) -> float:
    def once() -> float:
        begun = perf_counter()
        work()
        return perf_counter() - begun

    return round(1000 * median(once() for _ in range(RUNS)), 3)
