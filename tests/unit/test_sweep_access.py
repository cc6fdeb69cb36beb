"""Addresses with passwords, headers and tokens: what is sent, and that no secret is in an address or an error."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from deft_pack.sweeps.access import Access, access_to


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("address", "url", "headers"),
    [
        ("http://127.0.0.1:8188/", "http://127.0.0.1:8188", {}),
        ("https://host/comfy/", "https://host/comfy", {}),
        ("http://[::1]:8188", "http://[::1]:8188", {}),
        ("http://me:secret@host:81/a", "http://host:81/a", {"Authorization": basic("me:secret")}),
        ("https://m%40e:s%3Ae%2F@host", "https://host", {"Authorization": basic("m@e:s:e/")}),
        ("https://me:@host", "https://host", {"Authorization": basic("me:")}),
    ],
)
def test_addresses(address: str, url: str, headers: dict[str, str]) -> None:
    access = access_to(address, [], {})
    assert (access.url, access.headers) == (url, headers)
    assert "secret" not in repr(access)


def test_what_the_environment_gives() -> None:
    """The password of a user, else a token; a key; variables in headers."""
    environment = {"SWEEPS_TOKEN": "t0", "SWEEPS_API_KEY": "k0", "SWEEPS_PASSWORD": "p0", "MINE": "m0"}
    assert access_to("http://host", ["X-Door:  a ${MINE} b"], environment).headers == {
        "X-Door": "a m0 b",
        "Authorization": "Bearer t0",
        "X-API-Key": "k0",
    }
    assert access_to("http://me@host", [], environment).headers["Authorization"] == basic("me:p0")
    assert access_to("http://me:own@host", [], environment).headers["Authorization"] == basic("me:own")


@pytest.mark.parametrize(
    ("address", "headers", "environment", "text"),
    [
        ("host:8188", [], {}, "an address of --server cannot be read"),
        ("me:secret@host:8188", [], {}, "an address of --server cannot be read"),
        ("ftp://me:secret@host", [], {}, "an address of --server cannot be read"),
        ("http://me:secret/x@host", [], {}, "an address of --server cannot be read"),
        ("http://me:8/secret@host:1/", ["A"], {}, "a --header cannot be read"),
        ("http://host?token=secret", [], {}, "server host has a \\? or # in it"),
        ("http://me@host", [], {}, "set the variable SWEEPS_PASSWORD"),
        ("http://host", ["secret"], {}, "a --header cannot be read"),
        ("http://host", ["a secret: x"], {}, "a --header cannot be read"),
        ("http://host", ["X: secret ${NONE}"], {}, "--header X: there is no variable NONE"),
        ("http://host", ["X: secret\r\nY: z"], {}, "the header X has characters"),
        ("http://me:secret@host", ["authorization: secret"], {}, "would get the header Authorization twice"),
        ("http://host", ["Authorization: secret"], {"SWEEPS_TOKEN": "secret"}, "Authorization twice"),
    ],
)
def test_what_cannot_be_read(address: str, headers: list[str], environment: dict[str, str], text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        access_to(address, headers, environment)
    assert "secret" not in str(caught.value)


def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("no certificate")
    for name in ("none.pem", "missing.pem"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as certificates"):
            Access("https://host", certificate=tmp_path / name).tls()
