"""A ComfyUI server over HTTP and its websocket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from .workflow import Prompt

OnEvent = Callable[[str, dict[str, Any]], None]
PATIENCE = 30.0  # seconds for a server that does not answer to come back
SILENCE = 120.0  # seconds without a word from a server that is connected; reading a large model may take it as long
BLOCK = 1 << 20


class Refused(ValueError):
    """The server refused a prompt; the text names node and reason."""


class ServerLost(RuntimeError):
    """The server is gone, with what it was running."""


class Interrupted(RuntimeError):
    """Somebody has cancelled the prompt on the server."""


class NodeFailed(RuntimeError):
    """A node raised; the text names node and reason. traceback: Python's, as the server sent it."""

    def __init__(self, text: str, traceback: str) -> None:
        super().__init__(text)
        self.traceback = traceback


@dataclass
class Finished:
    """The server's record of a prompt that went through. outputs: node id -> UI output.

    seconds: from the start of its execution to its end. ended: when that was (s since 1970). Both by its own clock.
    """

    outputs: dict[str, dict[str, list[Any]]]
    seconds: float
    node_seconds: dict[str, float] = field(default_factory=dict)
    ended: float = 0.0


@dataclass
class _Waiting:
    ended: asyncio.Future[None]
    on_event: OnEvent
    node: str | None = None
    since: float = 0.0
    node_seconds: dict[str, float] = field(default_factory=dict)

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Keep the seconds of each node, and pass the message on."""
        if kind in ("executing", "execution_success"):
            now = time.monotonic()
            if self.node is not None:
                self.node_seconds[self.node] = self.node_seconds.get(self.node, 0.0) + now - self.since
            self.node, self.since = data.get("node"), now  # no node: it is over
        self.on_event(kind, data)


class Client:
    """One server. As an asynchronous context manager it listens to the websocket while the block runs."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.id = uuid.uuid4().hex
        self.waiting: dict[str, _Waiting] = {}
        self.session: aiohttp.ClientSession = None  # type: ignore[assignment]
        self._listener: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()
        self.lost = False

    async def __aenter__(self) -> Client:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE)
        self.session = aiohttp.ClientSession(timeout=timeout)
        self._listener = asyncio.create_task(self._listen())
        await asyncio.wait(
            {asyncio.create_task(self._connected.wait()), self._listener}, return_when=asyncio.FIRST_COMPLETED
        )
        if self.lost:
            await self.__aexit__()
            raise ServerLost(f"{self.url} does not answer as a ComfyUI server: check the address, and whether it runs.")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        if self.session is not None:
            await self.session.close()

    async def _listen(self) -> None:
        """Read the websocket; connect again when it breaks, and give up when the server stays away."""
        away = time.monotonic()
        while True:
            try:
                async with await asyncio.wait_for(self._open(), PATIENCE) as socket:
                    self._connected.set()
                    await asyncio.wait_for(self._look_after_break(), PATIENCE)
                    async for message in socket:
                        if message.type is aiohttp.WSMsgType.TEXT:
                            self._message(json.loads(message.data))
                away = time.monotonic()
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ServerLost):
                if time.monotonic() - away > (PATIENCE if self._connected.is_set() else 0):
                    self._end(ServerLost(f"the server {self.url} is gone"))
                    return
            except Exception as error:  # of whoever gets the messages
                self._end(error)
                raise
            await asyncio.sleep(0.2)

    def _end(self, error: Exception) -> None:
        """End all waiting prompts with this error: nobody listens any more."""
        self.lost = True
        for waiting in self.waiting.values():
            if not waiting.ended.done():
                waiting.ended.set_exception(error)

    async def _open(self) -> aiohttp.ClientWebSocketResponse:
        """The websocket. It breaks when the server has sent nothing for `SILENCE`: a question to it comes after two
        thirds of that, and for the answer to it aiohttp waits half as long."""
        address = f"{self.url}/ws?clientId={self.id}"
        return await self.session.ws_connect(address, max_msg_size=0, heartbeat=SILENCE * 2 / 3)

    def give_up(self) -> None:
        """The server is dead: do not wait for it to come back."""
        if self._listener is not None:
            self._listener.cancel()
        self._end(ServerLost(f"the server {self.url} is gone"))

    def _message(self, event: dict[str, Any]) -> None:
        kind, data = event.get("type", ""), event.get("data") or {}
        waiting = self.waiting.get(data.get("prompt_id", ""))
        if waiting is None:
            return
        waiting.event(kind, data)
        if kind == "executing" and data.get("node") is None and not waiting.ended.done():
            waiting.ended.set_result(None)

    async def _look_after_break(self) -> None:
        """Look for prompts that have ended or were forgotten while nobody listened."""
        for prompt_id, waiting in list(self.waiting.items()):
            if waiting.ended.done():
                continue
            if (await self.get(f"/history/{prompt_id}")).get(prompt_id):
                waiting.ended.set_result(None)
                continue
            queue = await self.get("/queue")
            queued = {item[1] for item in (*queue["queue_running"], *queue["queue_pending"])}
            if prompt_id not in queued and not waiting.ended.done():
                waiting.ended.set_exception(ServerLost(f"the server {self.url} has started anew"))

    async def get(self, path: str, **query: str) -> Any:
        """A JSON answer. Raises ServerLost if there is no answer."""
        return json.loads(await self.get_bytes(path, **query) or b"null")

    async def get_bytes(self, path: str, **query: str) -> bytes | None:
        """The body of an answer; None for what the server does not have."""
        try:
            async with self.session.get(self.url + path, params=query) as answer:
                return await answer.read() if answer.status == 200 else None
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise ServerLost(f"the server {self.url} gives no answer ({error or type(error).__name__})") from error

    async def post(self, path: str, data: Any) -> tuple[int, Any]:
        """Post JSON: status and the JSON answer, None where there is none."""
        try:
            async with self.session.post(self.url + path, json=data) as answer:
                body = await answer.read()
                return answer.status, json.loads(body) if body[:1] in (b"{", b"[") else None
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise ServerLost(f"the server {self.url} gives no answer ({error or type(error).__name__})") from error

    async def fetch(self, item: Mapping[str, str], target: Path) -> None:
        """Save a file of the server: {"filename", "subfolder", "type"}. Raises OSError if the disk is full."""
        query = {name: str(item.get(name, "")) for name in ("filename", "subfolder", "type")}
        try:
            async with self.session.get(f"{self.url}/view", params=query) as answer:
                if answer.status != 200:
                    raise NodeFailed(
                        f"the server has no file {query['subfolder']}/{query['filename']} in its "
                        f"{query['type']} folder, although a node has named it",
                        "",
                    )
                with open(target, "wb") as file:
                    async for block in answer.content.iter_chunked(BLOCK):
                        file.write(block)
        except aiohttp.ClientError as error:
            raise ServerLost(f"the server {self.url} broke off while sending {query['filename']} ({error})") from error

    async def upload(self, path: Path, subfolder: str, name: str, place: str) -> None:
        """Send a file into the server's input or output folder. Raises Refused if the server does not take it."""
        with open(path, "rb") as file:
            form = aiohttp.FormData()
            form.add_field("image", file, filename=name)
            for field_name, value in (("subfolder", subfolder), ("type", place), ("overwrite", "true")):
                form.add_field(field_name, value)
            try:
                async with self.session.post(f"{self.url}/upload/image", data=form) as answer:
                    if answer.status == 413:
                        size = path.stat().st_size / 2**20
                        raise Refused(
                            f"the server takes no file as large as {path.name} ({size:.0f} MiB): start it "
                            "with a higher --max-upload-size"
                        )
                    if answer.status != 200:
                        raise Refused(f"the server did not take the file {path.name} (HTTP {answer.status})")
            except (aiohttp.ClientError, OSError) as error:
                raise ServerLost(f"the server {self.url} broke off while it got {path.name} ({error})") from error

    async def run(self, prompt: Prompt, on_event: OnEvent) -> Finished:
        """Run a prompt to its end.

        Raises Refused, NodeFailed, Interrupted, ServerLost. When cancelled, the prompt is taken from the queue or
        interrupted.
        """
        prompt_id = str(uuid.uuid4())
        waiting = _Waiting(asyncio.get_running_loop().create_future(), on_event)
        self.waiting[prompt_id] = waiting
        try:
            if self.lost:
                raise ServerLost(f"the server {self.url} is gone")
            status, answer = await self.post(
                "/prompt", {"prompt": prompt, "prompt_id": prompt_id, "client_id": self.id}
            )
            if status != 200 or answer.get("error") or answer.get("node_errors"):
                if status == 200:  # other outputs are valid and would run
                    await self.cancel(prompt_id)
                raise Refused(describe_refusal(answer or {}) or f"HTTP {status}")
            try:
                await waiting.ended
            except asyncio.CancelledError:
                await asyncio.shield(self.cancel(prompt_id))
                raise
            history = await self.get(f"/history/{prompt_id}")
            if not history or prompt_id not in history:
                raise ServerLost(f"the server {self.url} has forgotten the prompt")
            return _finished(history[prompt_id], prompt, waiting)
        finally:
            self.waiting.pop(prompt_id, None)

    async def cancel(self, prompt_id: str) -> None:
        """Take a prompt from the queue, and interrupt it if it runs. A server that is gone has nothing to cancel."""
        with contextlib.suppress(ServerLost):
            await self.post("/queue", {"delete": [prompt_id]})
            await self.post("/interrupt", {"prompt_id": prompt_id})


