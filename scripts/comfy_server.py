"""A real ComfyUI server without a screen, in a folder of its own, with the pack as a custom node.

    with ComfyServer(comfyui_folder, base_folder) as server:
        history = server.run(prompt, on_event=print)
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
OnEvent = Callable[[str, dict[str, Any]], None]


def find_comfyui() -> Path:
    """The ComfyUI folder: COMFYUI_DIR, or what scripts/environment.py says."""
    if os.environ.get("COMFYUI_DIR"):
        return Path(os.environ["COMFYUI_DIR"])
    command = [sys.executable, str(ROOT / "scripts" / "environment.py"), "comfyui"]
    return Path(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


class PromptError(RuntimeError):
    """The server refused a prompt, or a node raised while it ran; the text names node and reason."""


class ComfyServer:
    """A ComfyUI server process. As a context manager it is up inside the block and ended, by process id, after it.

    comfyui: ComfyUI's folder. base: an empty or own folder for models, input, output, user data and the log.
    pack: the pack's folder, linked into custom_nodes under `pack_name`; None starts ComfyUI without it.
    seconds_to_start is the time from the start of the process to its first answer.
    """

    def __init__(
        self, comfyui: Path, base: Path, pack: Path | None = ROOT, pack_name: str = "deft nodes-1.0",
        environment: dict[str, str] | None = None,
    ) -> None:
        self.comfyui, self.base, self.pack, self.pack_name = comfyui, base, pack, pack_name
        self.environment = environment or {}
        self.port = free_port()
        self.log_file = base / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.seconds_to_start = 0.0

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> ComfyServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout: float = 240.0) -> None:
        """Start the process and wait for its first answer; RuntimeError with the log's end when none comes."""
        for name in ("custom_nodes", "input", "output", "temp", "user", "models"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        if self.pack is not None:
            link = self.base / "custom_nodes" / self.pack_name
            if not link.exists():
                link.symlink_to(self.pack, target_is_directory=True)
        command = [
            sys.executable, str(self.comfyui / "main.py"), "--cpu", "--listen", HOST, "--port", str(self.port),
            "--base-directory", str(self.base), "--disable-auto-launch", "--disable-api-nodes",
            "--database-url", f"sqlite:///{self.base / 'user' / 'comfyui.db'}",
        ]
        started = time.monotonic()
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self.comfyui, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=os.environ | self.environment, start_new_session=True,
            )
        try:
            while True:
                if self.process.poll() is not None:
                    raise RuntimeError(f"ComfyUI ended at start-up; the end of {self.log_file}:\n{self.log_tail()}")
                if time.monotonic() - started > timeout:
                    raise RuntimeError(f"ComfyUI: no answer in {timeout:.0f} s; {self.log_file}:\n{self.log_tail()}")
                try:
                    self.get("/system_stats")
                    break
                except OSError:  # not listening yet
                    time.sleep(0.05)
            self.seconds_to_start = time.monotonic() - started
            if "IMPORT FAILED" in self.log():
                raise RuntimeError(f"ComfyUI could not import everything; see {self.log_file}:\n{self.log_tail()}")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process and wait for it."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:  # busy inside a long native call
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        """Everything the server has written so far."""
        return self.log_file.read_text(errors="replace")

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the log."""
        return "\n".join(self.log().splitlines()[-lines:])

    def get(self, path: str) -> Any:
        """GET a JSON answer."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.loads(answer.read())

    def get_bytes(self, path: str) -> bytes:
        """GET the raw answer."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def post(self, path: str, data: Any) -> Any:
        """POST JSON; the JSON answer, or None where there is none."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(data).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def image(self, item: dict[str, str]) -> bytes:
        """The file behind an entry of a node's UI output: {"filename", "subfolder", "type"}."""
        return self.get_bytes("/view?" + urllib.parse.urlencode(item))

    def run(self, prompt: dict[str, Any], on_event: OnEvent | None = None) -> dict[str, Any]:
        """Run an API-format prompt to its end and return its history entry.

        on_event(kind, data) sees the websocket's messages. Raises PromptError when the server finds an error in
        the prompt (in any of its outputs) or a node raises.
        """
        return asyncio.run(self._run(prompt, on_event or (lambda kind, data: None)))

    async def _run(self, prompt: dict[str, Any], on_event: OnEvent) -> dict[str, Any]:
        import aiohttp

        client = uuid.uuid4().hex
        async with aiohttp.ClientSession() as session, session.ws_connect(
            f"{self.url}/ws?clientId={client}", max_msg_size=0
        ) as socket_:
            async with session.post(f"{self.url}/prompt", json={"prompt": prompt, "client_id": client}) as answer:
                queued = await answer.json()
            if queued.get("error") or queued.get("node_errors"):
                raise PromptError(describe_refusal(queued))
            async for message in socket_:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue
                event = json.loads(message.data)
                kind, data = event["type"], event.get("data") or {}
                on_event(kind, data)
                if data.get("prompt_id") != queued["prompt_id"]:
                    continue
                if kind == "execution_error":
                    raise PromptError(f"{data['node_type']} {data['node_id']}: {data['exception_type']}: "
                                      f"{data['exception_message'].strip()}\n{''.join(data['traceback'])}")
                if kind == "execution_interrupted":
                    raise PromptError(f"{data['node_type']} {data['node_id']}: interrupted")
                if kind == "executing" and data["node"] is None:
                    break
            else:
                raise PromptError(f"the server closed the connection; the end of its log:\n{self.log_tail()}")
            async with session.get(f"{self.url}/history/{queued['prompt_id']}") as answer:
                return (await answer.json())[queued["prompt_id"]]


def describe_refusal(answer: dict[str, Any]) -> str:
    """The server's answer to a bad prompt, a line a node."""
    lines = []
    if answer.get("error"):
        lines.append(f"{answer['error']['message']}: {answer['error']['details']}")
    for node_id, found in (answer.get("node_errors") or {}).items():
        for error in found["errors"]:
            lines.append(f"{found['class_type']} {node_id}: {error['message']}: {error['details']}")
    return "\n".join(lines)


def browser_environment() -> dict[str, str]:
    """What scripts/browser.mjs needs in its environment; RuntimeError says what is missing and how to get it."""
    browser = os.environ.get("DEFT_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
    )
    if browser is None:
        raise RuntimeError("no browser: get Chromium (Debian: apt-get install chromium), or name one in DEFT_CHROMIUM")
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise RuntimeError("no node or npm: install Node.js 20 or newer (Debian: apt-get install nodejs npm)")
    command = [sys.executable, str(ROOT / "scripts" / "environment.py"), "browser"]
    modules = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    return {"DEFT_CHROMIUM": browser, "DEFT_PLAYWRIGHT": modules}


def drive_browser(*arguments: str, timeout: float = 300.0) -> str:
    """Run scripts/browser.mjs and return what it prints; RuntimeError with its words when it fails."""
    done = subprocess.run(
        ["node", str(ROOT / "scripts" / "browser.mjs"), *arguments], env=os.environ | browser_environment(),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
    )
    if done.returncode:
        raise RuntimeError(f"browser.mjs {arguments[0]} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout
