"""One real ComfyUI server for all tests of this folder, in a base folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
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


class Browser:
    """One browser for all commands of scripts/browser.mjs (session.mjs); it is started anew after one that failed."""

    def __init__(self, url: str, environment: dict[str, str]) -> None:
        self.url, self.environment = url, environment
        self.process: subprocess.Popen[str] | None = None

    def drive(self, command: str, *arguments: object, timeout: float = 300.0) -> Any:
        """What the command returns."""
        if self.process is None:
            self.process = subprocess.Popen(
                ["node", str(Path(__file__).parent / "session.mjs"), self.url], env=os.environ | self.environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        watch = threading.Timer(timeout, process.kill)
        watch.start()
        try:
            process.stdin.write(json.dumps([command, *map(str, arguments)]) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        finally:
            watch.cancel()
        answer = json.loads(line)[0] if line else {"failure": "the browser has ended, or took too long"}
        if isinstance(answer, dict) and "failure" in answer:
            self.close()
            raise RuntimeError(f"browser.mjs {command} failed:\n{answer['failure']}")
        return answer

    def close(self) -> None:
        """End the browser, if there is one."""
        if self.process is not None:
            process, self.process = self.process, None
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


@pytest.fixture(scope="session")
def drive_browser(server: Any) -> Iterator[Callable[..., Any]]:
    """Runs a command of scripts/browser.mjs on the server for what it returns; skips where there is no browser."""
    helper = sys.modules["comfy_server"]
    try:
        environment = helper.browser_environment()
    except RuntimeError as missing:
        pytest.skip(str(missing))
    browser = Browser(server.url, environment)
    yield browser.drive
    browser.close()