def _finished(entry: Mapping[str, Any], prompt: Prompt, waiting: _Waiting) -> Finished:
    """The result in a history entry; raises the error of a failed one."""
    messages = dict((entry.get("status") or {}).get("messages") or ())
    error = messages.get("execution_error")
    if error:
        text = f"{error['exception_type']}: {str(error['exception_message']).strip()}"
        raise NodeFailed(
            f"{_named(prompt, error['node_id'], error['node_type'])}: {text}", "".join(error.get("traceback") or ())
        )
    stopped = messages.get("execution_interrupted")
    if stopped:
        raise Interrupted(f"{_named(prompt, stopped['node_id'], stopped['node_type'])}: cancelled on the server")
    start, end = (messages.get(kind, {}).get("timestamp") for kind in ("execution_start", "execution_success"))
    seconds = (end - start) / 1000 if start and end else 0.0
    return Finished(entry.get("outputs") or {}, seconds, waiting.node_seconds, (end or 0) / 1000)


def _named(prompt: Prompt, node_id: str, class_type: str) -> str:
    title = (prompt.get(node_id, {}).get("_meta") or {}).get("title")
    return f"{title or class_type} ({node_id})"


def describe_refusal(answer: Mapping[str, Any]) -> str:
    """The server's answer to a bad prompt, one sentence a node."""
    lines = []
    for node_id, refusal in (answer.get("node_errors") or {}).items():
        lines += [
            f"{refusal['class_type']} {node_id}: {error['message']}: {error['details']}" for error in refusal["errors"]
        ]
    error = answer.get("error")
    if error and not lines:
        lines.append(f"{error['message']}: {error['details']}" if isinstance(error, Mapping) else str(error))
    return "; ".join(lines)


