"""Accounts and blocks that validators' signatures prove, whoever carries the answers.

The trusted key block lies in a file and moves forward only. A transport fetches bytes and is
believed in nothing: what it gives is proven from that block on, or refused.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from attestation.errors import NotAuthentic, ParseError, Refused, UsageError
from attestation.files import read_trusted, replace
from attestation.formats.json import decode
from attestation.trust.anchor import BlockRef
from contracts.light.accounts import ProvenAccount, read_account
from contracts.light.back import check_back
from contracts.light.blocks import MASTERCHAIN, WHOLE_SHARD, BlockId, read_block_header
from contracts.light.cells import STEP
from contracts.light.links import walk

MAX_ANSWERS = 256
"""Partial proofs on the way from the trusted block to the head: a year of key blocks is fewer."""


MAX_PROVEN = 1024
"""Blocks that are not proven again; the head is asked for often."""


class Transport(Protocol):
    """A liteserver's answers, in its own bytes. Raises Unavailable."""

    def masterchain_head(self) -> BlockId:
        """The last block of liteServer.getMasterchainInfo."""

    def block_proof(self, known: BlockId, target: BlockId) -> bytes:
        """liteServer.getBlockProof: a liteServer.partialBlockProof."""

    def header(self, seqno: int) -> bytes:
        """liteServer.lookupBlock in the masterchain: a liteServer.blockHeader."""

    def account(self, block: BlockId, address: str) -> bytes:
        """liteServer.getAccountState at this block: a liteServer.accountState."""


class Trusted(Protocol):
    """The key block that a reader goes out from."""

    def read(self) -> BlockId: ...

    def move(self, block: BlockId) -> None:
        """Go out from this proven key block from now on, if it is a later one."""


class InMemory:
    """A trusted block for one run."""

    def __init__(self, block: BlockId) -> None:
        self._block = block

    def read(self) -> BlockId:
        return self._block

    def move(self, block: BlockId) -> None:
        if block.seqno > self._block.seqno:
            self._block = block


@dataclass(frozen=True)
class TrustedBlock:
    """A key block in a file; `move` replaces it by a later one, never by an older."""

    path: Path

    def read(self) -> BlockId:
        """Raises UsageError where there is none, or something else."""
        data = read_trusted(self.path)
        if data is None:
            raise UsageError(f"{self.path}: no trusted block; pin a key block first")
        try:
            raw = decode(data, what=str(self.path))
            root, file_hash = bytes.fromhex(raw["root_hash"]), bytes.fromhex(raw["file_hash"])
            seqno = raw["seqno"]
        except (ParseError, ValueError, KeyError, TypeError) as error:
            text = (
                f"{self.path}: no trusted block ({type(error).__name__}): remove it to begin anew"
            )
            raise UsageError(text) from None
        if type(seqno) is not int or seqno < 0 or (len(root), len(file_hash)) != (32, 32):
            raise UsageError(f"{self.path}: expected seqno and two hashes: remove it to begin anew")
        return BlockId(MASTERCHAIN, WHOLE_SHARD, seqno, root, file_hash)

    def pin(self, block: BlockId) -> None:
        """Write it, whole or not at all. Raises UsageError or Unavailable where that cannot be."""
        content = {
            "seqno": block.seqno,
            "root_hash": block.root_hash.hex(),
            "file_hash": block.file_hash.hex(),
        }
        replace(self.path, json.dumps(content).encode())

    def move(self, block: BlockId) -> None:
        if block.seqno > self.read().seqno:
            self.pin(block)


@dataclass(frozen=True)
class LightClient:
    """Reads at the level `proven`; `max_age_s` bounds the age of the head it accepts."""

    transport: Transport
    trusted: Trusted
    max_age_s: int = 600
    proven: OrderedDict[BlockId, None] = field(default_factory=OrderedDict, repr=False)

    def head(self) -> BlockId:
        """The masterchain's head, proven; the trusted block moves to the last key block.

        Raises Unavailable where no server answers, ParseError, NotAuthentic or Refused where
        an answer will not do, as every method here does.
        """
        head = self.transport.masterchain_head()
        if head.seqno < self.trusted.read().seqno:
            text = f"head: expected one after the trusted block, got {head.seqno}"
            raise Refused(STEP, "behind", text)
        self.prove(head)
        return head

    def block(self, seqno: int) -> BlockRef:
        """The masterchain block of this number, proven, before or after the trusted one."""
        block, header = read_block_header(self.transport.header(seqno))
        if block.seqno != seqno:
            text = f"header: expected block {seqno}, got {block.seqno}"
            raise NotAuthentic(STEP, "other-block", text)
        self.prove(block)
        return BlockRef(seqno, block.root_hash, header.utime, "proven")

    def account(self, address: str, *, now: int) -> ProvenAccount:
        """The account at a proven head that is not stale."""
        head = self.head()
        answer = self.transport.account(head, address)
        return read_account(head, answer, address, now=now, max_age_s=self.max_age_s)

    def prove(self, target: BlockId) -> None:
        """That `target` is a block of the trusted block's chain; the same one is proven once."""
        if target in self.proven:
            return
        self._prove(target)
        self.proven[target] = None
        while len(self.proven) > MAX_PROVEN:
            self.proven.popitem(last=False)

    def _prove(self, target: BlockId) -> None:
        at = self.trusted.read()
        for _ in range(MAX_ANSWERS):
            if at == target:
                return
            answer = self.transport.block_proof(at, target)
            if target.seqno <= at.seqno:
                return check_back(at, target, answer)
            reached = walk(at, answer)
            self.trusted.move(reached.key_block)
            if reached.head == target:
                return
            if reached.key_block == at:
                text = f"proofs: expected a way to {target}, they end at {reached.head.seqno}"
                raise NotAuthentic(STEP, "no-way", text)
            at = reached.key_block
        text = f"proofs: expected a way to {target} in {MAX_ANSWERS} answers, got none"
        raise NotAuthentic(STEP, "no-way", text)
