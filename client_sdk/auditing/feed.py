"""Alerts as an Atom feed (RFC 4287), for any feed reader."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

from attestation.formats.dates import stamp
from attestation.formats.digests import sha256
from client_sdk.auditing.watching import Alert

ATOM = "http://www.w3.org/2005/Atom"
NEWEST = 200
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""XML 1.0 §2.2: characters that no document may hold, escaped or not."""


def atom(contract: str, alerts: Sequence[Alert], *, started: int) -> bytes:
    """The newest alerts about the log of `contract`, newest first. `started` (Unix seconds)
    dates a feed without any."""
    feed = Element("feed", xmlns=ATOM)
    newest = alerts[::-1][:NEWEST]
    _put(feed, "id", f"urn:umay:watch:{contract}")
    _put(feed, "title", f"Umay log of {contract}")
    _put(feed, "updated", stamp(newest[0].time if newest else started))
    _put(SubElement(feed, "author"), "name", "umay audit watch")
    for alert in newest:
        entry = SubElement(feed, "entry")
        _put(entry, "id", f"urn:umay:watch:{contract}:{_name(alert)}")
        _put(entry, "title", f"{alert.severity}: {alert.code}")
        _put(entry, "updated", stamp(alert.time))
        _put(entry, "content", alert.text)
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + tostring(feed, encoding="utf-8")


def _name(alert: Alert) -> str:
    about = repr((alert.subject, alert.time)).encode()
    return sha256(about).hex()[:32]


def _put(parent: Element, tag: str, text: str) -> None:
    SubElement(parent, tag).text = _NOT_XML.sub("\ufffd", text)
