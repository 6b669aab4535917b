"""A light client for TON: what the chain says, proven from one block that is trusted.

Pure verification: no socket, no clock. `check_links` leads from a trusted key block to a
later block through validator signatures, `read_account` from that block to one account.
Each module opens with the rules it checks.
"""

from contracts.light.accounts import ProvenAccount, read_account
from contracts.light.blocks import BlockId
from contracts.light.links import Walk, check_links, walk

__all__ = ["BlockId", "ProvenAccount", "Walk", "check_links", "read_account", "walk"]
