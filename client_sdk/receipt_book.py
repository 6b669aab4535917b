"""Receipts of answers that were read to their end, by the id of the answer; in memory alone."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client_sdk.session import CheckedReceipt

KEPT = 1024
"""The oldest one makes room: who wants to keep more of them writes them down."""


class ReceiptBook(Mapping[str, "CheckedReceipt"]):
    """The last receipts, oldest first. Safe for many threads."""

    def __init__(self, size: int = KEPT) -> None:
        self._size = size
        self._kept: OrderedDict[str, CheckedReceipt] = OrderedDict()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<ReceiptBook with {len(self)} receipts>"

    def __getitem__(self, answer_id: str) -> CheckedReceipt:
        """Raises KeyError where that answer has not ended, gave none, or is too long ago."""
        with self._lock:
            return self._kept[answer_id]

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter(list(self._kept))

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, answer_id: str, receipt: CheckedReceipt) -> None:
        with self._lock:
            self._kept[answer_id] = receipt
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
