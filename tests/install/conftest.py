"""Installations of their own: a fresh ComfyUI with the packages that it and its Manager require, and nothing else.

All is made in hard links of the cached environment, so in the cache folder (the same disk), and removed afterwards.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..scripts import load_script
from ..server.conftest import ROOT

environment = load_script("environment")
comfy_server = load_script("comfy_server")

# What a ComfyUI in use has beside its code.
OWN_FOLDERS = {".git", "custom_nodes", "models", "input", "output", "temp", "user", "venv", ".venv"}
# cm-cli with another address of the registry. Manager has no option for it.
CM_CLI = """
import sys
import cm_cli.__main__ as command
from comfyui_manager.common import cnr_utils
cnr_utils.base_url = sys.argv.pop(1)
command.main()
"""


def path_of(what: str, version: str) -> Path:
    """What scripts/environment.py makes, by its command line, which holds the cache's lock."""
    command = [sys.executable, str(ROOT / "scripts" / "environment.py"), what, version]
    return Path(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())


@dataclass
class Installation:
    """A ComfyUI folder and its Python."""

    comfyui: Path
    python: Path

    def run(self, *arguments: str) -> str:
        """Run its Python; what it prints, also on standard error. Fails with all of it."""
        variables = os.environ | {
            "COMFYUI_PATH": str(self.comfyui),
            "HOME": str(self.comfyui.parent),
            "PIP_CACHE_DIR": pip_cache(),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_COMPILE": "0",  # a server compiles what it imports, which is a part of it
            "PIP_NO_WARN_CONFLICTS": "0",  # which turns the warning off: `pip check` is run in the end
        }
        variables.pop("PYTHONPATH", None)
        done = subprocess.run(
            [str(self.python), *arguments],
            cwd=self.comfyui,
            env=variables,
            timeout=280,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def packages(self) -> dict[str, str]:
        """Version by name, as the packages themselves say it."""
        program = (
            "import importlib.metadata, json; "
            "print(json.dumps({d.name: d.version for d in importlib.metadata.distributions()}))"
        )
        return json.loads(self.run("-c", program))

    def server(self, python: Path) -> Any:
        """A ComfyServer (scripts/comfy_server.py) of this installation. python: its own, or one that starts faster."""
        return comfy_server.ComfyServer(self.comfyui, self.comfyui, pack=None, python=str(python))


@functools.cache
def pip_cache() -> str:
    """pip's own cache, though HOME is another folder."""
    command = [sys.executable, "-m", "pip", "cache", "dir"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session")
def workshop() -> Iterator[Path]:
    """A folder on the cache's disk."""
    folder = Path(tempfile.mkdtemp(prefix="install-", dir=environment.cache_dir()))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def fresh(workshop: Path) -> Iterator[Any]:
    """Makes an Installation of a version of ComfyUI without the pack."""
    folder = Path(tempfile.mkdtemp(dir=workshop))

    def make(version: str) -> Installation:
        source = path_of("comfyui", version)

        def not_code(inside: str, names: list[str]) -> set[str]:
            return OWN_FOLDERS & set(names) if Path(inside) == source else set()

        shutil.copytree(source, folder / "ComfyUI", ignore=not_code)
        (folder / "ComfyUI" / "custom_nodes").mkdir()
        environment.copy_linked(path_of("bare", version).parent.parent, folder / "environment")
        return Installation(folder / "ComfyUI", folder / "environment" / "bin" / "python")

    yield make
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def checkout(workshop: Path) -> Path:
    """A git repository whose only commit is the work tree as it is, with what is not committed."""
    folder, made = workshop / "comfyui_DEFT.nodes", workshop / "made.git"
    mine = [
        "git",
        "--git-dir",
        str(made),
        "--work-tree",
        str(ROOT),
        "-c",
        "user.name=test",
        "-c",
        "user.email=test@example.org",
    ]
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "work tree"]):
        subprocess.run([*mine, *command], check=True)
    # A clone, because `made` goes on thinking that its files are in ROOT.
    subprocess.run(["git", "clone", "-q", str(made), str(folder)], check=True)
    shutil.rmtree(made)
    return folder


@pytest.fixture(scope="session")
def archive(checkout: Path) -> Path:
    """What `comfy node pack` makes of the checkout."""
    output = comfy(checkout, "node", "pack")
    assert "Created zip file" in output, output
    return (checkout / "node.zip").rename(checkout.parent / "node.zip")


def comfy(folder: Path, *arguments: str) -> str:
    """Run comfy-cli in a folder; what it prints. Fails with that."""
    variables = os.environ | {"HOME": str(folder.parent), "XDG_CONFIG_HOME": str(folder.parent), "DO_NOT_TRACK": "1"}
    command = [str(Path(sys.executable).parent / "comfy"), "--skip-prompt", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="session")
def registry(archive: Path) -> Iterator[str]:
    """The two answers of the registry that Manager's installation needs, over HTTP: about the archive, and the archive.

    cm-cli takes the address of a git repository or the name of a pack in the registry; a zip comes by the latter only.
    """

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/node.zip":
                body = archive.read_bytes()
            elif self.path == "/nodes/deft-nodes/install?version=0.1.0":
                body = json.dumps(
                    {
                        "id": "1",
                        "version": "0.1.0",
                        "status": "NodeVersionStatusActive",
                        "downloadUrl": f"{address}/node.zip",
                    }
                ).encode()
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # Manager's downloader looks at the first answer's head only
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """No lines about requests."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield address
    server.shutdown()
