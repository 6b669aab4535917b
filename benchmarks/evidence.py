"""Compares the verification of real evidence with other verifiers: dcap-qvl, and NVIDIA's Python
package.

It needs the evidence in the directory that UMAY_EVIDENCE names. NVIDIA's package needs old versions
of libraries, so it runs in an environment that this benchmark makes and deletes. OCSP is left out
on both sides. "Cold" means with nothing remembered; a second machine of the same kind finds what
the first one left. Times are those of the processor, and both sides take turns, so that what else
runs on the computer matters little.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import dcap_qvl

from attestation import nvidia, remembered
from attestation.formats.collateral import Collateral
from attestation.formats.evidence import GPU, Device
from attestation.platforms import tdx
from attestation.platforms.tdx import tcb
from attestation.trust.roots import PRODUCTION
from client_sdk.inspection.collateral import read_intel_bundle
from client_sdk.inspection.gpu import pem_certificates

EVIDENCE = Path(os.environ.get("UMAY_EVIDENCE", "../shared/evidence"))
NOW = 1_792_454_400  # 2026-10-20: collateral and both RIMs are current
RUNS = 15
PEER = "nv-local-gpu-verifier==2.7.3"
QUOTE = "tdx_quote/tdx-quote-v4-phala-network-tdx_quote-f1c85033.bin", NOW
PAIR = (
    ("tdx_quote/tdx-quote-v4-dstack-tee-quote-report-cbdb5b2f.bin", 1_771_977_600),
    ("tdx_quote/tdx-quote-v5-google-quote_v5_sample-cf77a6e9.bin", 1_771_977_600),
)
"""Quotes of two processors (PPID) with one FMSPC; 2026-02-25, when their collateral is current."""
COLLATERAL = {
    NOW: "collateral_bundle/b0c06f000000-tdx-2026-10-08.json",
    PAIR[0][1]: "collateral_bundle/90c06f000000-tdx-2026-02-18.json",
}
REPORT = "hopper-nvtrust-550.90.07"
RIMS = (
    "nvidia_rim/nvat-NV_GPU_DRIVER_GH100_550.144.03.xml",
    "nvidia_rim/nvat-switchVBIOSRim_NV_SWITCH_BIOS_5612_0002_890_9610550001.xml",
)
SET = "nvidia_evidence_json/hopper-nvtrust-590.12-ppcie.json"


def run() -> Iterator[dict[str, Any]]:
    if not EVIDENCE.exists():
        sys.stderr.write(
            f"evidence: expected a directory with hardware evidence at {EVIDENCE}, found none; "
            "name it in the environment variable UMAY_EVIDENCE\n"
        )
        return
    with _nvidia() as nvidia_takes:
        yield from _rows(nvidia_takes)


def _rows(nvidia_takes: Callable[[str], float]) -> Iterator[dict[str, Any]]:
    quote = _dcap_qvl()
    devices, documents = _devices(), [_read(name) for name in RIMS]
    one = [(_device("nvidia_gpu_report", REPORT), _nonce(REPORT))]

    def gpu() -> float:
        return nvidia_takes("report")

    def rim() -> float:
        return nvidia_takes("rim")

    yield _beside("verify-tdx-quote", _cold(_tdx), quote, "dcap-qvl")
    yield _beside("verify-gpu-report", _cold(lambda: _gpus(one, [])), gpu, PEER)
    yield _beside("verify-rim", _cold(lambda: _gpus([], documents[:1])), rim, PEER)
    whole, both = _cold(lambda: (_tdx(), _gpus(one, documents))), f"dcap-qvl and {PEER}"
    yield _beside("verify-tdx-1-gpu-2-rims", whole, lambda: quote() + gpu() + rim() + rim(), both)
    yield from _second(devices, documents)
    machine = _cold(lambda: (_tdx(), _gpus(devices, documents)))
    yield _beside("verify-tdx-8-gpus", machine, lambda: quote() + 8 * (gpu() + 2 * rim()), both)


def _second(
    devices: list[tuple[Device, bytes]], documents: list[bytes]
) -> Iterator[dict[str, Any]]:
    """A second machine after a first one: another processor and another GPU of the same kind."""

    def first() -> None:
        _tdx(PAIR[0])
        _gpus(devices[:1], documents)

    second = _cold(lambda: (_tdx(PAIR[1]), _gpus(devices[1:2], documents)), before=first)
    yield _beside("verify-second-machine", second, _cold(first), "the first machine")
    quote = _cold(lambda: _tdx(PAIR[1]), before=first)
    yield _beside("verify-second-tdx-quote", quote, _dcap_qvl(PAIR[1]), "dcap-qvl")


def _tdx(quote: tuple[str, int] = QUOTE) -> None:
    name, now = quote
    data = _read(name)
    parsed = tdx.parse_quote(data)
    signer = tdx.check_signature(parsed, roots=PRODUCTION, now=now)
    tdx.check_attributes(parsed)
    tdx.check_tcb(data, _collateral(now), root_der=signer.root_der, now=now)


def _gpus(devices: list[tuple[Device, bytes]], documents: list[bytes]) -> None:
    for device, nonce in devices:
        nvidia.check_device(device, nonce=nonce, roots=PRODUCTION, now=NOW)
    for _ in devices or [None]:
        for document in documents:
            nvidia.read_rim(document, pinned=PRODUCTION.nvidia_rim, now=NOW)


def _devices() -> list[tuple[Device, bytes]]:
    """The eight GPUs of one machine, each with the nonce that it answers."""
    return [
        (
            Device(
                GPU,
                base64.b64decode(item["evidence"]),
                pem_certificates(base64.b64decode(item["certificate"])),
            ),
            bytes.fromhex(item["nonce"]),
        )
        for item in json.loads(_read(SET))
    ]


def _device(kind: str, name: str) -> Device:
    chain = pem_certificates(_read(f"nvidia_cert_chain/{name}.pem"))
    return Device(GPU, _read(f"{kind}/{name}.bin"), chain)


def _nonce(name: str) -> bytes:
    return nvidia.parse_report(_read(f"nvidia_gpu_report/{name}.bin")).nonce


def _dcap_qvl(quote: tuple[str, int] = QUOTE) -> Callable[[], float]:
    """Times the library dcap-qvl alone on the same quote and collateral, in milliseconds."""
    name, now = quote
    data, parts = _read(name), dict(_collateral(now).parts)
    root = tdx.check_signature(tdx.parse_quote(data), roots=PRODUCTION, now=now).root_der
    material = tcb._material(parts)
    return lambda: _ms(lambda: dcap_qvl.verify_with_root_ca(data, material, root, now))


@contextmanager
def _nvidia() -> Iterator[Callable[[str], float]]:
    """Times NVIDIA's package on a "report" or a "rim", in milliseconds."""
    with tempfile.TemporaryDirectory() as directory:
        python = f"{directory}/bin/python"
        for command in (
            [sys.executable, "-m", "venv", directory],
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PEER],
        ):
            subprocess.run(command, check=True, capture_output=True)
        script = Path(__file__).with_name("_nvidia_peer.py")
        paths = (f"nvidia_gpu_report/{REPORT}.bin", f"nvidia_cert_chain/{REPORT}.pem", RIMS[0])
        given = [str((EVIDENCE / path).absolute()) for path in paths]
        with subprocess.Popen(
            [python, str(script), *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=directory,
        ) as peer:
            yield lambda what: _asked(peer, what)
            peer.communicate()


def _asked(peer: subprocess.Popen[str], what: str) -> float:
    assert peer.stdin is not None and peer.stdout is not None
    peer.stdin.write(f"{what}\n")
    return float(peer.stdout.readline())


def _cold(work: Callable[[], object], before: Callable[[], object] = int) -> Callable[[], float]:
    def once() -> float:
        remembered.forget()
        before()
        return _ms(work)

    return once


def _beside(
    bench: str, ours: Callable[[], float], theirs: Callable[[], float], peer: str
) -> dict[str, Any]:
    """Both in turns, so that what else the computer does at the moment slows down both."""
    ours(), theirs()
    our, their = map(median, zip(*((ours(), theirs()) for _ in range(RUNS)), strict=True))
    return {
        "bench": bench,
        "value": round(our, 2),
        "unit": "ms",
        "peer": f"{peer}, {their:.2f} ms",
        "ratio": round(our / their, 3),
        "n": RUNS,
    }


@functools.cache  # files are read before anything is timed
def _collateral(now: int) -> Collateral:
    return read_intel_bundle(_read(COLLATERAL[now]))


@functools.cache
def _read(name: str) -> bytes:
    return (EVIDENCE / name).read_bytes()


def _ms(work: Callable[[], object]) -> float:
    began = process_time()
    work()
    return (process_time() - began) * 1000
