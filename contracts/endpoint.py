"""Opens the chain that the option --chain of a command names.

An API key is read from the environment variable UMAY_TONCENTER_KEY, so that it is in no process
list and in no file of ours. It is sent only to the endpoint that --chain names.
"""

from __future__ import annotations

import os

from contracts.chain import ReadOnlyChain, ToncenterV2

API_KEY = "UMAY_TONCENTER_KEY"


def reading(chain: str) -> ReadOnlyChain:
    """The chain for a reader: a toncenter v2 URL, or `lite:…`, where every answer is proven.

    Raises UsageError for anything else, and for a file that is not a TON global config.
    """
    if chain.startswith("lite:"):
        from contracts.light.chain import open_lite

        return open_lite(chain)
    return toncenter(chain)


def toncenter(url: str) -> ToncenterV2:
    """The chain for a sender. Raises UsageError unless `url` is an http(s) URL."""
    return ToncenterV2(url, api_key=os.environ.get(API_KEY))
