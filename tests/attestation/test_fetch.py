"""Collateral over HTTP from a local service in the vendors' own URL layouts and headers."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import textwrap
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from attestation.errors import ParseError, Unavailable
from attestation.formats.collateral import Collateral
from attestation.formats.evidence import Evidence
from attestation.net.timing import Deadlines
from attestation.trust.roots import Roots
from attestation.vendors.collect import CollectedCollateral, collect
from attestation.vendors.fetch import HttpFetcher, Services
from attestation.vendors.validity import window
from attestation.verify.verifier import Verifier
from client_sdk.cli import umay
from enclave.simulator.amd import SimulatedAmd
from tests.client_sdk.test_client_inspect import policy_text
from tests.helpers.world import NOW, World

CHAINS = {
    "/tdx/certification/v4/tcb": ("intel/tcb_info", "TCB-Info-Issuer-Chain"),
    "/tdx/certification/v4/qe/identity": (
        "intel/qe_identity",
        "SGX-Enclave-Identity-Issuer-Chain",
    ),
    "/sgx/certification/v4/pckcrl": ("intel/pck_crl", "SGX-PCK-CRL-Issuer-Chain"),
}


HANG = 1800  # seconds, a guard
FETCHER = HttpFetcher(Deadlines(head=2, whole=4), tries=1)


class Vendors:
    """Serves `parts` as Intel, AMD and NVIDIA would; `spoil` changes an answer."""

    def __init__(self, parts: dict[str, bytes]) -> None:
        self.parts = parts
        self.asked: list[str] = []
        self.spoil: Callable[[str, int, dict[str, str], bytes], Any] | None = None
        vendors = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                vendors.answer(self, self.path, b"")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.headers["content-type"] == "application/ocsp-request"
                vendors.answer(self, self.path, body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{self.server.server_port}"
        self.services = Services(url, f"{url}/root.der", url, url, f"{url}/ocsp")

    def answer(self, handler: BaseHTTPRequestHandler, path: str, body: bytes) -> None:
        self.asked.append(path)
        status, headers, content = self.content(path, body)
        if self.spoil:
            status, headers, content = self.spoil(path, status, headers, content)
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        try:
            handler.wfile.write(content)
        except OSError:
            pass

    def content(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        parts, url = self.parts, urlsplit(path)
        query = parse_qs(url.query)
        if url.path in CHAINS and query.get("fmspc", ["51a0ed000000"]) == ["51a0ed000000"]:
            name, header = CHAINS[url.path]
            return 200, {header: quote(parts[f"{name}_chain"].decode())}, parts[name]
        if url.path == "/root.der":
            return 200, {}, parts["intel/root_crl"]
        if found := re.fullmatch(r"/vcek/v1/(\w+)/crl", url.path):
            return 200, {}, parts[f"amd/crl/{found[1]}"]
        if found := re.fullmatch(r"/v1/rim/(.+)", url.path):
            data = parts.get(f"nvidia/rim/{found[1]}")
            if data is not None:
                wrapped = {"id": found[1], "rim": base64.b64encode(data).decode()}
                return 200, {}, json.dumps(wrapped).encode()
        if url.path == "/ocsp":
            return 200, {}, self.ocsp(body)
        return 404, {}, b""

    def ocsp(self, body: bytes) -> bytes:
        serial = ocsp.load_der_ocsp_request(body).serial_number
        for name, data in self.parts.items():
            if name.startswith("nvidia/ocsp/"):
                single = next(iter(ocsp.load_der_ocsp_response(data).responses))
                if single.serial_number == serial:
                    return data
        return b""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.start(tmp_path_factory.mktemp("simulator"))


@pytest.fixture
def vendors(world: World) -> Iterator[Vendors]:
    served = Vendors(dict(world.collateral.parts))
    yield served
    served.server.shutdown()
    served.server.server_close()


def collected(
    world: World, vendors: Vendors, evidence: Evidence | None = None
) -> CollectedCollateral:
    return collect(
        evidence or world.evidence,
        FETCHER,
        services=vendors.services,
        roots=world.policy.roots,
        now=NOW,
    )


def test_what_is_fetched_is_enough_for_every_step(world: World, vendors: Vendors) -> None:
    found = collected(world, vendors)
    assert len(vendors.asked) == len(set(vendors.asked)) + 4  # five OCSP questions at one URL
    assert not found.missing
    whole = dataclasses.replace(world, collateral=found.collateral)
    presented, anchor = whole.logged(whole.presented())
    verifier = Verifier(world.policy)
    assert verifier.verify(presented, anchor=anchor, beacon=world.beacon, now=NOW).report.ok


def test_crl_of_an_amd_family() -> None:
    amd = SimulatedAmd("Genoa")
    vendors = Vendors(amd.collateral(NOW))
    evidence = Evidence(
        platform="snp", bundle=b"b", quote=amd.report(), cpu_certificates=amd.certificates
    )
    nobody: frozenset[bytes] = frozenset()
    roots = Roots(nobody, frozenset({amd.root_spki}), nobody, nobody, True)
    found = collect(evidence, FETCHER, services=vendors.services, roots=roots, now=NOW)
    assert dict(found.collateral.parts) == vendors.parts
    vendors.server.shutdown()
    vendors.server.server_close()


def test_forged_evidence_asks_nobody(world: World, vendors: Vendors) -> None:
    forged = world.forge(other_root=True)
    with pytest.raises(Exception, match=r"wrong-root|simulated-root"):
        collected(world, vendors, forged)
    assert not vendors.asked


Spoil = Callable[[str, int, dict[str, str], bytes], tuple[int, dict[str, str], bytes]]
SPOILT: dict[str, tuple[type[Exception], Spoil]] = {
    "service down": (Unavailable, lambda p, s, h, b: (503, h, b)),
    "redirect": (Unavailable, lambda p, s, h, b: (302, {"location": "/root.der"}, b"")),
    "no issuer chain": (ParseError, lambda p, s, h, b: (s, {}, b)),
    "issuer chain of 1 MB": (
        (ParseError, Unavailable),  # type: ignore[dict-item]
        lambda p, s, h, b: (s, dict.fromkeys(h, "A" * (1 << 20)), b),
    ),
    "too long": (Unavailable, lambda p, s, h, b: (s, h, b + bytes(8 << 20))),
    "RIM that is no JSON": (ParseError, lambda p, s, h, b: (s, h, b"<x/>" if "rim" in p else b)),
    "RIM of another id": (
        ParseError,
        lambda p, s, h, b: (s, h, b.replace(b'"id": "NV', b'"id": "XX') if "rim" in p else b),
    ),
    "RIM in bad base64": (
        ParseError,
        lambda p, s, h, b: (s, h, b.replace(b'"rim": "', b'"rim": "*') if "rim" in p else b),
    ),
}


@pytest.mark.parametrize(("error", "spoil"), SPOILT.values(), ids=SPOILT)
def test_spoilt_answers(
    world: World, vendors: Vendors, error: type[Exception], spoil: Spoil
) -> None:
    vendors.spoil = spoil
    with pytest.raises(error):
        collected(world, vendors)


def test_a_service_that_is_late_is_left(world: World, vendors: Vendors) -> None:
    late = threading.Event()

    def slow(path: str, status: int, headers: dict[str, str], body: bytes) -> Any:
        late.wait(HANG)
        return status, headers, body

    vendors.spoil = slow
    fetcher = HttpFetcher(Deadlines(head=0.2, whole=0.2), tries=1)
    with pytest.raises(Unavailable, match=r"within 0\.2 s"):
        fetcher.get(f"{vendors.services.intel}/root.der", limit=1000)
    late.set()


def test_nobody_there() -> None:
    with pytest.raises(Unavailable, match="refused"):
        FETCHER.get("http://127.0.0.1:9/", limit=10)


PASSING = {
    "429": (429, {}),
    "429 with a time to wait": (429, {"retry-after": "0"}),
    "502": (502, {}),
    "503": (503, {}),
    "504": (504, {}),
    "500": (500, {}),
}


@pytest.mark.parametrize(("status", "more"), PASSING.values(), ids=PASSING)
def test_what_may_pass_is_asked_for_again(
    world: World, vendors: Vendors, status: int, more: dict[str, str]
) -> None:
    told: list[str] = []

    def once(path: str, good: int, headers: dict[str, str], body: bytes) -> Any:
        told.append(path)
        return (status, more, b"") if len(told) == 1 else (good, headers, body)

    vendors.spoil = once
    got = HttpFetcher(tries=2).get(f"{vendors.services.intel}/root.der", limit=100_000)
    assert got.body == world.collateral.parts["intel/root_crl"]
    assert len(vendors.asked) == 2


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 410, 501])
def test_what_stays_so_is_asked_for_once(vendors: Vendors, status: int) -> None:
    vendors.spoil = lambda p, s, h, b: (status, {}, b"")
    with pytest.raises(Unavailable, match=str(status)):
        HttpFetcher(tries=3).get(f"{vendors.services.intel}/root.der", limit=100)
    assert len(vendors.asked) == 1


def test_a_service_that_asks_for_an_hour_is_not_asked_again(vendors: Vendors) -> None:
    vendors.spoil = lambda p, s, h, b: (429, {"retry-after": "3600"}, b"")
    with pytest.raises(Unavailable, match="wait for 3600 s") as told:
        HttpFetcher(tries=3).get(f"{vendors.services.intel}/root.der", limit=100)
    assert len(vendors.asked) == 1 and told.value.retry_after == 3600


NOT_THERE = {
    "a RIM": ("/v1/rim/", "nvidia/rim/"),
    "all OCSP answers": ("/ocsp", "nvidia/ocsp/"),
    "the TCB info": ("/tdx/certification/v4/tcb", "intel/tcb_info"),
    "the root CRL": ("/root.der", "intel/root_crl"),
}


@pytest.mark.parametrize(("path", "part"), NOT_THERE.values(), ids=NOT_THERE)
def test_of_what_a_vendor_does_not_have_the_rest_is_fetched(
    world: World, vendors: Vendors, path: str, part: str
) -> None:
    wanted = set(collected(world, vendors).collateral.parts)
    vendors.spoil = lambda p, s, h, b: (404, {}, b"") if p.startswith(path) else (s, h, b)
    found = collected(world, vendors)
    lacking = wanted - set(found.collateral.parts)
    assert lacking and all(name.startswith(part) or "ocsp" in name for name in lacking)
    assert found.missing and all(name.startswith(part) for name in found.missing)
    assert all("HTTP 404" in answer and path in answer for answer in found.missing.values())


def _hex(crl: bytes) -> bytes:
    return crl.hex().encode()


def _pem(crl: bytes) -> bytes:
    return x509.load_der_x509_crl(crl).public_bytes(Encoding.PEM)


CRL_FORMS: dict[str, Callable[[bytes], bytes]] = {
    "hex": _hex,
    "hex in capitals, with a line end": lambda crl: _hex(crl).upper() + b"\r\n",
    "hex in lines": lambda crl: "\n".join(textwrap.wrap(crl.hex(), 64)).encode(),
    "hex as a JSON string": lambda crl: b'"' + _hex(crl) + b'"',
    "PEM": _pem,
    "PEM with CRLF and words before it": lambda crl: (
        b"a CRL\r\n" + _pem(crl).replace(b"\n", b"\r\n")
    ),
    "base64": base64.b64encode,
}


@pytest.mark.parametrize("form", CRL_FORMS.values(), ids=CRL_FORMS)
def test_a_cache_may_write_its_revocation_lists_in_another_form(
    world: World, vendors: Vendors, form: Callable[[bytes], bytes]
) -> None:
    plain = collected(world, vendors)
    vendors.spoil = lambda p, s, h, b: (s, h, form(b) if "crl" in p or "root" in p else b)
    assert collected(world, vendors) == plain


NO_CRL: dict[str, Callable[[bytes], bytes]] = {
    "a page": lambda crl: b"<html><title>Log in</title></html>",
    "JSON": lambda crl: b'{"error": "no such ca"}',
    "empty": lambda crl: b"",
    "hex of something else": lambda crl: b"00" * 40,
    "hex with a digit too few": lambda crl: _hex(crl)[:-1],
    "PEM of nothing": lambda crl: b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
    "DER and a byte more": lambda crl: crl + b"\0",
    "DER cut": lambda crl: crl[:-1],
}


@pytest.mark.parametrize("form", NO_CRL.values(), ids=NO_CRL)
def test_what_is_no_revocation_list_is_named_with_its_address(
    world: World, vendors: Vendors, form: Callable[[bytes], bytes]
) -> None:
    vendors.spoil = lambda p, s, h, b: (s, h, form(b) if "pckcrl" in p else b)
    with pytest.raises((ParseError, Unavailable), match="/sgx/certification/v4/pckcrl"):
        collected(world, vendors)


PORTALS = {
    "a page": (200, {"content-type": "text/html"}, b"<!DOCTYPE html><title>Login</title>", "Login"),
    "a page without a type": (200, {}, b"  <HTML><body>Pay here</body>", "Pay here"),
    "a redirect": (302, {"location": "https://portal.example/?s=1"}, b"", "https://portal.example"),
    "a page under 403": (403, {"content-type": "text/html"}, b"<html>Blocked by us", "Blocked"),
    "text": (200, {"content-type": "text/plain"}, b"please log in", "please log in"),
    "nested brackets": (200, {}, b"[" * 200_000, "expected a JSON object"),
}


@pytest.mark.parametrize("name", PORTALS)
def test_a_portal_in_between_is_told_with_the_address_and_what_came(
    world: World, vendors: Vendors, name: str
) -> None:
    status, headers, body, words = PORTALS[name]
    vendors.spoil = lambda p, s, h, b: (status, headers, body)
    with pytest.raises((Unavailable, ParseError)) as told:
        collected(world, vendors)
    assert f"{vendors.services.intel}/tdx/certification/v4/tcb" in str(told.value)
    assert words in str(told.value) and len(str(told.value)) < 400


NO_OCSP = {"empty": b"", "a page": b"<html>", "tryLater": b"\x30\x03\x0a\x01\x03"}


@pytest.mark.parametrize("name", NO_OCSP)
def test_what_is_no_ocsp_answer_is_named(world: World, vendors: Vendors, name: str) -> None:
    vendors.spoil = lambda p, s, h, b: (s, h, NO_OCSP[name] if "ocsp" in p else b)
    with pytest.raises((ParseError, Unavailable), match="/ocsp"):
        collected(world, vendors)


def test_every_part_has_dates(world: World) -> None:
    for name, data in world.collateral.parts.items():
        start, end = window(name, data)
        assert start <= NOW < end, name
    for name, data in (("intel/tcb_info", b"{}"), ("other/thing", b""), ("nvidia/rim/x", b"<a/>")):
        with pytest.raises(ParseError):
            window(name, data)


def test_commands(world: World, vendors: Vendors, tmp_path: Path) -> None:
    evidence, out, policy = (tmp_path / name for name in ("e", "c", "p.toml"))
    evidence.write_bytes(world.evidence.to_bytes())
    policy.write_text(policy_text(world))
    named = vendors.services
    arguments = ["audit", "fetch", str(evidence), "--out", str(out), "--policy", str(policy)]
    arguments += ["--intel", named.intel, "--intel-root-crl", named.intel_root_crl]
    arguments += ["--nvidia-rim", named.nvidia_rim, "--nvidia-ocsp", named.nvidia_ocsp]
    run = CliRunner().invoke(umay, arguments, standalone_mode=False)
    assert run.exit_code == 0, run.output or run.exception
    shown = CliRunner().invoke(umay, ["audit", "collateral", str(out), "--json", "--at", str(NOW)])
    assert shown.exit_code == 0
    assert len(json.loads(shown.output)["parts"]) == len(
        Collateral.from_bytes(out.read_bytes()).parts
    )
    late = CliRunner().invoke(umay, ["audit", "collateral", str(out), "--at", str(NOW + 10**9)])
    assert late.exit_code == 4 and "expired" in late.output
