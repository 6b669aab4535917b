"""The enclaves that a Verifier accepted, so that the same question is not verified twice.

Only successes are kept, each from the moment it was found to `valid_until`: within that
time every window that a step checks stays open. Any changed byte is another question.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

from attestation.formats.digests import sha256
from attestation.trust.anchor import Anchor, BlockRef
from attestation.verify.presented import Presented
from attestation.verify.verdict import VerifiedEnclave


class VerificationMemory:
    """The last `size` enclaves accepted; 0 remembers nothing. Safe for many threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[bytes, tuple[int, VerifiedEnclave]] = OrderedDict()
        self._lock = threading.Lock()

    def recall(self, asked: bytes, now: int) -> VerifiedEnclave | None:
        """The enclave of this question, if it was accepted and still holds at `now`."""
        with self._lock:
            since, enclave = self._kept.get(asked, (0, None))
            if enclave is None or not since <= now < enclave.valid_until:
                return None
            self._kept.move_to_end(asked)
            return enclave

    def keep(self, asked: bytes, now: int, enclave: VerifiedEnclave) -> VerifiedEnclave:
        with self._lock:
            self._kept[asked] = (now, enclave)
            self._kept.move_to_end(asked)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return enclave


def question(presented: Presented, anchor: Anchor, beacon: BlockRef) -> bytes:
    """32 bytes over every argument of a verification but the time."""
    session = presented.session
    parts = (
        presented.evidence,
        presented.engine_config,
        presented.price_table,
        presented.host_config,
        presented.collateral.manifest_digest(),
        presented.proof,
        session.answer if session else None,
        session.nonce if session else None,
        repr((anchor, beacon)).encode(),
    )
    whole = hashlib.sha256()
    for part in parts:
        whole.update(b"\0" if part is None else b"\1" + sha256(part))
    return whole.digest()
