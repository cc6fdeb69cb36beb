"""A real ComfyUI server without a screen, in a folder of its own, with the pack as a custom node.

    with ComfyServer(comfyui_folder, base_folder) as server:
        finished = server.run(prompt, on_event=print)

How a server is started, ended and talked to is the sweeps' (sweeps/server.py and sweeps/client.py).
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rooms import ROOT, load_room

_OnEvent = Callable[[str, dict[str, Any]], None]
sweeps_server, sweeps_client = load_room("sweeps", "server"), load_room("sweeps", "client")
sweeps_errors = load_room("sweeps", "errors")


def find_comfyui() -> Path:
    """The ComfyUI folder: COMFYUI_DIR, or what scripts/environment.py says."""
    if os.environ.get("COMFYUI_DIR"):
        return Path(os.environ["COMFYUI_DIR"])
    command = [sys.executable, str(ROOT / "scripts" / "environment.py"), "comfyui"]
    return Path(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())


class PromptError(RuntimeError):
    """The server refused a prompt, or a node raised while it ran; the text names node and reason."""


class ComfyServer(sweeps_server.Server):  # type: ignore[misc, name-defined]
    """A ComfyUI server process. As a context manager it is up inside the block and ended, by process id, after it.

    comfyui: ComfyUI's folder. base: an empty or own folder for models, input, output, user data and the log.
    pack: the pack's folder, linked into custom_nodes under `pack_name`; None starts ComfyUI without it.
    python: that of another environment. It computes on the CPU; DEFT_COMFYUI_ARGS, if set, is given to ComfyUI instead
    of `--cpu` ("" is ComfyUI's own choice: a GPU where there is one).
    (ComfyUI serves no templates and no help of a folder with a space in its name.)
    """

    def __init__(
        self,
        comfyui: Path,
        base: Path,
        pack: Path | None = ROOT,
        pack_name: str = "deft-nodes",
        environment: dict[str, str] | None = None,
        python: str = sys.executable,
    ) -> None:
        device = shlex.split(os.environ.get("DEFT_COMFYUI_ARGS", "--cpu"))
        arguments = [*device, "--base-directory", str(base), "--disable-api-nodes"]
        super().__init__(comfyui, base, arguments, python, environment)
        self.base, self.pack, self.pack_name = base, pack, pack_name

    def __enter__(self) -> ComfyServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout: float = 240.0) -> None:
        """Start the process and wait for it; RuntimeError with the log's end when it or a custom node does not load."""
        for name in ("custom_nodes", "input", "temp", "models"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        if self.pack is not None:
            link = self.base / "custom_nodes" / self.pack_name
            if not link.exists():
                link.symlink_to(self.pack, target_is_directory=True)
        super().start(timeout)
        if "IMPORT FAILED" in self.log_file.read_text(errors="replace"):
            self.stop()
            raise RuntimeError(f"ComfyUI could not import everything; see {self.log_file}:\n{self.log_tail()}")

    def get(self, path: str) -> Any:
        """GET a JSON answer."""
        return json.loads(self.get_bytes(path))

    def get_bytes(self, path: str) -> bytes:
        """GET the raw answer."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def post(self, path: str, data: Any) -> Any:
        """POST JSON; the JSON answer, or None where there is none. Raises urllib's HTTPError for a refusal."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(data).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def image(self, item: dict[str, str]) -> bytes:
        """The file behind an entry of a node's UI output: {"filename", "subfolder", "type"}."""
        return self.get_bytes("/view?" + urllib.parse.urlencode(item))

    def run(self, prompt: dict[str, Any], on_event: _OnEvent | None = None) -> Any:
        """Run an API-format prompt to its end and return what it has given (`Finished` of sweeps/answers.py).

        on_event(kind, data) sees the websocket's messages about it. Raises PromptError when the server finds an error
        in the prompt (in any of its outputs), a node raises, or somebody interrupts it.
        """

        async def run() -> Any:
            async with sweeps_client.Client(self.url) as client:
                return await client.run(prompt, on_event or (lambda kind, data: None))

        try:
            return asyncio.run(run())
        except sweeps_errors.NodeFailed as error:
            raise PromptError(f"{error}\n{error.traceback}") from error
        except sweeps_errors.ServerLost as error:
            raise PromptError(f"{error}; the end of its log:\n{self.log_tail()}") from error
        except (sweeps_errors.Refused, sweeps_errors.Interrupted) as error:
            raise PromptError(str(error)) from error