@dataclass(frozen=True)
class Facts:
    """The facts about a server. info: /object_info. models: its folders of models. stats: /system_stats."""

    info: dict[str, Any]
    stats: dict[str, Any]
    models: list[Path]

    @property
    def versions(self) -> dict[str, str]:
        """The versions of ComfyUI, PyTorch and Python, and the device, for the records."""
        system, devices = self.stats.get("system", {}), self.stats.get("devices") or [{}]
        return {
            "comfyui": str(system.get("comfyui_version", "")),
            "torch": str(system.get("pytorch_version", "")),
            "python": str(system.get("python_version", "")).split(" ")[0],
            "device": str(devices[0].get("name", "")),
        }

    @property
    def embeddings(self) -> tuple[str, str] | None:
        """The place that makes a file an embedding: "output" or "input", and the folder in it. None: there is none.

        It takes a folder of embeddings inside those two: no others can be sent to. ComfyUI has none by itself.
        """
        for folder in self.models:
            for place in ("output", "input"):
                if folder.name == "embeddings" and place in self.places and folder.is_relative_to(self.places[place]):
                    return place, folder.relative_to(self.places[place]).as_posix()
        return None

    @property
    def places(self) -> dict[str, Path]:
        """The server's input, output and temporary folders, as far as its command line has them."""
        arguments = [str(word) for word in self.stats.get("system", {}).get("argv", ())]
        options = dict(zip(arguments, arguments[1:]))
        base = options.get("--base-directory") or (str(Path(arguments[0]).parent) if arguments else "")
        folders = {}
        for place in ("input", "output", "temp"):
            folder = options.get(f"--{place}-directory")
            path = Path(folder) / ("temp" if place == "temp" else "") if folder else Path(base) / place
            if path.is_absolute():
                folders[place] = path
        return folders


async def facts_of(client: Client) -> Facts:
    """Ask a server about itself. Raises ServerLost."""
    info, stats, models = await asyncio.gather(
        client.get("/object_info"), client.get("/system_stats"), client.get("/experiment/models")
    )
    if not isinstance(info, dict) or not isinstance(stats, dict):
        raise ServerLost(f"{client.url} does not answer as a ComfyUI server: check the address.")
    return Facts(info, stats, [Path(folder) for item in models or () for folder in item["folders"]])
