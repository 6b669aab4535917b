"""URLs as they enter, and what errors show of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import ParseError, UmayError, UsageError
from attestation.formats.origin import check_log_name
from attestation.formats.url import split_url
from attestation.net.error_text import redacted_url
from attestation.net.http import Http
from attestation.net.route import Route
from attestation.net.url import base_url, checked_url
from attestation.vendors.fetch import Services

MALFORMED = {
    "a bracket that stays open": "http://[bad",
    "no IPv6 address": "http://[zz]/",
    "a bracket that closes nothing": "https://bad]/",
    "characters that become a slash": "http://a.example℀b/",
    "a port of letters": "http://a.example:http/",
    "a port that is too high": "http://a.example:65536/",
    "port zero": "http://a.example:0/",
    "no host": "http:///umay",
    "a port alone": "http://:80/",
    "no scheme": "a.example:80",
    "another scheme": "ftp://a.example/",
    "a file": "file:///etc/passwd",
    "a line end": "http://a.exa\nmple/",
    "a space": "http://a.example /",
    "nothing": "",
}
IDS = list(MALFORMED)


@pytest.mark.parametrize("url", MALFORMED.values(), ids=IDS)
def test_a_malformed_url_is_a_matter_of_usage_and_named(url: str) -> None:
    with pytest.raises(UsageError, match=r"^--url: expected an http\(s\) URL, got "):
        checked_url(url, name="--url")
    with pytest.raises(UsageError, match=r"^--log: "):
        base_url(url, name="--log")
    with pytest.raises(UsageError, match=r"^expected an http\(s\) URL"):
        Http(route=Route()).get(url, limit=1)
    with pytest.raises(UsageError, match="proxy: expected"):
        Route(url)
    with pytest.raises(UsageError, match="nvidia-rim: expected"):
        Services(nvidia_rim=url)


@pytest.mark.parametrize("url", ["http://[::1]:8080/a/", "https://a.example", "HTTP://A.example/"])
def test_a_good_url_is_taken(url: str) -> None:
    assert base_url(url) == url.rstrip("/")
    assert checked_url(url).scheme in ("http", "https")


@pytest.mark.parametrize("origin", ["[bad", "a.example:0/log", "a.example:x", "u:p@a.example"])
def test_a_log_whose_name_is_no_address_is_refused(origin: str) -> None:
    with pytest.raises(ParseError, match="expected a log's address"):
        check_log_name(origin)


@given(st.text(max_size=40).map(lambda text: f"http://{text}"))
def test_any_text_is_a_url_or_a_matter_of_usage(url: str) -> None:
    try:
        split_url(url)
    except UmayError as error:
        assert isinstance(error, ParseError)
    assert redacted_url(url).isprintable()


SECRET = {
    "a user of no URL": "http://u:s3cret@[x",
    "a user before a port of letters": "http://u:s3cret@host:x/",
    "a user without a scheme": "u:s3cret@proxy.example:3128",
    "a password with a question mark": "http://u:s3?cret@host/s3cret",
    "a password with a slash": "http://u:12/s3cret@host/",
    "a password with a number sign": "http://u:s3cret#x@[host",
    "an escaped @": "http://u:s3cret%40host/",
    "a query of no URL": "http://[x?api_key=s3cret",
    "a path of no URL": "http://[x/s3cret",
    "a parameter of no URL": "http://[x;key=s3cret",
    "pw": "https://a.example/?pw=s3cret",
    "jwt": "https://a.example/?jwt=s3cret",
    "bearer": "https://a.example/?a=1&bearer=s3cret",
    "access": "https://a.example/?access=s3cret",
    "behind a semicolon": "https://a.example/?size=1;api_key=s3cret",
    "behind an escaped semicolon": "https://a.example/?size=1%3Bapi_key=s3cret",
    "behind an escaped ampersand": "https://a.example/?size=1%26api_key%3Ds3cret",
    "with no name": "https://a.example/?s3cret",
    "with an empty name": "https://a.example/?=s3cret",
    "with a name that is no name": "https://a.example/?aaaa/s3cret==",
    "of the path": "https://a.example/x;jsessionid=s3cret",
    "of a part of the path": "https://a.example/x;id=s3cret/more",
}


@pytest.mark.parametrize("url", SECRET.values(), ids=SECRET)
def test_no_secret_of_a_url_is_shown(url: str) -> None:
    assert "s3" not in redacted_url(url) and "cret" not in redacted_url(url)
    with pytest.raises(UsageError) as told:
        Route(url)
    assert "s3" not in str(told.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://a.example/api/v2?seqno=7&address=0:abcd",
        "https://a.example/consistency?from=1&to=2",
        "https://a.example/proof?size=9",
    ],
)
def test_what_is_known_to_be_harmless_is_shown(url: str) -> None:
    assert redacted_url(url) == url


def test_where_the_user_ends_is_marked_and_the_rest_is_named() -> None:
    assert redacted_url("http://u:p@[x") == "…@[x"
    assert redacted_url("http://[x/path?k=v") == "http://[x"
