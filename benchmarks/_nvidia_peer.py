"""Measures NVIDIA's Python verifier on one report and one RIM, in an environment of its own.

`python _nvidia_peer.py REPORT CHAIN RIM` reads lines, each "report" or "rim", and answers each with
the milliseconds that one verification took. It calls the package's own functions, without OCSP,
which needs NVIDIA's service.
"""

import io
import logging
import sys
from contextlib import redirect_stdout
from pathlib import Path
from time import process_time

logging.disable(logging.CRITICAL)

with redirect_stdout(io.StringIO()):
    from OpenSSL import crypto
    from verifier.attestation import AttestationReport
    from verifier.cc_admin_utils import CcAdminUtils
    from verifier.config import HopperSettings
    from verifier.rim import RIM


def timed(work):
    began = process_time()
    result = work()
    return (process_time() - began) * 1000, result


def chain(path):
    parts = Path(path).read_bytes().split(b"-----END CERTIFICATE-----")
    pems = [part + b"-----END CERTIFICATE-----\n" for part in parts if b"BEGIN" in part]
    return [crypto.load_certificate(crypto.FILETYPE_PEM, pem.strip()) for pem in pems]


def main():
    report_path, chain_path, rim_path = sys.argv[1:4]
    data, rim = Path(report_path).read_bytes(), Path(rim_path).read_text()
    settings = HopperSettings()
    mode = settings.Certificate_Chain_Verification_Mode

    def gpu():
        parsed = AttestationReport(data, settings)
        certificates = chain(chain_path)
        good = CcAdminUtils.verify_certificate_chain(certificates, settings, mode.GPU_ATTESTATION)
        leaf = certificates[0].to_cryptography()
        signed = parsed.verify_signature(leaf, settings.signature_length, settings.HashFunction)
        return good[0] and signed

    def manifest():
        found = RIM("driver", settings, content=rim)
        found.validate_schema()
        # As in NVIDIA's own code, the pinned root replaces the root in the file.
        certificates = [*found.extract_certificates(), *chain(settings.RIM_ROOT_CERT)]
        good = CcAdminUtils.verify_certificate_chain(certificates, settings, mode.DRIVER_RIM_CERT)
        return good[0] and found.verify_signature(settings)

    works = {"report": gpu, "rim": manifest}
    for line in sys.stdin:
        with redirect_stdout(io.StringIO()):
            taken, good = timed(works[line.strip()])
        if not good:
            raise SystemExit(f"NVIDIA's verifier refused the {line.strip()}")
        print(taken, flush=True)


main()
