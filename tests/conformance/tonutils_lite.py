"""tonutils' own ADNL client and TL schemas against a lite server.

`python tonutils_lite.py PORT KEY KNOWN ACCOUNT` asks for the head, the block of number KNOWN,
its proof of the head and the account, and prints what it understood as one line of JSON. Runs
in an environment of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from ton_core import NetworkGlobalID
from tonutils.clients import LiteClient


async def main(port: int, key: str, seqno: int, account: str) -> None:
    client = LiteClient(NetworkGlobalID.TESTNET, ip="127.0.0.1", port=port, public_key=key)
    await client.connect()

    async def ask(method: str, **data: Any) -> dict[str, Any]:
        return await client.provider.send_liteserver_query(method, data=data)

    head = (await ask("getMasterchainInfo"))["last"]
    place = {"workchain": -1, "shard": -(1 << 63), "seqno": seqno}
    block = await ask("lookupBlock", mode=1, id=place, lt=None, utime=None)
    proof = await ask("getBlockProof", mode=1, known_block=block["id"], target_block=head)
    owner = {"workchain": 0, "id": account}
    state = await ask("getAccountState", id=head, account=owner)
    await client.close()
    (step,) = proof["steps"]
    said = {
        "head": head["root_hash"],
        "block": block["id"]["root_hash"],
        "to": step["to"]["root_hash"],
        "signatures": len(step["signatures"]["signatures"]),
        "shard": state["shardblk"]["seqno"],
        "state": len(state["state"]),
    }
    print(json.dumps(said))


asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]))
