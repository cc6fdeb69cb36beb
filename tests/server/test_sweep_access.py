"""A real server behind a password, a header, a path and a certificate of its own; what is secret stays so."""

from __future__ import annotations

import asyncio
import base64
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deft_pack.sweeps.access import Access
from deft_pack.sweeps.client import Client
from deft_pack.sweeps.errors import Denied, ServerLost

from .proxy import Proxy, in_thread
from .sweep_tools import TRIVIAL, cells, environment, read_until, runs, start, write_plan
from .sweep_tools import sweeps as run_to_end

PASSWORD, KEY = "pass word/2", "k3y-of-the-door"
BASIC = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
SECRETS = (PASSWORD, "pass%20word%2F2", BASIC, KEY)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate that nobody has signed, and a server's side of it."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("certificate")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=sweeps -addext"
    subprocess.run([*command.split(), "subjectAltName=IP:127.0.0.1"], cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return folder / "cert.pem", context


def test_no_secret_is_written_or_printed(server: Any, certificate: tuple[Path, ssl.SSLContext], tmp_path: Path) -> None:
    """Basic auth, another header, a path and a certificate at once; the password expires in between."""
    file, tls = certificate
    workflow = TRIVIAL | {
        "3": {"class_type": "LoadImage", "inputs": {"image": "none"}, "_meta": {"title": "Load"}},
        "4": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["3", 0]}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "none"}},
    }
    axes = "axes: {color: {into: Paint.color, range: {from: 1, to: 60}}}\noutputs: {only: [Save picture]}\n"
    plan, store = write_plan(tmp_path, TRIVIAL, axes), tmp_path / "store"
    bad = write_plan(tmp_path / "bad", workflow, "", "bad")
    door = {"Authorization": f"Basic {BASIC}", "X-Door": KEY}
    printed = ""

    def sweeps(*words: str | Path, status: int) -> str:
        nonlocal printed
        out = run_to_end(*words, status=status, env=environment(DOOR=KEY))
        printed += out
        return out

    with in_thread(Proxy(server.url, prefix="/comfy", door=door, tls=tls)) as proxy:
        address = proxy.url.replace("https://", "https://user:pass%20word%2F2@")
        options = ["--store", store, "--server", address, "--header", "X-Door: ${DOOR}", "--certificate", file]
        process = start("run", plan, *options, env=environment(DOOR=KEY))
        printed += read_until(process, "[2/")
        proxy.door = {"Authorization": "another one"}
        printed += process.communicate(timeout=200)[0]
        assert process.returncode == 1
        assert f"a server failed: {proxy.url} requires a login (HTTP 401)" in printed
        assert 2 <= len(cells(store)) < 60
        assert not runs(store, "failed")
        assert not runs(store, "cancelled")
        assert "(HTTP 401)" in sweeps("run", plan, *options, status=2)
        proxy.door = door
        assert "0 failed, 0 cancelled" in sweeps("run", plan, *options, status=0)
        assert len(cells(store)) == 60
        sweeps("run", bad, *options, "--join", status=1)
        assert runs(store, "failed")
        sweeps("status", plan, "--store", store, status=0)
        sweeps("report", plan, "--store", store, status=0)
        assert "is not trusted here" in sweeps("run", plan, "--store", store, "--server", address, status=2)
    # The address itself is there, so its password would be, too.
    assert proxy.url in {run["worker"] for run in runs(store).values()}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"run.json", "cells.csv", "report.md", "index.html"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        assert not [secret for secret in SECRETS if secret.encode() in content], path
    assert not [secret for secret in SECRETS if secret in printed]


@pytest.mark.parametrize(
    ("status", "error", "text"),
    [
        (401, Denied, r"requires a login \(HTTP 401\): give a user"),
        (403, Denied, r"refuses access \(HTTP 403\)"),
        (302, ServerLost, r"redirects to /login \(HTTP 302\)"),
    ],
)
def test_what_stands_at_the_door(server: Any, status: int, error: type[Exception], text: str) -> None:
    async def run() -> None:
        proxy = Proxy(server.url, door={"Authorization": "Bearer t0"}, status=status)
        async with proxy.served():
            with pytest.raises(error, match=text):
                await Client(proxy.url).__aenter__()
            async with Client(Access(proxy.url, {"Authorization": "Bearer t0"})) as client:
                assert await client.get("/queue")

    asyncio.run(run())
