"""RIM: the firmware measurements NVIDIA publishes, as signed SWID XML (ISO 19770-2).

Nothing is read from a document before the signature over just that document held: one
enveloped signature, directly under the root, its one reference the whole document.
What a RIM does not need (DTD, comments, processing instructions, other encodings,
unknown elements) is refused, and its size bounded before any canonicalisation: libxml2
takes minutes over a hundred kilobytes of namespace declarations.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cryptography import x509
from lxml import etree

from attestation.errors import NotAuthentic, ParseError
from attestation.formats.digests import sha256
from attestation.remembered import remembered
from attestation.x509.certificate import expires, has_signed
from attestation.x509.profile import NVIDIA_RIM
from attestation.x509.walk import Chain, check_dates, check_links, load_chain

MAX_RIM_BYTES = 256 * 1024
MAX_NAMESPACES, MAX_ATTRIBUTES = 32, 32
MAX_INDEX, MAX_ALTERNATIVES = 64, 16
SIGNATURE_BYTES = 96
_SWID = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_RESOURCE = f"{_SWID}Resource"
_HASH = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
_HASHES = tuple(f"{_HASH}{number}" for number in range(MAX_ALTERNATIVES))
_DS = "{http://www.w3.org/2000/09/xmldsig#}"
_XML_ATTRIBUTES = etree.XPath("descendant-or-self::*/@xml:*")
_PARTS = ("SignedInfo", "SignatureValue", "KeyInfo")
_C14N11 = "http://www.w3.org/2006/12/xml-c14n11"
_SHAPE = (
    (f"{_DS}CanonicalizationMethod", _C14N11),
    (f"{_DS}SignatureMethod", "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"),
    (f"{_DS}Reference", None),
)
_TRANSFORMS = (_DS[1:-1] + "enveloped-signature", _C14N11)
_DECLARATION = re.compile(rb"""<\?xml version=["']1\.0["']( encoding=["'](?i:UTF-8)["'])?\s*\?>""")
_BANNED = (b"<!", b"<?", b"\0")
_LEAVES = (f"{_SWID}Entity", f"{_SWID}Link", f"{_SWID}Meta")
_BRANCHES = (f"{_SWID}Payload", f"{_DS}Signature")
_SHA384_LIST = re.compile("[0-9a-fA-F]{96}( [0-9a-fA-F]{96})*")
_DIGEST = "http://www.w3.org/2001/04/xmldsig-more#sha384"


@dataclass(frozen=True)
class Rim:
    """`golden` maps an index to the digests (48 bytes) of which any one may be measured;
    `expires` is Unix seconds; `certificates` is the checked chain, leaf first."""

    version: str
    product: str
    golden: Mapping[int, tuple[bytes, ...]]
    expires: int
    certificates: Chain


def read_rim(data: bytes, *, pinned: frozenset[bytes], now: int) -> Rim:
    """The content of a RIM whose signature and chain hold at `now` (Unix seconds). Source: SWID
    (ISO 19770-2) with an XML signature, as NVIDIA's RIM service serves it.

    Raises ParseError, NotAuthentic("gpu", "rim-…") or Refused("gpu", "rim-expired").
    """
    certificates, outcome = _read(data, pinned)
    check_dates(certificates, NVIDIA_RIM, now=now)
    if isinstance(outcome, Rim):
        return outcome
    raise NotAuthentic("gpu", *outcome)


@remembered(
    most=64,  # one RIM serves every GPU of a machine, and the next machine too
    key=lambda data, pinned: (sha256(data), pinned),
)
def _read(data: bytes, pinned: frozenset[bytes]) -> tuple[Chain, Rim | tuple[str, str]]:
    """All of `read_rim` that does not depend on the time: the signer's chain, and what it
    signed, or why that does not hold (code and message)."""
    root = _parse(data)
    _check_form(root)
    signature = _one(root, f"{_DS}Signature")
    certificates = _certificates(_exactly(signature, *_PARTS)[2])
    check_links(certificates, NVIDIA_RIM, pinned=pinned)
    try:
        return certificates, _content(root, signature, certificates)
    except NotAuthentic as error:
        return certificates, (error.code, error.message)


