"""A light client for TON: what the chain says, proven from one block that is trusted.

Verification is pure, without socket or clock: `check_links` leads from a trusted key block to
a later block through validator signatures, `check_back` to an older one, `read_account` from
a block to one account. Each of their modules opens with the rules it checks. `client` drives
them, `liteserver` and `adnl` fetch what is checked, `chain` is what commands use.
"""

from contracts.light.accounts import ProvenAccount, read_account
from contracts.light.back import check_back
from contracts.light.blocks import BlockId
from contracts.light.links import Walk, check_links, walk

__all__ = ["BlockId", "ProvenAccount", "Walk", "check_back", "check_links", "read_account", "walk"]
