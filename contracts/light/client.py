"""Accounts and anchors that validators' signatures prove, whoever carries the answers.

The trusted key block lies in a file and moves forward only. A transport fetches bytes and is
believed in nothing: what it gives is proven from that block on, or refused.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from attestation.anchor import Anchor
from attestation.errors import ParseError, Unavailable, UsageError
from contracts.codec import LogState, cell_from_boc
from contracts.light.accounts import ProvenAccount, read_account
from contracts.light.blocks import MASTERCHAIN, WHOLE_SHARD, BlockId
from contracts.light.links import walk

MAX_ANSWERS = 256
"""Partial proofs on the way from the trusted block to the head: a year of key blocks is fewer."""


class Transport(Protocol):
    """A liteserver's answers, in its own bytes. Raises Unavailable."""

    def masterchain_head(self) -> BlockId:
        """The last block of liteServer.getMasterchainInfo."""

    def block_proof(self, known: BlockId, target: BlockId) -> bytes:
        """liteServer.getBlockProof: a liteServer.partialBlockProof."""

    def account(self, block: BlockId, address: str) -> bytes:
        """liteServer.getAccountState at this block: a liteServer.accountState."""


@dataclass(frozen=True)
class TrustedBlock:
    """A key block in a file; `move` replaces it by a later one, never by an older."""

    path: Path

    def read(self) -> BlockId:
        """Raises UsageError where there is none: it has to be pinned first."""
        try:
            raw = json.loads(self.path.read_text())
            root, file_hash = bytes.fromhex(raw["root_hash"]), bytes.fromhex(raw["file_hash"])
            seqno = raw["seqno"]
        except FileNotFoundError:
            raise UsageError(f"{self.path}: no trusted block; pin a key block first") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ParseError(f"{self.path}: no trusted block ({type(error).__name__})") from None
        if type(seqno) is not int or seqno < 0 or (len(root), len(file_hash)) != (32, 32):
            raise ParseError(f"{self.path}: expected seqno and two hashes of 32 bytes")
        return BlockId(MASTERCHAIN, WHOLE_SHARD, seqno, root, file_hash)

    def pin(self, block: BlockId) -> None:
        """Write it, whole or not at all."""
        content = {
            "seqno": block.seqno,
            "root_hash": block.root_hash.hex(),
            "file_hash": block.file_hash.hex(),
        }
        with tempfile.NamedTemporaryFile("w", dir=self.path.parent, delete=False) as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, self.path)

    def move(self, block: BlockId) -> None:
        if block.seqno > self.read().seqno:
            self.pin(block)


@dataclass(frozen=True)
class LightClient:
    """Reads at the level `proven`; `max_age_s` bounds the age of the head it accepts."""

    transport: Transport
    trusted: TrustedBlock
    max_age_s: int = 600

    def head(self) -> BlockId:
        """The masterchain's head, proven; the trusted block moves to the last key block.

        Raises Unavailable, ParseError or NotAuthentic.
        """
        wanted, at = self.transport.masterchain_head(), self.trusted.read()
        for _ in range(MAX_ANSWERS):
            if at == wanted:
                return at
            reached = walk(at, self.transport.block_proof(at, wanted))
            self.trusted.move(reached.key_block)
            if reached.head == wanted:
                return wanted
            if reached.key_block == at:
                raise Unavailable(f"proofs end at block {reached.head.seqno}")
            at = reached.key_block
        raise Unavailable(f"no proof reached block {wanted.seqno} in {MAX_ANSWERS} answers")

    def account(self, address: str, *, now: int) -> tuple[ProvenAccount, BlockId]:
        """The account at a proven head, and that head. Raises as `head`."""
        head = self.head()
        answer = self.transport.account(head, address)
        found = read_account(head, answer, address, now=now, max_age_s=self.max_age_s)
        return found, head

    def anchor(self, address: str, *, network: str, now: int) -> Anchor:
        """The AttestationLog at `address`, decoded from its proven data cell.

        Raises Unavailable where no active contract stands there, ParseError for other data.
        """
        found, _ = self.account(address, now=now)
        if found.state != "active" or not found.data:
            raise Unavailable(f"{address}: expected an active contract, got {found.state}")
        state = LogState.from_boc(found.data)
        return Anchor(
            network=network,
            address=address,
            code_hash=cell_from_boc(found.code).hash,
            origin=state.origin,
            log_key=state.log_key,
            sequence=state.sequence,
            size=state.size,
            root=state.root,
            time=state.time,
            forked=state.forked,
            read_at=found.read_at,
            level="proven",
        )