def _content(root: etree._Element, signature: etree._Element, certificates: Chain) -> Rim:
    info, value, _ = _exactly(signature, *_PARTS)
    digest = _signed_digest(info, value, certificates[0])
    _take_out(root, signature)
    if not hmac.compare_digest(hashlib.sha384(canonical(root)).digest(), digest):
        raise NotAuthentic(
            "gpu",
            "rim-bad-digest",
            "RIM: expected the document with the signed digest, got a changed one",
        )
    meta, payload = _one(root, f"{_SWID}Meta"), _one(root, f"{_SWID}Payload")
    return Rim(
        version=_attribute(_attributes(meta), "colloquialVersion"),
        product=_attribute(_attributes(meta), "product"),
        golden=MappingProxyType(_golden(payload)),
        expires=expires(certificates),
        certificates=certificates,
    )


def _parse(data: bytes) -> etree._Element:
    if len(data) > MAX_RIM_BYTES:
        raise ParseError(f"RIM: expected at most {MAX_RIM_BYTES} bytes, got {len(data)}")
    declaration = _DECLARATION.match(data)
    body = data[declaration.end() :] if declaration else data
    # one byte is found twenty times faster than two
    banned = any(mark[-1:] in body and mark in body for mark in _BANNED)
    if banned or body.count(b"xmlns") > MAX_NAMESPACES:
        raise ParseError(
            "RIM: expected no DTD, CDATA, comment or instruction and at most "
            f"{MAX_NAMESPACES} namespaces, got one of them or more",
        )
    try:
        root = etree.fromstring(body, _parser())
    except (etree.XMLSyntaxError, ValueError):
        raise ParseError("RIM: expected well-formed XML, got other text") from None
    if root.tag != f"{_SWID}SoftwareIdentity" or root.getroottree().docinfo.internalDTD is not None:
        raise ParseError("RIM: expected a SoftwareIdentity document, got another")
    return root


def _parser() -> etree.XMLParser:
    return etree.XMLParser(
        encoding="UTF-8", resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
    )


def _check_form(root: etree._Element) -> None:
    """Known elements in their places, so that no second reading of the document exists."""
    for child in root:
        if child.tag not in _LEAVES + _BRANCHES or (child.tag in _LEAVES and len(child)):
            raise ParseError(
                f"RIM: expected known elements in their places, got {str(child.tag)[:120]}"
            )
    if any(len(element.attrib) > MAX_ATTRIBUTES for element in root.iter()):
        raise ParseError(f"RIM: expected at most {MAX_ATTRIBUTES} attributes, got more")
    if _XML_ATTRIBUTES(root):
        raise ParseError("RIM: expected no xml: attributes, got one")


def _signed_digest(info: etree._Element, value: etree._Element, leaf: x509.Certificate) -> bytes:
    """The document's digest in SignedInfo, once the signature over SignedInfo held."""
    digest = _reference(info)
    if not has_signed(leaf.public_key(), _base64(value, SIGNATURE_BYTES), canonical(info)):
        raise NVIDIA_RIM.broken(
            "bad-signature",
            "RIM: expected a signature by the first certificate in it, got one that does not hold",
        )
    return digest


def _reference(info: etree._Element) -> bytes:
    """The digest of the one reference, if SignedInfo has just the shape NVIDIA's have."""
    children = list(info)
    shape = tuple((child.tag, child.get("Algorithm")) for child in children)
    if shape != _SHAPE or children[2].attrib.items() != [("URI", "")]:
        raise ParseError(
            "RIM: expected one enveloped signature over the whole document, got another form"
        )
    transforms, method, value = _exactly(children[2], "Transforms", "DigestMethod", "DigestValue")
    both = _exactly(transforms, "Transform", "Transform")
    if tuple(item.get("Algorithm") for item in both) != _TRANSFORMS:
        raise ParseError("RIM: expected the enveloped and C14N 1.1 transforms, got others")
    plain = not any(len(item) for item in (*children[:2], *both, method))
    if not plain or method.get("Algorithm") != _DIGEST:
        raise ParseError("RIM: expected a SHA-384 digest and plain transforms, got others")
    return _base64(value, 48)


def _exactly(parent: etree._Element, *names: str) -> list[etree._Element]:
    children = list(parent)
    if [child.tag for child in children] != [_DS + name for name in names]:
        raise ParseError(f"RIM: expected {', '.join(names)} and nothing else, got other elements")
    return children


