"""RIM: the firmware measurements NVIDIA publishes, as signed SWID XML (ISO 19770-2).

Nothing is read from a document before the signature over just that document held: one
enveloped signature, directly under the root, its one reference the whole document.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from lxml import etree

from attestation.errors import NotAuthentic, ParseError, Refused
from attestation.nvidia import chain as chains

MAX_RIM_BYTES = 2 * 1024 * 1024
MAX_INDEX, MAX_ALTERNATIVES = 64, 16
_SWID = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_HASH = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
_DS = "{http://www.w3.org/2000/09/xmldsig#}"
_XML = "{http://www.w3.org/XML/1998/namespace}"
_C14N11 = "http://www.w3.org/2006/12/xml-c14n11"
_SHAPE = (
    (f"{_DS}CanonicalizationMethod", _C14N11),
    (f"{_DS}SignatureMethod", "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"),
    (f"{_DS}Reference", None),
)
_TRANSFORMS = (_DS[1:-1] + "enveloped-signature", _C14N11)
_DIGEST = "http://www.w3.org/2001/04/xmldsig-more#sha384"


@dataclass(frozen=True)
class Rim:
    """`golden` maps an index to the digests (48 bytes) of which any one may be measured;
    `expires` is Unix seconds; `certificates` is the checked chain, leaf first."""

    version: str
    product: str
    golden: Mapping[int, tuple[bytes, ...]]
    expires: int
    certificates: tuple[x509.Certificate, ...]


def read_rim(data: bytes, *, pinned: frozenset[bytes], now: int) -> Rim:
    """The content of a RIM whose signature and chain hold at `now` (Unix seconds).

    Raises ParseError, NotAuthentic("gpu", "rim-…") or Refused("gpu", "rim-expired").
    """
    root = _parse(data)
    signature = _one(root, f"{_DS}Signature")
    certificates = _certificates(signature)
    _check_chain(certificates, pinned, now)
    _check_signature(root, signature, certificates[0])
    root.remove(signature)
    meta, payload = _one(root, f"{_SWID}Meta"), _one(root, f"{_SWID}Payload")
    expires = min(int(item.not_valid_after_utc.timestamp()) for item in certificates)
    return Rim(
        version=_attribute(meta, "colloquialVersion"),
        product=_attribute(meta, "product"),
        golden=_golden(payload),
        expires=expires,
        certificates=certificates,
    )


def _parse(data: bytes) -> etree._Element:
    if len(data) > MAX_RIM_BYTES:
        raise ParseError(f"RIM: expected at most {MAX_RIM_BYTES} bytes")
    if b"<!" in data.replace(b"<!--", b""):
        raise ParseError("RIM: expected no DTD, entity or CDATA section")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError):
        raise ParseError("RIM: not well-formed XML") from None
    if root.tag != f"{_SWID}SoftwareIdentity" or root.getroottree().docinfo.internalDTD is not None:
        raise ParseError("RIM: expected a SoftwareIdentity document")
    return root


def _check_chain(chain: tuple[x509.Certificate, ...], pinned: frozenset[bytes], now: int) -> None:
    try:
        chains.check(chain, pinned=pinned, now=now)
    except NotAuthentic as error:
        if error.code == "certificate-expired":
            raise Refused("gpu", "rim-expired", error.message) from None
        raise NotAuthentic("gpu", "rim-" + error.code, error.message) from None


def _check_signature(
    root: etree._Element, signature: etree._Element, leaf: x509.Certificate
) -> None:
    info = _one(signature, f"{_DS}SignedInfo")
    digest = _reference(info)
    signed = _canonical(info)
    value = _base64(_one(signature, f"{_DS}SignatureValue"), chains.SCALAR_BYTES * 2)
    try:
        chains.verify(leaf, value, signed, "the RIM")
    except NotAuthentic as error:
        raise NotAuthentic("gpu", "rim-" + error.code, error.message) from None
    if not hmac.compare_digest(hashlib.sha384(_without(root, signature)).digest(), digest):
        raise NotAuthentic("gpu", "rim-bad-digest", "the RIM is not the document that was signed")


def _reference(info: etree._Element) -> bytes:
    """The digest of the one reference, if SignedInfo has just the shape NVIDIA's have."""
    children = list(info)
    shape = tuple((child.tag, child.get("Algorithm")) for child in children)
    if shape != _SHAPE or children[2].attrib.items() != [("URI", "")]:
        raise ParseError("RIM: expected one enveloped signature over the whole document")
    transforms, method, value = _exactly(children[2], "Transforms", "DigestMethod", "DigestValue")
    if tuple(item.get("Algorithm") for item in transforms) != _TRANSFORMS:
        raise ParseError("RIM: expected the enveloped and C14N 1.1 transforms")
    if any(len(item) for item in transforms) or method.get("Algorithm") != _DIGEST:
        raise ParseError("RIM: expected a SHA-384 digest and plain transforms")
    return _base64(value, 48)


