"""What a log's server asks of its witnesses, and a log that has none."""

from __future__ import annotations

from typing import Protocol


class Witnesses(Protocol):
    """Adds the cosignatures of the log's witnesses to its checkpoints."""

    def cosigned(self, note: bytes) -> bytes: ...

    def newest(self) -> bytes | None: ...


class NoWitnesses:
    """The Witnesses of a log that has none."""

    def cosigned(self, note: bytes) -> bytes:
        return note

    def newest(self) -> bytes | None:
        return None
