"""Collateral over HTTP from a local service in the vendors' own URL layouts and headers."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from click.testing import CliRunner
from cryptography.x509 import ocsp

from attestation.errors import ParseError, Unavailable
from attestation.formats.collateral import Collateral
from attestation.formats.evidence import Evidence
from attestation.trust.roots import Roots
from attestation.vendors import fetch
from attestation.vendors.collect import collect
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


def collected(world: World, vendors: Vendors, evidence: Evidence | None = None) -> Collateral:
    return collect(
        evidence or world.evidence,
        HttpFetcher(),
        services=vendors.services,
        roots=world.policy.roots,
        now=NOW,
    )


def test_what_is_fetched_is_enough_for_every_step(world: World, vendors: Vendors) -> None:
    found = collected(world, vendors)
    assert len(vendors.asked) == len(set(vendors.asked)) + 4  # five OCSP questions at one URL
    whole = dataclasses.replace(world, collateral=found)
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
    found = collect(evidence, HttpFetcher(), services=vendors.services, roots=roots, now=NOW)
    assert dict(found.parts) == vendors.parts
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
    "not found": (Unavailable, lambda p, s, h, b: (404, h, b"")),
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


def test_a_service_that_drips_is_left(
    world: World, vendors: Vendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "READ_S", 0.3)

    def slow(path: str, status: int, headers: dict[str, str], body: bytes) -> Any:
        time.sleep(1)
        return status, headers, body

    vendors.spoil = slow
    with pytest.raises(Unavailable):
        collected(world, vendors)


def test_nobody_there() -> None:
    with pytest.raises(Unavailable):
        HttpFetcher().get("http://127.0.0.1:9/", limit=10)


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
