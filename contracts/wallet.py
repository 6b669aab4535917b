"""A wallet, v4r2 or v5r1, with its key in a file or the environment: pays for anchors.

Invariants: the key file is readable by its owner alone and its content is never shown;
one transfer is confirmed by the wallet's sequence number before the next is made.
tonsdk gives the wallet's code and reads mnemonics; cells are built with pytoniq-core,
because tonsdk corrupts bags above 255 cells.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from nacl.signing import SigningKey
from pytoniq_core import Address, Builder, Cell, StateInit, begin_cell
from tonsdk.contract.wallet import WalletV4ContractR2
from tonsdk.crypto import mnemonic_is_valid, mnemonic_to_wallet_key

from attestation.errors import ParseError, Unavailable, UsageError
from attestation.files import create, read_secret
from contracts.chain import Chain, raw_address
from contracts.codec import cell_from_boc
from contracts.coin import shown
from contracts.wallet_code import V5R1_BOC

V4R2, V5R1 = "v4r2", "v5r1"
VERSIONS = (V4R2, V5R1)
ENVIRONMENT = "env:"
WALLET_ID = 698983191  # of the base workchain, by convention
V5_WALLET_ID = 0x7FFFFF11  # mainnet's −239, base workchain, version 0, subwallet 0
V5_SIGNED, SEND_ACTION = 0x7369676E, 0x0EC3C86D
VALID_SECONDS = 60
PAY_FEES_SEPARATELY = 1
IGNORE_ERRORS = 2
POLL_SECONDS = 0.3
GAS_MARGIN = 10_000_000  # nano that a transfer must leave for its own fees


def create_key(path: Path) -> SigningKey:
    """A new key in a new file, mode 0600. Raises UsageError if the file exists."""
    key = SigningKey.generate()
    if not create(path, f"{bytes(key).hex()}\n".encode()):
        raise UsageError(
            f"{path}: expected no file, but one exists; a key file is never overwritten"
        )
    return key


def load_key(path: Path) -> SigningKey:
    """The key in a file, or in the environment variable NAME for "env:NAME".

    docs/spec/contracts.md describes the content. Raises UsageError if other users can read the
    file or the variable is not set, ParseError for other content.
    """
    return _load(path)[0]


def _load(path: Path) -> tuple[SigningKey, str]:
    words = _text(path).split()
    version = words.pop() if words and words[-1] in VERSIONS else V4R2
    if len(words) == 24 and mnemonic_is_valid(words):
        return SigningKey(mnemonic_to_wallet_key(words)[1][:32]), version
    try:
        return SigningKey(bytes.fromhex(words[0] if len(words) == 1 else "")), version
    except Exception:  # without the cause: its text could hold the key
        wanted = "a key of 64 hex digits or 24 mnemonic words, optionally followed by v4r2 or v5r1"
        raise ParseError(f"{path}: expected {wanted}, got another content") from None


def _text(path: Path) -> str:
    if str(path).startswith(ENVIRONMENT):
        name = str(path).removeprefix(ENVIRONMENT)
        if name not in os.environ:
            raise UsageError(
                f"{path}: expected an environment variable {name} with a wallet key, but it is "
                "not set"
            )
        return os.environ[name]
    data = read_secret(path)
    if data is None:
        raise UsageError(f"{path}: expected a key file, but there is no such file; check the path")
    return data.decode(errors="replace")


class Wallet:
    """One wallet on one chain; `address` is its raw form, `version` v4r2 or v5r1."""

    def __init__(self, chain: Chain, key: SigningKey, version: str = V4R2) -> None:
        self._chain = chain
        self._key = key
        self.version = version
        self._init = _INITS[version](bytes(key.verify_key))
        self.address = address_of(self._init)

    @classmethod
    def open(cls, chain: Chain, path: Path) -> Wallet:
        """The wallet of a key file or of "env:NAME". A missing file is created with a new key."""
        if str(path).startswith(ENVIRONMENT) or os.path.lexists(path):
            return cls(chain, *_load(path))
        return cls(chain, create_key(path))

    def __repr__(self) -> str:
        return f"Wallet({self.address!r})"

    def balance(self) -> int:
        """The balance of the wallet's account in nano."""
        return self._chain.account(self.address).balance

    def seqno(self) -> int:
        """The sequence number of the next transfer; 0 before the first one."""
        account = self._chain.account(self.address)
        if account.state != "active":
            return 0
        data = cell_from_boc(account.data).begin_parse()
        if len(data.bits) < 33:
            raise ParseError(
                f"wallet {self.address}: expected data with a sequence number (at least 33 "
                "bits), got "
                f"{len(data.bits)} bits; check that the account is a {self.version} wallet"
            )
        if self.version == V5R1:
            data.load_bit()  # whether its key may sign
        return int(data.load_uint(32))

    def transfer(
        self,
        to: str,
        amount: int,
        body: Cell | None = None,
        *,
        state_init: StateInit | None = None,
        bounce: bool = True,
        timeout: float = 60,
    ) -> int:
        """Send `amount` nano to an address in any spelling, wait until the wallet has sent it, and
        return the sequence number used.

        Raises UsageError for a malformed address or if the balance is too low, Unavailable after
        `timeout` seconds. This method does not learn what the receiver did with the message.
        """
        balance = self.balance()
        if balance < amount + GAS_MARGIN:
            raise UsageError(
                f"wallet {self.address}: expected a balance of at least "
                f"{shown(amount + GAS_MARGIN)} for the transfer and its fees, got "
                f"{shown(balance)}; "
                "send coins to this address first"
            )
        seqno = self.seqno()
        message = internal_message(to, amount, body, state_init=state_init, bounce=bounce)
        self._chain.send_boc(self.signed(seqno, message).to_boc())
        self._wait(seqno, timeout)
        return seqno

    def signed(self, seqno: int, message: Cell) -> Cell:
        """The external message that makes the wallet send `message`."""
        until = 0xFFFFFFFF if seqno == 0 else int(self._now()) + VALID_SECONDS
        payload = _ORDERS[self.version](until, seqno, message)
        signature = self._key.sign(payload.hash).signature
        body = begin_cell()
        if self.version == V4R2:
            body.store_bytes(signature).store_cell(payload)
        else:
            body.store_cell(payload).store_bytes(signature)
        init = self._init if seqno == 0 else None
        return external_message(self.address, body.end_cell(), init)

    def _now(self) -> int:
        return max(self._chain.head().utime, 0)

    def _wait(self, seqno: int, timeout: float) -> None:
        until = time.monotonic() + timeout
        while self.seqno() <= seqno:
            if time.monotonic() > until:
                raise Unavailable(
                    f"wallet {self.address}: expected transfer number {seqno} on the chain within "
                    f"{timeout} s, but the wallet has not sent it; check the balance and the "
                    "chain's "
                    "endpoint before you try again"
                )
            time.sleep(POLL_SECONDS)