def _take_out(root: etree._Element, signature: etree._Element) -> None:
    """Remove the signature but keep the text after it, which lxml would remove too."""
    before, tail = signature.getprevious(), signature.tail or ""
    if before is None:
        root.text = (root.text or "") + tail
    else:
        before.tail = (before.tail or "") + tail
    root.remove(signature)


def canonical(element: etree._Element) -> bytes:
    """C14N 1.1 of an element, without what stands after it. Raises ParseError.

    lxml has 1.0, which differs only for xml: attributes; there are none. Of an element inside a
    document it writes wrong `xmlns=""`, so the element becomes a document of its own first, to
    which lxml's serialiser gives every namespace in scope (XML C14N 1.1 §2.3).
    """
    if element.getparent() is not None:
        element = etree.fromstring(etree.tostring(element, with_tail=False), _parser())
    try:
        return etree.tostring(element, method="c14n", exclusive=False, with_comments=False)
    except etree.C14NError:
        raise ParseError(
            "RIM: expected an element with a canonical form, got one without"
        ) from None


def _certificates(keys: etree._Element) -> Chain:
    (data,) = _exactly(keys, "X509Data")
    if not 2 <= len(data) <= 6 or any(child.tag != f"{_DS}X509Certificate" for child in data):
        raise ParseError(f"RIM: expected 2 to 6 X.509 certificates, got {len(data)} elements")
    return load_chain([_base64(child, None) for child in data], NVIDIA_RIM)


def _golden(payload: etree._Element) -> dict[int, tuple[bytes, ...]]:
    golden: dict[int, tuple[bytes, ...]] = {}
    seen: set[int] = set()
    for resource in payload:
        if resource.tag != _RESOURCE or resource.get("type") != "Measurement":
            raise ParseError("RIM: expected measurement resources only, got another element")
        active = resource.get("active")
        if len(resource) or active not in ("True", "False"):
            raise ParseError(
                "RIM: expected a plain resource with active True or False, got another"
            )
        index = _number(resource.get("index"), "index", MAX_INDEX - 1)
        if index in seen:
            raise ParseError(f"RIM: expected each measurement once, got {index} twice")
        seen.add(index)
        if active == "True":
            golden[index] = _digests(_attributes(resource))
    return golden


def _digests(resource: Mapping[str, str]) -> tuple[bytes, ...]:
    count = _number(resource.get("alternatives"), "alternatives", MAX_ALTERNATIVES)
    if _number(resource.get("size"), "size", 64) != 48 or count < 1:
        raise ParseError("RIM: expected at least one digest of 48 bytes, got none, or another size")
    written = [_attribute(resource, name) for name in _HASHES[:count]]
    if len([key for key in resource if key.startswith(_HASH)]) != count:
        raise ParseError(f"RIM: expected {count} digests as alternatives says, got another number")
    if not _SHA384_LIST.fullmatch(" ".join(written)):
        raise ParseError("RIM: expected digests of 48 bytes in hex, got other text")
    return tuple(map(bytes.fromhex, written))


def _one(parent: etree._Element, tag: str) -> etree._Element:
    found = [child for child in parent if child.tag == tag]
    if len(found) != 1:
        raise ParseError(f"RIM: expected one {etree.QName(tag).localname}, got {len(found)}")
    return found[0]


def _attributes(element: etree._Element) -> dict[str, str]:
    return dict(element.items())  # type: ignore[arg-type]


def _attribute(attributes: Mapping[str, str], name: str) -> str:
    value = attributes.get(name)
    if value is None:
        raise _without(name)
    return value


def _without(name: str) -> ParseError:
    return ParseError(f"RIM: expected the attribute {name} of an element, got none")


def _number(text: str | None, name: str, most: int) -> int:
    if text is None:
        raise _without(name)
    if not text.isascii() or not text.isdecimal() or len(text) > 4 or int(text) > most:
        raise ParseError(f"RIM: expected {name} as a number from 0 to {most}, got {text[:20]!r}")
    return int(text)


def _base64(element: etree._Element, size: int | None) -> bytes:
    if len(element):
        raise ParseError("RIM: expected text only in a base64 element, got elements in it")
    try:
        value = base64.b64decode("".join((element.text or "").split()), validate=True)
    except ValueError:
        raise ParseError("RIM: expected base64, got other text") from None
    if size is not None and len(value) != size:
        raise ParseError(f"RIM: expected {size} bytes of base64, got {len(value)}")
    return value
