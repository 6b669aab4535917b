"""Signed RIMs in the form NVIDIA publishes: SWID XML with an enveloped XML signature."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from lxml import etree

from enclave.simulator import pki

_DS = "http://www.w3.org/2000/09/xmldsig#"
_SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_SHA384 = "http://www.w3.org/2001/04/xmlenc#sha384"
_DOCUMENT = """<SoftwareIdentity xmlns="{swid}" xmlns:h="{sha384}" name="{product}" tagId="{tag}" \
version="1.0" tagVersion="0">
    <Entity name="SIMULATED NVIDIA" role="softwareCreator tagCreator"/>
    <Meta colloquialVersion="{version}" edition="GPU" product="{product}" revision="r1"/>
    <Payload>{resources}
    </Payload>
</SoftwareIdentity>"""
_RESOURCE = """
        <Resource type="Measurement" index="{index}" active="{active}" \
alternatives="{count}" {hashes} name="Measurement_{index}" size="48"/>"""
_SIGNATURE = """<Signature xmlns="{ds}"><SignedInfo>\
<CanonicalizationMethod Algorithm="http://www.w3.org/2006/12/xml-c14n11"/>\
<SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"/>\
<Reference URI=""><Transforms><Transform Algorithm="{ds}enveloped-signature"/>\
<Transform Algorithm="http://www.w3.org/2006/12/xml-c14n11"/></Transforms>\
<DigestMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#sha384"/>\
<DigestValue>{digest}</DigestValue></Reference></SignedInfo>\
<SignatureValue/><KeyInfo><X509Data>{certificates}</X509Data></KeyInfo></Signature>"""


def make(
    product: str,
    version: str,
    golden: Mapping[int, Sequence[bytes]],
    *,
    key: ec.EllipticCurvePrivateKey,
    chain: Sequence[x509.Certificate],
    change: Callable[[str], str] = lambda text: text,
) -> bytes:
    """The RIM of 64 measurements; those in `golden` are active, the rest zero and not.

    `change` edits the document before it is signed, for drills and tests.
    """
    resources = "".join(_resource(index, golden.get(index, ())) for index in range(64))
    tag = hashlib.sha384(f"{product}/{version}".encode()).hexdigest()
    text = _DOCUMENT.format(
        swid=_SWID, sha384=_SHA384, product=product, tag=tag, version=version, resources=resources
    )
    return sign(change(text), key=key, chain=chain)


def sign(text: str, *, key: ec.EllipticCurvePrivateKey, chain: Sequence[x509.Certificate]) -> bytes:
    """`text` with an enveloped signature appended under its root."""
    root = etree.fromstring(text)
    digest = hashlib.sha384(_canonical(root)).digest()
    bodies = (f"<X509Certificate>{_base64(pki.der(item))}</X509Certificate>" for item in chain)
    filled = _SIGNATURE.format(ds=_DS, digest=_base64(digest), certificates="".join(bodies))
    root.append(etree.fromstring(filled))
    value = pki.sign_raw(key, _canonical(root[-1][0]))
    root[-1][1].text = _base64(value)
    return etree.tostring(root)


def _resource(index: int, digests: Sequence[bytes]) -> str:
    shown = digests or (bytes(48),)
    hashes = " ".join(f'h:Hash{number}="{digest.hex()}"' for number, digest in enumerate(shown))
    return _RESOURCE.format(index=index, active=bool(digests), count=len(shown), hashes=hashes)


def _canonical(element: etree._Element) -> bytes:
    return etree.tostring(element, method="c14n", exclusive=False, with_comments=False)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
