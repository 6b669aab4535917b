"""Oblivious HTTP (RFC 9458) and its chunked form: `client` seals and opens, `server` answers.

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
