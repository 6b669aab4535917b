"""One walk up a certificate chain, for every vendor, by its profile (RFC 5280 §6.1).

The chain comes with the evidence and is worth nothing but for its last key:

 1 root        the SHA-256 of its key is pinned
 2 each one    kind of key; no unknown critical extension; authority or not, and over how many;
               what its key may sign
 3 each link   algorithm, names, signature; the root signs itself
 4 each one    its dates
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import TypeVar, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from attestation.errors import NotAuthentic, ParseError
from attestation.formats.dates import lapse
from attestation.formats.digests import sha256
from attestation.remembered import Same, remembered
from attestation.x509.certificate import (
    algorithm,
    common_name,
    fields,
    key_kind,
    load_certificate,
    window,
)
from attestation.x509.profile import CONSTRAINTS, SELF_SIGNED, USAGE, Profile, Role

T = TypeVar("T", bound=x509.ExtensionType)
Chain = tuple[x509.Certificate, ...]


def load_chain(ders: Sequence[bytes], profile: Profile, *, length: int | None = None) -> Chain:
    """DER, leaf first. Raises NotAuthentic("bad-chain" or "bad-certificate")."""
    if length is not None and len(ders) != length:
        raise profile.broken(
            "bad-chain", f"certificate chain: expected {length} certificates, got {len(ders)}"
        )
    try:
        return tuple(load_certificate(der) for der in ders)
    except ParseError as error:
        raise profile.broken("bad-certificate", str(error)) from None


def check_chain(chain: Chain, profile: Profile, *, pinned: Collection[bytes], now: int) -> None:
    """A chain leads to a pinned root, and every certificate is what the profile says and valid at
    `now` (RFC 5280 §6.1; the vendors' profiles: docs/spec/x509.md).

    `pinned` are SHA-256 digests (32 bytes), `now` is Unix seconds.

    Raises NotAuthentic, or what the profile says of dates.
    """
    check_links(chain, profile, pinned=pinned)
    check_dates(chain, profile, now=now)


def check_links(chain: Chain, profile: Profile, *, pinned: Collection[bytes]) -> None:
    """All of `check_chain` that does not depend on the time."""
    check_root(chain[-1], profile, pinned=pinned)
    own = min(profile.own, len(chain) - 1)
    for depth, certificate in enumerate(chain[:own]):
        check_role(certificate, profile, depth)
    _check_authorities(chain[own:], profile, own)
    for certificate, issuer in reversed([*itertools.pairwise(chain[: own + 1])]):
        _check_issued(certificate, issuer, profile)


@remembered(
    most=64,  # each vendor has a few
    key=lambda chain, profile, below: (*map(Same, chain), Same(profile), below),
)
def _check_authorities(chain: Chain, profile: Profile, below: int) -> None:
    """The upper end of a chain, with `below` certificates under it. Only one whose root is pinned
    comes here, so that what is kept was issued by a vendor."""
    for depth, certificate in enumerate(chain, below):
        check_role(certificate, profile, depth)
    for certificate, issuer in reversed([*itertools.pairwise((*chain, chain[-1]))]):
        _check_issued(certificate, issuer, profile)


def check_link(certificate: x509.Certificate, issuer: x509.Certificate, profile: Profile) -> None:
    """One certificate under an authority whose own chain has been checked, but for its dates."""
    check_role(certificate, profile, 0)
    _check_issued(certificate, issuer, profile)


def check_dates(chain: Chain, profile: Profile, *, now: int) -> None:
    """Every certificate is valid at `now` (Unix seconds), by its notBefore and notAfter (RFC 5280
    §4.1.2.5). Raises what the profile says of dates."""
    for certificate in chain:
        if found := lapse(window(certificate), now):
            word, text = found
            text = f"{common_name(certificate)!r}: {text}"
            raise profile.outdated(profile.step, f"{profile.dated}-{word}", text)


def check_role(certificate: x509.Certificate, profile: Profile, depth: int) -> None:
    """Key, extensions, authority and key usage of a certificate fit its place (RFC 5280 §4.2; the
    profile). `depth` 0 is the chain's first."""
    role = profile.above if depth else profile.first
    if (kind := key_kind(certificate)) not in role.keys:
        expected = " or ".join(sorted(role.keys))
        text = f"expected a {expected} key, got {kind}"
        raise profile.broken("wrong-curve", text, certificate)
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in role.judged:
            text = f"expected no unknown critical extension, got {extension.oid.dotted_string}"
            raise profile.broken("unknown-extension", text, certificate)
    _check_authority(certificate, role, profile, depth)
    _check_usage(certificate, role, profile)


def check_root(root: x509.Certificate, profile: Profile, *, pinned: Collection[bytes]) -> None:
    """Raises NotAuthentic unless the SHA-256 of the root's key is pinned (docs/spec/x509.md)."""
    got = sha256(fields(root.public_bytes(Encoding.DER))[2])
    if got in pinned:
        return
    if "SIMULATED" in common_name(root):
        text = (
            "root certificate: expected a vendor's root, got a simulated machine's; only a policy "
        )
        text += "with [unsafe] simulated_roots accepts it"
        raise profile.broken("simulated-root", text)
    expected = ", ".join(sorted(digest.hex() for digest in pinned)) or "none"
    raise profile.broken(
        "wrong-root", f"root certificate: expected a key with SHA-256 {expected}, got {got.hex()}"
    )


def _check_authority(
    certificate: x509.Certificate, role: Role, profile: Profile, depth: int
) -> None:
    found = _extension(certificate, x509.BasicConstraints)
    if found is None:
        if CONSTRAINTS in role.must_have:
            raise profile.broken("not-a-ca", "expected basic constraints, got none", certificate)
        return
    if found.ca != role.authority:
        text = f"expected basic constraints with CA {role.authority}, got CA {found.ca}"
        raise profile.broken("not-a-ca", text, certificate)
    if found.path_length is not None and found.path_length < depth - 1:
        text = f"expected at most {found.path_length} authorities below it, got {depth - 1}"
        raise profile.broken("path-length", text, certificate)


def _check_usage(certificate: x509.Certificate, role: Role, profile: Profile) -> None:
    usage = _extension(certificate, x509.KeyUsage)
    allowed = USAGE not in role.must_have if usage is None else bool(getattr(usage, role.signs))
    if not allowed:
        raise profile.broken(
            "key-usage", f"expected {role.signs} in the key usage, got none", certificate
        )
    if is_responder(certificate) != role.responder:
        expected = "an OCSP responder" if role.responder else "no OCSP responder"
        text = f"expected {expected} by its extended key usage, got the opposite"
        raise profile.broken("key-usage", text, certificate)


def is_authority(certificate: x509.Certificate) -> bool:
    """By its own basic constraints."""
    found = _extension(certificate, x509.BasicConstraints)
    return found is not None and found.ca


def is_responder(certificate: x509.Certificate) -> bool:
    """A responder's key answers about revocation and signs nothing else."""
    usage = _extension(certificate, x509.ExtendedKeyUsage)
    return usage is not None and ExtendedKeyUsageOID.OCSP_SIGNING in usage


def _extension(certificate: x509.Certificate, kind: type[T]) -> T | None:
    """The one of a kind (the library refuses a second one); most certificates lack some, and the
    library's own search makes an exception of that."""
    found = [item.value for item in certificate.extensions if item.oid == kind.oid]
    return cast("T", found[0]) if found else None


def _check_issued(
    certificate: x509.Certificate, issuer: x509.Certificate, profile: Profile
) -> None:
    if (got := algorithm(certificate)) not in profile.algorithms:
        expected = " or ".join(sorted(profile.algorithms))
        text = f"expected a signature by {expected}, got {got}"
        raise profile.broken("wrong-algorithm", text, certificate)
    try:
        check_signed(certificate, issuer)
    except Exception:  # an algorithm the library lacks is no ValueError
        raise _unlinked(certificate, issuer, profile) from None


def _unlinked(
    certificate: x509.Certificate, issuer: x509.Certificate, profile: Profile
) -> NotAuthentic:
    if certificate.issuer != issuer.subject:
        expected, got = certificate.issuer.rfc4514_string(), issuer.subject.rfc4514_string()
        text = f"expected its issuer {expected!r} as the next certificate, got {got!r}"
        return profile.broken("chain-order", text, certificate)
    return profile.broken(
        "chain-signature",
        "expected a signature by its issuer, got one that does not hold",
        certificate,
    )


@remembered(
    most=1024,  # the same few authorities stand above every machine
    key=lambda certificate, issuer: (Same(certificate), Same(issuer)),
)
def check_signed(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    """Names and signature of one link. Raises what the library raises.

    It is asked from the root downwards, so that only certificates under a vendor's are kept. Of the
    vendors' own roots it is known beforehand, byte for byte, that they sign themselves.
    """
    if certificate is issuer and sha256(certificate.public_bytes(Encoding.DER)) in SELF_SIGNED:
        return
    certificate.verify_directly_issued_by(issuer)
