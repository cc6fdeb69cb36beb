"""How a server at an address is reached: its address without a password, what is sent with each request, certificates.

A secret is in the headers alone. An address is printed and stored, and so are the names of headers.
"""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN, API_KEY, PASSWORD = "SWEEPS_TOKEN", "SWEEPS_API_KEY", "SWEEPS_PASSWORD"  # noqa: S105 (names of variables)
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
VARIABLE = re.compile(r"\$\{(\w+)\}")
FORM = "write it as http://HOST:PORT or https://USER:PASSWORD@HOST/PATH, with special characters of the password as %XX"


@dataclass(frozen=True)
class Access:
    """A server. url: its address, without user, password and a slash at the end. headers: sent with every request.

    certificate: a file with certificates that are trusted besides those of this machine.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    certificate: Path | None = None

    def tls(self) -> ssl.SSLContext | bool:
        """What aiohttp trusts. Raises ValueError that names the file, if it holds no certificates."""
        if self.certificate is None:
            return True
        context = ssl.create_default_context()
        try:
            context.load_verify_locations(self.certificate)
        except OSError as error:  # ssl.SSLError is one
            raise ValueError(
                f"{self.certificate} cannot be read as certificates in PEM form ({error.strerror or error.args[-1]})."
            ) from error
        return context


def access_to(
    address: str, headers: Sequence[str], environment: Mapping[str, str], certificate: Path | None = None
) -> Access:
    """The access to a server whose address may hold a user and a password.

    headers: "Name: value", with ${VARIABLE} for a variable of the environment. Of it TOKEN, API_KEY and, for an address
    with a user alone, PASSWORD count, too. Raises ValueError for what cannot be read; no secret is in its text.
    """
    sent = dict(_header(text, environment) for text in headers)
    try:
        parts = urlsplit(address)
        host, port, user, password = parts.hostname, parts.port, parts.username, parts.password
    except ValueError:
        host, port, user, password = None, None, None, None
    if not host or parts.scheme not in ("http", "https"):
        raise ValueError(f"an address of --server cannot be read: {FORM}.")
    if parts.query or parts.fragment:
        raise ValueError(f"the address of the server {host} has a ? or # in it: {FORM}; give a token with --header.")
    place = f"[{host}]" if ":" in host else host
    url = f"{parts.scheme}://{place}{f':{port}' if port else ''}{parts.path}".rstrip("/")
    if user is not None:
        password = unquote(password) if password is not None else environment.get(PASSWORD)
        if password is None:
            raise ValueError(f"the address of {url} has a user and no password: set the variable {PASSWORD} to it.")
        _add(sent, "Authorization", "Basic " + base64.b64encode(f"{unquote(user)}:{password}".encode()).decode(), url)
    elif environment.get(TOKEN):
        _add(sent, "Authorization", f"Bearer {environment[TOKEN]}", url)
    if environment.get(API_KEY):
        _add(sent, "X-API-Key", environment[API_KEY], url)
    return Access(url, sent, certificate)


def _header(text: str, environment: Mapping[str, str]) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    name = name.strip()
    if not colon or not _NAME.fullmatch(name):
        raise ValueError('a --header cannot be read: write it as --header "Name: value".')
    missing = [variable for variable in VARIABLE.findall(value) if variable not in environment]
    if missing:
        raise ValueError(f"--header {name}: there is no variable {missing[0]} in the environment.")
    value = VARIABLE.sub(lambda match: environment[match[1]], value).strip()
    _check(name, value)
    return name, value


def _add(headers: dict[str, str], name: str, value: str, url: str) -> None:
    if name.lower() in (each.lower() for each in headers):
        raise ValueError(f"{url} would get the header {name} twice: leave --header, the variable or the password out.")
    _check(name, value)
    headers[name] = value


def _check(name: str, value: str) -> None:
    if not value.isprintable() or not value.isascii():
        raise ValueError(f"the header {name} has characters that are not allowed in a header.")
