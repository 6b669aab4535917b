"""Vendors' collateral over the network: Intel's PCS or a PCCS, AMD's KDS, NVIDIA's RIM
and OCSP services.

What comes back is unverified and stays so: the verifier checks every signature. What is not
even of the right form is named here, with its URL. A part that a service does not have is
noted, and the others are fetched; a service that fails ends the fetch.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any
from urllib.parse import quote, unquote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from attestation.errors import NotThere, ParseError, Unavailable
from attestation.formats.collateral import MAX_PART_BYTES, Collateral, FetchedAnswer, Fetcher
from attestation.net.error_text import answer_summary, redacted_url
from attestation.net.http import Answer, Http
from attestation.net.retry import with_retries
from attestation.net.route import Route
from attestation.net.timing import Deadlines
from attestation.net.url import checked_url
from attestation.nvidia.ocsp import part_name
from attestation.vendors import crl

DEADLINES = Deadlines(connect=5, head=15, whole=60, idle=15)
TRIES = 3
MAX_CHAIN_BYTES = 64 * 1024
OCSP = "application/ocsp-request"


@dataclass(frozen=True)
class Services:
    """Where each vendor answers; a PCCS or a mirror may stand in for any of them."""

    intel: str = "https://api.trustedservices.intel.com"
    intel_root_crl: str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
    amd: str = "https://kdsintf.amd.com"
    nvidia_rim: str = "https://rim.attestation.nvidia.com"
    nvidia_ocsp: str = "https://ocsp.ndis.nvidia.com"

    def __post_init__(self) -> None:
        """Raises UsageError for what is no http(s) URL."""
        for part in fields(self):
            checked_url(getattr(self, part.name), name=part.name.replace("_", "-"))


class HttpFetcher:
    """Fetcher over attestation.net.http; asks again only where the answer may change."""

    def __init__(
        self, deadlines: Deadlines = DEADLINES, *, route: Route | None = None, tries: int = TRIES
    ) -> None:
        self._http, self._tries = Http(deadlines, route=route), tries

    def get(self, url: str, *, limit: int) -> FetchedAnswer:
        """Raises NotThere or Unavailable."""
        return self._fetch(lambda: self._http.get(url, limit=limit))

    def post(self, url: str, body: bytes, *, media_type: str, limit: int) -> FetchedAnswer:
        """The same for a POST that changes nothing."""
        return self._fetch(lambda: self._http.post(url, body, limit=limit, media_type=media_type))

    def _fetch(self, ask: Callable[[], Answer]) -> FetchedAnswer:
        answer = with_retries(ask, tries=self._tries)
        return FetchedAnswer(answer.body, answer.headers)


@dataclass(frozen=True)
class Vendors:
    """The vendors' services, and what they turned out not to have.

    `missing`: a part's name, and the service's answer in words. Every method returns parts by
    their names in a Collateral; each raises Unavailable, and ParseError for what is not even of
    the right form.
    """

    fetcher: Fetcher
    services: Services
    missing: dict[str, str] = field(default_factory=dict)

    def intel(self, fmspc: bytes, ca: str) -> dict[str, bytes]:
        """TCB info, QE identity and CRLs of TDX for one FMSPC (6 bytes); `ca` is "platform" or
        "processor". Intel PCS API v4."""
        base = self.services.intel.rstrip("/")
        tdx, sgx = f"{base}/tdx/certification/v4", f"{base}/sgx/certification/v4"
        parts: dict[str, bytes] = {}
        for name, url, header in (
            ("tcb_info", f"{tdx}/tcb?fmspc={fmspc.hex()}", "tcb-info-issuer-chain"),
            ("qe_identity", f"{tdx}/qe/identity", "sgx-enclave-identity-issuer-chain"),
            ("pck_crl", f"{sgx}/pckcrl?ca={quote(ca)}&encoding=der", "sgx-pck-crl-issuer-chain"),
            ("root_crl", self.services.intel_root_crl, ""),
        ):
            answer = self._get(f"intel/{name}", url)
            if answer is None:
                continue
            read = _crl if name.endswith("_crl") else _json
            parts[f"intel/{name}"] = read(answer, f"intel/{name}", url)
            if header:
                parts[f"intel/{name}_chain"] = _chain(answer, header, url)
        return parts

    def amd(self, family: str) -> dict[str, bytes]:
        """The family's CRL. AMD KDS 57230."""
        name, base = f"amd/crl/{family}", self.services.amd.rstrip("/")
        url = f"{base}/vcek/v1/{quote(family)}/crl"
        answer = self._get(name, url)
        return {} if answer is None else {name: _crl(answer, name, url)}

    def nvidia_rims(self, ids: Iterable[str]) -> dict[str, bytes]:
        """RIMs by their ids."""
        parts, base = {}, self.services.nvidia_rim.rstrip("/")
        for rim in ids:
            name, url = f"nvidia/rim/{rim}", f"{base}/v1/rim/{quote(rim)}"
            answer = self._get(name, url, limit=2 * MAX_PART_BYTES)
            if answer is not None:
                parts[name] = _rim(answer, rim, url)
        return parts

    def nvidia_ocsp(
        self, pairs: Iterable[tuple[x509.Certificate, x509.Certificate]]
    ) -> dict[str, bytes]:
        """The OCSP answer for each (certificate, issuer). RFC 6960."""
        parts, url = {}, self.services.nvidia_ocsp
        for certificate, issuer in pairs:
            asked = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA384())
            request, name = asked.build().public_bytes(Encoding.DER), part_name(certificate)
            post = partial(self.fetcher.post, url, request, media_type=OCSP, limit=MAX_PART_BYTES)
            answer = self._or_missing(name, post)
            if answer is not None:
                parts[name] = _ocsp(answer, name, url)
        return parts

    def _get(self, name: str, url: str, *, limit: int = MAX_PART_BYTES) -> FetchedAnswer | None:
        return self._or_missing(name, lambda: self.fetcher.get(url, limit=limit))

    def _or_missing(self, name: str, ask: Callable[[], FetchedAnswer]) -> FetchedAnswer | None:
        """None for what is not there, which is noted."""
        try:
            return ask()
        except NotThere as error:
            self.missing[name] = str(error)
            return None


