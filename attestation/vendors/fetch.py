"""Vendors' collateral over the network: Intel's PCS or a PCCS, AMD's KDS, NVIDIA's RIM
and OCSP services.

What comes back is unverified and stays so: the verifier checks every signature. Answers
are bounded in bytes and time, and no redirect is followed.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from attestation.errors import ParseError, Unavailable
from attestation.formats.collateral import MAX_PART_BYTES, Collateral, Fetched, Fetcher
from attestation.nvidia.ocsp import part_name

CONNECT_S, READ_S, WHOLE_S = 5.0, 15.0, 60.0
MAX_CHAIN_BYTES = 64 * 1024


@dataclass(frozen=True)
class Services:
    """Where each vendor answers; a PCCS or a mirror may stand in for any of them."""

    intel: str = "https://api.trustedservices.intel.com"
    intel_root_crl: str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
    amd: str = "https://kdsintf.amd.com"
    nvidia_rim: str = "https://rim.attestation.nvidia.com"
    nvidia_ocsp: str = "https://ocsp.ndis.nvidia.com"


class HttpFetcher:
    """Fetcher with `requests`; the environment's proxies are not used."""

    def __init__(self) -> None:
        self._session = requests.Session()
        self._session.trust_env = False

    def get(self, url: str, *, limit: int) -> Fetched:
        return self._fetch("GET", url, None, {}, limit)

    def post(self, url: str, body: bytes, *, media_type: str, limit: int) -> Fetched:
        return self._fetch("POST", url, body, {"content-type": media_type}, limit)

    def _fetch(
        self, method: str, url: str, body: bytes | None, headers: dict[str, str], limit: int
    ) -> Fetched:
        try:
            with self._session.request(
                method,
                url,
                data=body,
                headers=headers,
                timeout=(CONNECT_S, READ_S),
                stream=True,
                allow_redirects=False,
            ) as answer:
                if answer.status_code != 200:
                    raise Unavailable(f"{url}: expected HTTP 200, got {answer.status_code}")
                content = _bounded(answer, url, limit)
        except (requests.RequestException, OSError) as error:
            raise Unavailable(f"{url}: {type(error).__name__}") from None
        return Fetched(content, {name.lower(): value for name, value in answer.headers.items()})


def intel(fetcher: Fetcher, fmspc: bytes, ca: str, *, services: Services) -> dict[str, bytes]:
    """TCB info, QE identity and CRLs of TDX for one FMSPC (6 bytes); `ca` is "platform" or
    "processor". Intel PCS API v4. Raises Unavailable or ParseError."""
    base = services.intel.rstrip("/")
    tdx = f"{base}/tdx/certification/v4"
    tcb = fetcher.get(f"{tdx}/tcb?fmspc={fmspc.hex()}", limit=MAX_PART_BYTES)
    identity = fetcher.get(f"{tdx}/qe/identity", limit=MAX_PART_BYTES)
    url = f"{base}/sgx/certification/v4/pckcrl?ca={quote(ca)}&encoding=der"
    crl = fetcher.get(url, limit=MAX_PART_BYTES)
    root_crl = fetcher.get(services.intel_root_crl, limit=MAX_PART_BYTES)
    return {
        "intel/tcb_info": tcb.body,
        "intel/tcb_info_chain": _chain(tcb, "tcb-info-issuer-chain"),
        "intel/qe_identity": identity.body,
        "intel/qe_identity_chain": _chain(identity, "sgx-enclave-identity-issuer-chain"),
        "intel/pck_crl": crl.body,
        "intel/pck_crl_chain": _chain(crl, "sgx-pck-crl-issuer-chain"),
        "intel/root_crl": root_crl.body,
    }


def amd(fetcher: Fetcher, family: str, *, services: Services) -> dict[str, bytes]:
    """The family's CRL. AMD KDS 57230. Raises Unavailable."""
    url = f"{services.amd.rstrip('/')}/vcek/v1/{quote(family)}/crl"
    return {f"amd/crl/{family}": fetcher.get(url, limit=MAX_PART_BYTES).body}


def nvidia_rims(fetcher: Fetcher, ids: Iterable[str], *, services: Services) -> dict[str, bytes]:
    """RIMs by their ids. Raises Unavailable or ParseError."""
    base = services.nvidia_rim.rstrip("/")
    parts = {}
    for name in ids:
        answer = fetcher.get(f"{base}/v1/rim/{quote(name)}", limit=2 * MAX_PART_BYTES)
        parts[f"nvidia/rim/{name}"] = _rim(answer.body, name)
    return parts


def nvidia_ocsp(
    fetcher: Fetcher,
    pairs: Iterable[tuple[x509.Certificate, x509.Certificate]],
    *,
    services: Services,
) -> dict[str, bytes]:
    """The OCSP answer for each (certificate, issuer). RFC 6960. Raises Unavailable."""
    parts = {}
    for certificate, issuer in pairs:
        builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA384())
        request = builder.build().public_bytes(Encoding.DER)
        answer = fetcher.post(
            services.nvidia_ocsp,
            request,
            media_type="application/ocsp-request",
            limit=MAX_PART_BYTES,
        )
        parts[part_name(certificate)] = answer.body
    return parts


def _chain(answer: Fetched, header: str) -> bytes:
    """PEM of an issuer chain, URL-encoded in a header."""
    value = answer.headers.get(header, "")
    if not 0 < len(value) <= MAX_CHAIN_BYTES:
        raise ParseError(f"Intel: expected the header {header}")
    return unquote(value).encode()


def _rim(body: bytes, name: str) -> bytes:
    """NVIDIA's service wraps the XML in JSON: {"id", "rim": base64, …}."""
    try:
        value = json.loads(body)
        if value["id"] != name:
            raise ParseError(f"NVIDIA: expected the RIM {name}, got another")
        return base64.b64decode(value["rim"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ParseError(f"NVIDIA: expected the RIM {name} in JSON") from None


def _bounded(answer: requests.Response, url: str, limit: int) -> bytes:
    body, until = bytearray(), time.monotonic() + WHOLE_S
    for part in answer.iter_content(1 << 16):
        body += part
        if len(body) > limit:
            raise Unavailable(f"{urlsplit(url).netloc}: expected at most {limit} bytes")
        if time.monotonic() > until:
            raise Unavailable(f"{urlsplit(url).netloc}: no whole answer in {WHOLE_S:.0f} s")
    return bytes(body)


def together(*parts: dict[str, bytes]) -> Collateral:
    """All parts as one set. Raises ParseError."""
    return Collateral({name: data for some in parts for name, data in some.items()})
