"""Signed RIMs in the form NVIDIA publishes: SWID XML with an enveloped XML signature.

Prefixes, namespaces declared twice, attributes and line breaks are those of NVIDIA's own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from lxml import etree

from attestation.nvidia.rim import canonical
from enclave.simulator import pki

_DS = "http://www.w3.org/2000/09/xmldsig#"
_SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_SHA384 = "http://www.w3.org/2001/04/xmlenc#sha384"
_TCG = (
    "https://trustedcomputinggroup.org/resource/"
    "tcg-reference-integrity-manifest-rim-information-model/"
)
_LINE = 64
_DOCUMENT = """<SoftwareIdentity xmlns="{swid}" xmlns:ns0="{swid}" xmlns:ns2="{sha384}" \
corpus="false" name="{product}" patch="false" supplemental="false" tagId="{tag}" version="1.0" \
tagVersion="0">
    <ns0:Entity name="SIMULATED NVIDIA" role="softwareCreator tagCreator"/>
    <ns0:Meta xmlns:ns1="{tcg}" colloquialVersion="{version}" edition="GPU" product="{product}" \
revision="r1" PayloadType="direct" ns1:BindingSpec="RIMIM" ns1:BindingSpecVersion="1.01"/>
    <ns0:Payload xmlns:SHA384="{sha384}">{resources}
    </ns0:Payload>
</SoftwareIdentity>

"""
_RESOURCE = """
        <ns0:Resource type="Measurement" index="{index}" active="{active}" \
alternatives="{count}" {hashes} name="Measurement_{index}" size="48"/>"""
_SIGNATURE = """<ds:Signature xmlns:ds="{ds}"><ds:SignedInfo>\
<ds:CanonicalizationMethod Algorithm="http://www.w3.org/2006/12/xml-c14n11"/>\
<ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"/>\
<ds:Reference URI=""><ds:Transforms><ds:Transform Algorithm="{ds}enveloped-signature"/>\
<ds:Transform Algorithm="http://www.w3.org/2006/12/xml-c14n11"/></ds:Transforms>\
<ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#sha384"/>\
<ds:DigestValue>{digest}</ds:DigestValue></ds:Reference></ds:SignedInfo>\
<ds:SignatureValue></ds:SignatureValue><ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data>\
</ds:KeyInfo></ds:Signature>"""


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
        swid=_SWID,
        sha384=_SHA384,
        tcg=_TCG,
        product=product,
        tag=tag,
        version=version,
        resources=resources,
    )
    return sign(change(text), key=key, chain=chain)


def sign(text: str, *, key: ec.EllipticCurvePrivateKey, chain: Sequence[x509.Certificate]) -> bytes:
    """`text` with an enveloped signature as the last element under its root."""
    digest = hashlib.sha384(canonical(etree.fromstring(text))).digest()
    bodies = (f"<ds:X509Certificate>{_lines(pki.der(item))}</ds:X509Certificate>" for item in chain)
    filled = _SIGNATURE.format(ds=_DS, digest=_base64(digest), certificates="".join(bodies))
    end = text.rindex("</")
    return sign_info(text[:end] + filled + text[end:], key=key)


def sign_info(text: str, *, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A document with its signature's value made anew over the SignedInfo that it has."""
    signature = next(etree.fromstring(text).iter(f"{{{_DS}}}Signature"))
    value = _base64(pki.sign_raw(key, canonical(signature[0])))
    before, _, rest = text.partition("<ds:SignatureValue>")
    end, after = rest.partition("</ds:SignatureValue>")[1:]
    return f"{before}<ds:SignatureValue>{value}{end}{after}".encode()


def _resource(index: int, digests: Sequence[bytes]) -> str:
    shown = digests or (bytes(48),)
    hashes = " ".join(f'ns2:Hash{number}="{digest.hex()}"' for number, digest in enumerate(shown))
    return _RESOURCE.format(index=index, active=bool(digests), count=len(shown), hashes=hashes)


def _lines(data: bytes) -> str:
    """Base64 as in PEM."""
    text = _base64(data)
    return "".join(text[at : at + _LINE] + "\n" for at in range(0, len(text), _LINE))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
