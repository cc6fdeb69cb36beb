"""One real ComfyUI server for all tests of this folder, in a base folder of its own."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..scripts import load_script

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session")
def make_locale(server: Any) -> Any:
    """scripts/make_locale.py; it imports comfy_server, which the server's fixture has loaded."""
    return load_script("make_locale")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running ComfyServer (scripts/comfy_server.py) with the pack."""
    comfy_server = load_script("comfy_server")
    base = tmp_path_factory.mktemp("server base")
    with comfy_server.ComfyServer(comfy_server.find_comfyui(), base) as running:
        yield running
    assert running.process.poll() is not None
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="session")
def drive_browser(server: Any) -> Callable[..., Any]:
    """Runs a command of scripts/browser.mjs on the server and reads its JSON; skips where there is no browser."""
    helper = sys.modules["comfy_server"]
    try:
        helper.browser_environment()
    except RuntimeError as missing:
        pytest.skip(str(missing))

    def drive(command: str, *arguments: object, front_end: str = "", timeout: float = 300.0) -> Any:
        words = map(str, arguments)
        return json.loads(helper.drive_browser(command, server.url, *words, front_end=front_end, timeout=timeout))

    return drive