def _chain(answer: FetchedAnswer, header: str, url: str) -> bytes:
    """PEM of an issuer chain, URL-encoded in a header."""
    value = answer.headers.get(header, "")
    if not 0 < len(value) <= MAX_CHAIN_BYTES:
        raise ParseError(f"Intel: expected the header {header} from {redacted_url(url)}, got none")
    return unquote(value).encode()


def _crl(answer: FetchedAnswer, name: str, url: str) -> bytes:
    return crl.der(answer, what=name, url=redacted_url(url))


def _json(answer: FetchedAnswer, name: str, url: str) -> bytes:
    """The bytes as they came: a signature covers them."""
    _object(answer, name, url)
    return answer.body


def _object(answer: FetchedAnswer, name: str, url: str) -> dict[str, Any]:
    try:
        value = json.loads(answer.body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        got = answer_summary(answer.headers.get("content-type", ""), answer.body)
        raise ParseError(f"{name}: expected a JSON object from {redacted_url(url)}, got {got}")
    return value


def _rim(answer: FetchedAnswer, rim: str, url: str) -> bytes:
    """NVIDIA's service wraps the XML in JSON: {"id", "rim": base64, …}."""
    value = _object(answer, f"nvidia/rim/{rim}", url)
    if value.get("id") != rim:
        raise ParseError(f"NVIDIA: expected the RIM {rim} from {redacted_url(url)}, got another")
    try:
        return base64.b64decode(value["rim"], validate=True)
    except (ValueError, KeyError, TypeError):
        text = f"NVIDIA: expected the RIM {rim} in base64 from {redacted_url(url)}"
        raise ParseError(text) from None


def _ocsp(answer: FetchedAnswer, name: str, url: str) -> bytes:
    """An answer that says nothing (tryLater, unauthorized, …) is not kept (RFC 6960 §4.2.1)."""
    try:
        status = ocsp.load_der_ocsp_response(answer.body).response_status
    except ValueError:
        got = answer_summary(answer.headers.get("content-type", ""), answer.body)
        raise ParseError(
            f"{name}: expected an OCSP answer from {redacted_url(url)}, got {got}"
        ) from None
    if status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        said = status.name.lower()
        raise Unavailable(f"{name}: {redacted_url(url)} answers {said}", again=said == "try_later")
    return answer.body


def together(*parts: dict[str, bytes]) -> Collateral:
    """All parts as one set. Raises ParseError."""
    return Collateral({name: data for some in parts for name, data in some.items()})
