"""A light client for TON: the state of the chain, proven from one trusted block.

Verification is pure, without socket or clock: `check_links` leads from a trusted key block to
a later block through validator signatures, `check_back` leads to an older block, and
`read_account` leads from a block to one account. Each of these modules begins with the rules that
it checks. `client` combines them, `liteserver` and `adnl` fetch the answers, and commands use
`chain`.
"""

from contracts.light.accounts import ProvenAccount, read_account
from contracts.light.back import check_back
from contracts.light.blocks import BlockId
from contracts.light.links import Walk, check_links, walk

__all__ = ["BlockId", "ProvenAccount", "Walk", "check_back", "check_links", "read_account", "walk"]