def _exactly(parent: etree._Element, *names: str) -> list[etree._Element]:
    children = list(parent)
    if [child.tag for child in children] != [_DS + name for name in names]:
        raise ParseError(f"RIM: expected {', '.join(names)}")
    return children


def _without(root: etree._Element, signature: etree._Element) -> bytes:
    """The document's C14N with the signature taken out, its tail text kept."""
    at, tail = root.index(signature), signature.tail
    root.remove(signature)
    previous = root[at - 1] if at else None
    if tail and previous is not None:
        before = previous.tail
        previous.tail = (before or "") + tail
        canonical = _canonical(root)
        previous.tail = before
    else:
        canonical = _canonical(root)
    signature.tail = tail
    root.insert(at, signature)
    return canonical


def _canonical(element: etree._Element) -> bytes:
    """C14N 1.1. lxml has 1.0, which differs only for xml:id and xml:base in subsets."""
    if any(str(key).startswith(_XML) for item in element.iter() for key in item.attrib):
        raise ParseError("RIM: expected no xml: attributes")
    return etree.tostring(element, method="c14n", exclusive=False, with_comments=False)


def _certificates(signature: etree._Element) -> tuple[x509.Certificate, ...]:
    data = _one(_one(signature, f"{_DS}KeyInfo"), f"{_DS}X509Data")
    if not 2 <= len(data) <= 6 or any(child.tag != f"{_DS}X509Certificate" for child in data):
        raise ParseError("RIM: expected a chain of X.509 certificates")
    ders = tuple(_base64(child, None) for child in data)
    try:
        return chains.load(ders)
    except NotAuthentic as error:
        raise NotAuthentic("gpu", "rim-" + error.code, error.message) from None


def _golden(payload: etree._Element) -> dict[int, tuple[bytes, ...]]:
    golden: dict[int, tuple[bytes, ...]] = {}
    seen: set[int] = set()
    for resource in payload:
        if resource.tag != f"{_SWID}Resource" or resource.get("type") != "Measurement":
            raise ParseError("RIM: expected measurement resources only")
        index = _number(resource, "index", MAX_INDEX - 1)
        if index in seen:
            raise ParseError(f"RIM: measurement {index} stands twice")
        seen.add(index)
        if _attribute(resource, "active") == "True":
            golden[index] = _digests(resource)
    return golden


def _digests(resource: etree._Element) -> tuple[bytes, ...]:
    count = _number(resource, "alternatives", MAX_ALTERNATIVES)
    if _number(resource, "size", 64) != 48 or count < 1:
        raise ParseError("RIM: expected at least one digest of 48 bytes")
    try:
        digests = tuple(
            bytes.fromhex(_attribute(resource, f"{_HASH}{number}")) for number in range(count)
        )
    except ValueError:
        raise ParseError("RIM: expected digests in hex") from None
    if any(len(digest) != 48 for digest in digests):
        raise ParseError("RIM: expected digests of 48 bytes")
    return digests


def _one(parent: etree._Element, tag: str) -> etree._Element:
    found = [child for child in parent if child.tag == tag]
    if len(found) != 1:
        raise ParseError(f"RIM: expected one {etree.QName(tag).localname}, got {len(found)}")
    return found[0]


def _attribute(element: etree._Element, name: str) -> str:
    value = element.get(name)
    if value is None:
        raise ParseError(f"RIM: {etree.QName(element).localname} lacks {name}")
    return str(value)


def _number(element: etree._Element, name: str, most: int) -> int:
    text = _attribute(element, name)
    if not text.isascii() or not text.isdecimal() or len(text) > 4 or int(text) > most:
        raise ParseError(f"RIM: expected {name} from 0 to {most}")
    return int(text)


def _base64(element: etree._Element, size: int | None) -> bytes:
    if len(element):
        raise ParseError("RIM: expected text only in a base64 element")
    try:
        value = base64.b64decode("".join((element.text or "").split()), validate=True)
    except ValueError:
        raise ParseError("RIM: expected base64") from None
    if size is not None and len(value) != size:
        raise ParseError(f"RIM: expected {size} bytes of base64, got {len(value)}")
    return value
