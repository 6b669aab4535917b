"""What each vendor's certificates must be: one row per kind of chain.

Written from the vendors' specifications and compared with their own certificates: Intel
SGX PCK Certificate and CRL Profile; AMD 57230 (VCEK) and 56860; NVIDIA's published device and RIM
chains; RFC 6960 §4.2.2.2 for responders.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from attestation.errors import NotAuthentic, Refused, VerificationError
from attestation.x509.certificate import common_name

CONSTRAINTS, USAGE = ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE
_JUDGED = frozenset({CONSTRAINTS, USAGE})
_JUDGED_OF_RESPONDERS = _JUDGED | {ExtensionOID.EXTENDED_KEY_USAGE, ExtensionOID.OCSP_NO_CHECK}


@dataclass(frozen=True)
class Role:
    """A place in a chain. `keys` are those of `certificate.key_kind`; `signs` is the bit of key
    usage that this place needs; `must_have` lists extensions that may not be absent: an absent
    one otherwise means no authority, or no limit on usage. `responder`: it answers OCSP."""

    keys: frozenset[str]
    signs: Literal["digital_signature", "key_cert_sign", "crl_sign"]
    authority: bool = False
    must_have: frozenset[x509.ObjectIdentifier] = frozenset({CONSTRAINTS, USAGE})
    responder: bool = False

    @property
    def judged(self) -> frozenset[x509.ObjectIdentifier]:
        """Extensions that may be critical; any other refuses (RFC 5280 §4.2)."""
        return _JUDGED_OF_RESPONDERS if self.responder else _JUDGED


@dataclass(frozen=True)
class Profile:
    """`first` is the role of a chain's first certificate, `above` that of all others.

    `own` counts the certificates at the beginning that belong to one machine alone.
    `algorithms` are those of `certificate.algorithm`. Errors carry `step`, and `prefix` before
    their code; one about dates is of kind `outdated`, with a code that begins with `dated`.
    """

    step: str
    first: Role
    above: Role
    algorithms: frozenset[str]
    prefix: str = ""
    dated: str = "certificate"
    outdated: type[VerificationError] = NotAuthentic
    own: int = 1

    def broken(
        self, code: str, message: str, certificate: x509.Certificate | None = None
    ) -> NotAuthentic:
        """An error of this profile; `certificate` is the one that it is about."""
        name = "" if certificate is None else f"{common_name(certificate)!r}: "
        return NotAuthentic(self.step, self.prefix + code, name + message)


def _issues_crls(profile: Profile, step: str) -> Profile:
    return replace(profile, step=step, first=replace(profile.above, signs="crl_sign"))


_P256, _P384, _RSA = (frozenset({kind}) for kind in ("P-256", "P-384", "RSA"))
_SHA2 = frozenset(f"ECDSA with SHA-{bits}" for bits in (256, 384, 512))

INTEL = Profile(
    step="cpu-signature",
    first=Role(_P256, "digital_signature"),
    above=Role(_P256, "key_cert_sign", authority=True),
    algorithms=frozenset({"ECDSA with SHA-256"}),
)
"""PCK and TCB-signing certificates, and what stands above them."""
INTEL_CRL = _issues_crls(INTEL, "cpu-tcb")

AMD = Profile(
    step="cpu-signature",
    # A VCEK or VLEK has neither basic constraints nor key usage.
    first=Role(_P384, "digital_signature", must_have=frozenset()),
    above=Role(_RSA, "key_cert_sign", authority=True),
    algorithms=frozenset({"RSA-PSS with SHA-384"}),
)
"""VCEK or VLEK, ASK or ASVK, ARK."""
AMD_CRL = _issues_crls(AMD, "cpu-tcb")

NVIDIA = Profile(
    step="gpu",
    # The leaf that a device makes for itself at each boot has no basic constraints.
    first=Role(_P384, "digital_signature", must_have=frozenset({USAGE})),
    above=Role(_P384, "key_cert_sign", authority=True),
    algorithms=frozenset({"ECDSA with SHA-384"}),
    own=2,
)
"""The chain of a GPU or switch."""
NVIDIA_RIM = replace(NVIDIA, prefix="rim-", dated="rim", outdated=Refused)
"""Who signs a RIM. One that is out of date is authentic still: the policy's affair."""
NVIDIA_OCSP = Profile(
    step="gpu",
    first=Role(
        frozenset({"P-256", "P-384", "P-521"}),
        "digital_signature",
        must_have=frozenset(),
        responder=True,
    ),
    above=NVIDIA.above,
    algorithms=_SHA2,
    prefix="ocsp-",
    dated="ocsp-responder",
)
"""A responder that an issuer named for its OCSP answers."""

SELF_SIGNED = frozenset(
    bytes.fromhex(digest)
    for digest in (
        "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3",  # Intel
        "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48",  # NVIDIA devices
        "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1",  # NVIDIA RIMs
    )
)
"""SHA-256 of root certificates, whole, as their vendors publish them. That each signs itself was
verified when it was entered here, and is in every run of the tests. This says nothing of trust:
which keys are accepted stands in `attestation.trust.roots`."""