def address_of(init: StateInit) -> str:
    """The raw base workchain address that commits to this code and data."""
    return f"0:{init.serialize().hash.hex()}"


def internal_message(
    to: str,
    amount: int,
    body: Cell | None = None,
    *,
    state_init: StateInit | None = None,
    bounce: bool = True,
) -> Cell:
    """A message of `amount` nano, as a wallet sends it."""
    header = begin_cell().store_bit(0).store_bit(1).store_bit(int(bounce)).store_bit(0)
    header.store_address(None).store_address(Address(raw_address(to))).store_coins(
        amount
    ).store_bit(0)
    header.store_coins(0).store_coins(0).store_uint(0, 64).store_uint(0, 32)
    return _finish(header, state_init, body)


def external_message(to: str, body: Cell, state_init: StateInit | None = None) -> Cell:
    """A message from outside the chain to an account."""
    header = (
        begin_cell().store_uint(0b10, 2).store_address(None).store_address(Address(raw_address(to)))
    )
    return _finish(header.store_coins(0), state_init, body)


def _finish(header: Builder, state_init: StateInit | None, body: Cell | None) -> Cell:
    if state_init is None:
        header.store_bit(0)
    else:
        header.store_uint(0b11, 2).store_ref(state_init.serialize())
    return header.store_maybe_ref(body).end_cell()


def _order_v4(until: int, seqno: int, message: Cell) -> Cell:
    order = begin_cell().store_uint(WALLET_ID, 32).store_uint(until, 32).store_uint(seqno, 32)
    order.store_uint(0, 8).store_uint(PAY_FEES_SEPARATELY | IGNORE_ERRORS, 8)
    return order.store_ref(message).end_cell()


def _order_v5(until: int, seqno: int, message: Cell) -> Cell:
    """External signed request: a list of one action, no other actions."""
    action = begin_cell().store_ref(begin_cell().end_cell()).store_uint(SEND_ACTION, 32)
    action.store_uint(PAY_FEES_SEPARATELY | IGNORE_ERRORS, 8).store_ref(message)
    order = begin_cell().store_uint(V5_SIGNED, 32).store_uint(V5_WALLET_ID, 32)
    order.store_uint(until, 32).store_uint(seqno, 32)
    return order.store_maybe_ref(action.end_cell()).store_bit(0).end_cell()


def _init_v5(public_key: bytes) -> StateInit:
    data = begin_cell().store_bit(1).store_uint(0, 32).store_uint(V5_WALLET_ID, 32)
    data.store_bytes(public_key).store_bit(0)
    return StateInit(code=cell_from_boc(V5R1_BOC), data=data.end_cell())


def _init_v4(public_key: bytes) -> StateInit:
    code = Cell.one_from_boc(WalletV4ContractR2(public_key=public_key, private_key=b"", wc=0).code)
    data = begin_cell().store_uint(0, 32).store_uint(WALLET_ID, 32).store_bytes(public_key)
    return StateInit(code=code, data=data.store_bit(0).end_cell())


_INITS = {V4R2: _init_v4, V5R1: _init_v5}
_ORDERS = {V4R2: _order_v4, V5R1: _order_v5}
