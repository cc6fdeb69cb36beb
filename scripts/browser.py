"""ComfyUI's own front end in a headless Chromium, which scripts/browser.mjs drives.

    with Browser(server.url) as browser:
        seen = browser.ask("save", "workflow.json")

The commands are listed there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from functools import cache
from typing import Any

from rooms import ROOT


def made(*words: str) -> str:
    """The folder that scripts/environment.py makes, or has made."""
    command = [sys.executable, str(ROOT / "scripts" / "environment.py"), *words]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@cache
def browser_environment() -> dict[str, str]:
    """The environment variables of scripts/browser.mjs; RuntimeError says what is missing and how to get it."""
    browser = os.environ.get("DEFT_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
    )
    if browser is None:
        raise RuntimeError("no browser: get Chromium (Debian: apt-get install chromium), or name one in DEFT_CHROMIUM")
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise RuntimeError("no node or npm: install Node.js 20 or newer (Debian: apt-get install nodejs npm)")
    return {"DEFT_CHROMIUM": browser, "DEFT_PLAYWRIGHT": made("browser")}


class Browser:
    """One page of a server, for many commands. Started by the first, and by one after a time-out; ended by `close`.

    front_end: a version of ComfyUI's front end, in place of the one that the server has.
    """

    def __init__(self, url: str, front_end: str = "") -> None:
        self.url, self.front_end = url, front_end
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> subprocess.Popen[str]:
        """The process; the browser itself is started by its first command."""
        variables = browser_environment()
        if self.front_end:
            variables = variables | {"DEFT_FRONT_END": made("frontend", self.front_end)}
        return subprocess.Popen(
            ["node", str(ROOT / "scripts" / "browser.mjs"), self.url],
            env=os.environ | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, command: str, *words: object, timeout: float = 300.0) -> Any:
        """What a command of scripts/browser.mjs returns; RuntimeError with its words when it fails, or takes longer
        than `timeout` seconds."""
        if self.process is None or self.process.poll() is not None:
            self.process = self.start()
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps([command, *map(str, words)]), file=process.stdin, flush=True)
        late = threading.Timer(timeout, process.kill)  # which ends the browser, too
        late.start()
        line = process.stdout.readline()
        late.cancel()
        if not line:
            process.wait()
        answer = json.loads(line) if line else {"threw": f"it ended, or took longer than {timeout:g} seconds"}
        if "threw" in answer:
            raise RuntimeError(f"browser.mjs {command} failed:\n{answer['threw']}")
        return answer["result"]

    def close(self) -> None:
        """End the page and the browser."""
        if self.process is not None:
            self.process.communicate(timeout=60)
            self.process = None


def drive_browser(command: str, url: str, *words: object, timeout: float = 300.0, front_end: str = "") -> Any:
    """What one command returns on a page that is opened for it."""
    with Browser(url, front_end) as browser:
        return browser.ask(command, *words, timeout=timeout)
