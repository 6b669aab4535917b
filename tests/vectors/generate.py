"""Makes tests/vectors/formats.json: every byte format of docs/spec/formats.md, once.

Written from the specification with cbor2 and hashlib alone, so that the vectors do not
inherit a mistake of the code they test. Run by `make vectors`.
"""

from __future__ import annotations

import hashlib
import json
import struct
from base64 import b64encode
from pathlib import Path
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

OUTPUT = Path(__file__).with_name("formats.json")
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ORIGIN = "log.example/umay"


def pattern(name: str, size: int = 32) -> bytes:
    return hashlib.shake_256(name.encode()).digest(size)


def digest(domain: str, *parts: bytes) -> bytes:
    return hashlib.sha256(domain.encode() + b"\0" + b"".join(parts)).digest()


def encode(value: Any) -> bytes:
    return cbor2.dumps(value, canonical=True)


ENGINE, PRICE = b'{"engine":"torch"}', b'{"completion":2,"prompt":1}'
HOST = b'[network]\nid = "umay-test"\n'
MODEL = [["config.json", 717, pattern("config")], ["model.safetensors", 9, pattern("weights")]]
BEACON = [4_294_967_295, pattern("beacon")]
BUNDLE = encode(
    {
        0: 1,
        1: pattern("boot", 16),
        2: [pattern("x25519", 41), pattern("x-wing", 1225)],
        3: KEY.public_key().public_bytes_raw(),
        4: digest("umay/model/v1", encode(MODEL)),
        5: digest("umay/engine/v1", ENGINE),
        6: 1,
        7: 1_790_000_000,
        8: 1_790_004_200,
        9: "umay-test",
        10: BEACON,
        11: "0:" + "ab" * 32,
        12: pattern("spki"),
        13: digest("umay/price/v1", PRICE),
        14: digest("umay/host-config/v1", HOST),
    }
)
B = hashlib.sha256(BUNDLE).digest()
DEVICES = [
    [0, b"report", [b"leaf", b"root"]],
    [1, b"switch", [b"one"]],
]
EVIDENCE = encode(
    {
        0: 1,
        1: "tdx",
        2: BUNDLE,
        3: b"quote",
        4: [],
        5: {0: b"ccel", 1: [pattern("host", 48), pattern("done", 48)]},
        6: DEVICES,
    }
)
REGISTERS = [pattern(name, 48) for name in ("mr_td", "rt_mr0", "rt_mr1", "rt_mr2")]
PARTS = {"intel/root_crl": b"crl", "nvidia/rim/NV_GPU_DRIVER_GH100_550.90.07": b"rim"}
LEAF = encode(
    {
        0: 1,
        1: 2,
        2: 17,
        3: hashlib.sha256(EVIDENCE).digest(),
        4: B,
        5: digest("umay/measurement/v1", encode(["tdx", *REGISTERS])),
        6: 0,
        7: digest(
            "umay/collateral/v1",
            encode({name: hashlib.sha256(part).digest() for name, part in PARTS.items()}),
        ),
        8: BEACON,
        9: 1,
        10: digest("umay/statement/v1", b"signed region"),
    }
)
RECEIPT = encode(
    {
        0: 1,
        1: hashlib.sha256(EVIDENCE).digest(),
        2: digest("umay/model/v1", encode(MODEL)),
        3: digest("umay/salted/v1", pattern("salt"), b"request"),
        4: digest("umay/salted/v1", pattern("salt"), b"response"),
        5: "stop",
        6: [12, 0, 34, 0],
        7: digest("umay/price/v1", PRICE),
        8: 80,
        9: 1_790_000_040,
        11: 7,
    }
)


SESSION_KEY = pattern("session key", 1233)
SESSION_LEAF = b"umay/session/v1\0" + pattern("nonce") + hashlib.sha256(SESSION_KEY).digest()
CLEAR = pattern("clear", 2263)


def gpu_evidence() -> bytes:
    parts = [struct.pack(">I", len(DEVICES))]
    for kind, report, chain in DEVICES:
        joined = b"".join(chain)
        parts += [struct.pack(">BI", kind, len(report)), report]
        parts += [struct.pack(">I", len(joined)), joined]
    return digest("umay/gpu-evidence/v1", *parts)


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def checkpoint(root: bytes, size: int) -> bytes:
    """C2SP signed-note: the body, an empty line, "— name base64(key id ‖ signature)"."""
    body = f"{ORIGIN}\n{size}\n{b64encode(root).decode()}\n"
    named = f"{ORIGIN}\n\1".encode() + KEY.public_key().public_bytes_raw()
    signed = hashlib.sha256(named).digest()[:4] + KEY.sign(body.encode())
    return f"{body}\n— {ORIGIN} {b64encode(signed).decode()}\n".encode()


def proof() -> bytes:
    """c2sp.org/tlog-proof@v1: the leaf is entry 1 of two, beside the entry "first"."""
    sibling = hashlib.sha256(b"\0first").digest()
    root = node(sibling, hashlib.sha256(b"\0" + LEAF).digest())
    lines = ["c2sp.org/tlog-proof@v1", "extra " + b64encode(LEAF).decode(), "index 1"]
    lines += [b64encode(sibling).decode(), ""]
    return ("\n".join(lines) + "\n").encode() + checkpoint(root, 2)


def vectors() -> dict[str, Any]:
    e = gpu_evidence()
    values = {
        "engine_config": ENGINE,
        "price_table": PRICE,
        "host_config": HOST,
        "key_bundle": BUNDLE,
        "evidence": EVIDENCE,
        "collateral": encode({0: 1, 1: PARTS}),
        "leaf": LEAF,
        "leaf_hash": hashlib.sha256(b"\0" + LEAF).digest(),
        "receipt": RECEIPT,
        "signed_receipt": encode([RECEIPT, KEY.sign(digest("umay/receipt/v1", RECEIPT))]),
        "tlog_proof": proof(),
        "gpu_nonce": digest("umay/gpu-nonce/v1", B),
        "gpu_evidence_digest": e,
        "report_data_binding": digest("umay/report/v1", B, e),
        "fresh_published": digest("umay/fresh/v1", b"\0", BEACON[1]),
        "fresh_session": digest("umay/fresh/v1", b"\2", pattern("root")),
        "root": pattern("root"),
        "session_request": pattern("nonce") + b"\x64\x7a",
        "session_answer": encode({0: b"quote", 1: SESSION_KEY, 2: [pattern("path")], 3: 1, 4: 2}),
        "session_leaf": SESSION_LEAF,
        "session_root": node(pattern("path"), hashlib.sha256(b"\0" + SESSION_LEAF).digest()),
        "session_clear": CLEAR,
        "session_gone": KEY.sign(digest("umay/session-gone/v1", pattern("evidence"), CLEAR)),
        "session_gone_evidence": pattern("evidence"),
        "log_key": KEY.public_key().public_bytes_raw(),
        "nonce": pattern("nonce"),
        "salt": pattern("salt"),
    }
    registers = {"registers": [register.hex() for register in REGISTERS], "origin": ORIGIN}
    model = {"model": [[name, size, found.hex()] for name, size, found in MODEL]}
    return {**{name: value.hex() for name, value in values.items()}, **registers, **model}


if __name__ == "__main__":
    OUTPUT.write_text(json.dumps(vectors(), indent=1) + "\n")
