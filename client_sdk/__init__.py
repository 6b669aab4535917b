"""Private prompts: find a machine, verify it, seal to it. The public face.

    from client_sdk import connect

    with connect() as umay:
        answer = umay.chat("Good evening.")
        print(answer.text())
        print(answer.receipt)

`AsyncClient` is the same for asyncio, and `umay.openai()` a client of the package `openai` that
seals in this process. `connect` finds the network of `umay up` in ~/.umay, or another one in a
directory that is named. Every error is of one tree, `errors`, whose root is errors.UmayError.
Every name below is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attestation import errors
from attestation.lazy import lazy_names

if TYPE_CHECKING:
    from attestation.trust.policy import Policy
    from client_sdk.answer import Answer
    from client_sdk.async_client import AsyncAnswer, AsyncClient, connect_async
    from client_sdk.client import Client, connect
else:  # hidden from type checkers, who would take any name for an object
    __getattr__ = lazy_names(
        __name__,
        {
            "Answer": "client_sdk.answer",
            "AsyncAnswer": "client_sdk.async_client",
            "AsyncClient": "client_sdk.async_client",
            "Client": "client_sdk.client",
            "Policy": "attestation.trust.policy",
            "connect": "client_sdk.client",
            "connect_async": "client_sdk.async_client",
        },
    )

__all__ = [
    "Answer",
    "AsyncAnswer",
    "AsyncClient",
    "Client",
    "Policy",
    "connect",
    "connect_async",
    "errors",
]


def __dir__() -> list[str]:
    return sorted(__all__)
