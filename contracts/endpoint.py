"""The chain as a command's --chain names it.

An API key is read from the environment, so that it stands in no process list and no file of
ours: UMAY_TONCENTER_KEY, sent to the endpoint that --chain names and to nobody else.
"""

from __future__ import annotations

import os

from contracts.chain import ReadOnlyChain, ToncenterV2

API_KEY = "UMAY_TONCENTER_KEY"


def reading(chain: str) -> ReadOnlyChain:
    """For whoever only reads: an endpoint's word, or `lite:…`, where every answer is proven.

    Raises UsageError for anything else, and for a config that is none.
    """
    if chain.startswith("lite:"):
        from contracts.light.chain import open_lite

        return open_lite(chain)
    return toncenter(chain)


def toncenter(url: str) -> ToncenterV2:
    """For whoever sends too. Raises UsageError for what is no URL."""
    return ToncenterV2(url, api_key=os.environ.get(API_KEY))
