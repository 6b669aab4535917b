"""tonutils against a toncenter-v2 endpoint: deploy, transfer, get method, history.

`python tonutils_client.py URL SEED RECEIVER VERSION` prints one line of JSON. Runs in an
environment of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys

from ton_core import NetworkGlobalID, PrivateKey
from tonutils.clients import ToncenterClient
from tonutils.contracts import WalletV4R2, WalletV5R1


async def main(url: str, seed: str, receiver: str, version: str) -> None:
    base = url.removesuffix("/api/v2")
    client = ToncenterClient(network=NetworkGlobalID.MAINNET, base_url=base)
    await client.connect()
    kind = {"v4r2": WalletV4R2, "v5r1": WalletV5R1}[version]
    wallet = kind.from_private_key(client, PrivateKey(bytes.fromhex(seed)))
    await wallet.transfer(destination=receiver, amount=500_000_000, body="hello", bounce=False)
    for _ in range(150):
        await wallet.refresh()
        if wallet.is_active:
            break
        await asyncio.sleep(0.1)
    address = wallet.address.to_str()
    seqno = await client.run_get_method(address=address, method_name="seqno")
    history = await client.get_transactions(address=address, limit=5)
    said = {
        "address": wallet.address.to_str(is_user_friendly=False),
        "deployed": wallet.is_active,
        "seqno": int(seqno[0]),
        "history": len(history),
    }
    print(json.dumps(said))
    await client.close()


asyncio.run(main(*sys.argv[1:]))
