"""Oblivious HTTP (RFC 9458) and its chunked form: the public names of both ends.

ring = KeyRing()                                       # enclave
epoch = ring.open_epoch()
request = ClientRequest.to(enclave, pq="required", now=now)   # client
body = request.seal(padding.pad_request(bhttp.encode_request(...), limit=...))
incoming = ring.request(chunked=True)                  # enclave
message = bhttp.decode_request(incoming.open(body))
writer = incoming.response()
wire = writer.write(encoder.head(200)) + ... + writer.finish()
response = request.response()                          # client
plaintext = b"".join(response.push(wire)) + response.finish()
"""

from __future__ import annotations

from attestation.channel.chunks import Writer
from attestation.channel.client import ClientRequest, ClientResponse
from attestation.channel.key_config import KeyConfig, choose, encode_key_list, parse_key_list
from attestation.channel.replay import ReplayGuard
from attestation.channel.server import Epoch, KeyRing, ServerRequest

__all__ = [
    "ClientRequest",
    "ClientResponse",
    "Epoch",
    "KeyConfig",
    "KeyRing",
    "ReplayGuard",
    "ServerRequest",
    "Writer",
    "choose",
    "encode_key_list",
    "parse_key_list",
]
