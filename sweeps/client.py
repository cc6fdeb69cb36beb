"""A ComfyUI server over HTTP and its websocket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from .access import Access
from .answers import Finished, describe_refusal, result_of
from .errors import Denied, Gone, Interrupted, NodeFailed, Refused, ServerLost, TooLong
from .waiting import OnEvent, PromptPlace, Waiting, place_of
from .workflow import Prompt

PATIENCE = 30.0  # seconds for a server that does not answer to come back
SILENCE = 120.0  # seconds without a word from a server that is connected; reading a large model may take it as long
TICK = 0.25  # seconds between looks at what is waited for
SENDS = 3  # times that a prompt is sent which the server does not have any more
ASKING = 10.0  # seconds for the first answer to a question about a prompt; then it is asked again, with more time
_GOODBYE = 5.0  # seconds that a server has to take in that a prompt is cancelled
STOPPING = 60.0  # seconds that a node has to end after it was interrupted; many only look now and then
_BLOCK = 1 << 20


class Client:
    """One server. As an asynchronous context manager it listens to the websocket while the block runs.

    What becomes of a prompt is heard on the websocket. Of one of which nothing is heard for some seconds, the server is
    asked over HTTP: a websocket may fall silent, and a prompt that somebody takes out of the queue is never spoken of.
    """

    def __init__(self, server: str | Access) -> None:
        self.access = server if isinstance(server, Access) else Access(server.rstrip("/"))
        self.url = self.access.url
        self.id = uuid.uuid4().hex
        self.waiting: dict[str, Waiting] = {}
        self.session: aiohttp.ClientSession = None  # type: ignore[assignment]
        self.connection = 0  # which websocket is open; 0 while there is none
        self.sends_again = True
        self.lost = False
        self._reason: Exception | None = None  # why it refuses access
        self._connections = 0
        self._closed_here = False  # whether it was this side that has closed the websocket
        self._socket: aiohttp.ClientWebSocketResponse[bool] | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._closing: set[asyncio.Task[Any]] = set()
        self._connected = asyncio.Event()

    async def __aenter__(self) -> Client:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE)
        connector = aiohttp.TCPConnector(ssl=self.access.tls())
        self.session = aiohttp.ClientSession(timeout=timeout, headers=self.access.headers, connector=connector)
        try:
            await self._knock()
            listener = asyncio.create_task(self._listen())
            connected = asyncio.create_task(self._connected.wait())
            self._tasks = [listener, connected, asyncio.create_task(self._watch())]
            await asyncio.wait({connected, listener}, return_when=asyncio.FIRST_COMPLETED)
            if self.lost:
                raise self._reason or ServerLost(self._no_server())
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [*self._tasks, *self._closing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.session is not None:
            await self.session.close()

    async def _knock(self) -> None:
        """Ask for something small. Raises Denied or ServerLost that says what stands in the way."""
        try:
            patience = aiohttp.ClientTimeout(total=PATIENCE)
            async with self.session.get(f"{self.url}/queue", allow_redirects=False, timeout=patience) as answer:
                self._admitted(answer.status)
                if 300 <= answer.status < 400:
                    to = urlsplit(answer.headers.get("Location", ""))
                    where = f"{to.scheme}://{to.hostname}" if to.hostname else to.path
                    raise ServerLost(
                        f"{self.url} redirects to {where} (HTTP {answer.status}), for a login or because it has moved: "
                        "give the right address, with the login that it needs."
                    )
        except aiohttp.ClientConnectorCertificateError as error:
            raise ServerLost(
                f"{self.url} has a certificate that is not trusted here ({error.certificate_error}): give a file with "
                "its certificate, or with its issuer's, with --certificate."
            ) from error
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise ServerLost(self._no_server()) from error

    def _no_server(self) -> str:
        return f"{self.url} does not answer as a ComfyUI server: check the address, and whether it runs."

    def _admitted(self, status: int, path: str = "") -> None:
        """Raises Denied. ComfyUI's own /view answers 403 for a name that leads out of its folder."""
        if status == 401 or (status == 403 and path != "/view"):
            raise Denied(self.url, status)

    async def _listen(self) -> None:
        """Read the websocket; connect again when it breaks, and give up when the server stays away."""
        away = time.monotonic()
        while True:
            try:
                async with await asyncio.wait_for(self._open(), PATIENCE) as socket:
                    self._connected.set()
                    await asyncio.wait_for(self._look_after_break(), PATIENCE)
                    self._connections += 1
                    self.connection, self._socket = self._connections, socket
                    async for message in socket:
                        if message.type is aiohttp.WSMsgType.TEXT:
                            self._message(json.loads(message.data))
                away = time.monotonic()
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ServerLost) as error:
                if isinstance(error, aiohttp.WSServerHandshakeError) and error.status in (401, 403):
                    self._reason = Denied(self.url, error.status)
                    self._end(self._reason)
                    return
                if time.monotonic() - away > (PATIENCE if self._connected.is_set() else 0):
                    self._end(ServerLost(f"the server {self.url} is gone"))
                    return
            except Exception as error:  # of whoever gets the messages
                self._end(error)
                raise
            finally:
                self.connection, self._socket = 0, None
            await asyncio.sleep(0.2)

    def _end(self, error: Exception) -> None:
        """End all waiting prompts with this error: nobody listens any more."""
        self.lost = True
        for waiting in self.waiting.values():
            if not waiting.ended.done():
                waiting.ended.set_exception(error)

    async def _open(self) -> aiohttp.ClientWebSocketResponse[bool]:
        """The websocket. It breaks when the server has sent nothing for `SILENCE`: a question to it comes after two
        thirds of that, and for the answer to it aiohttp waits half as long."""
        address = f"{self.url}/ws?clientId={self.id}"
        return await self.session.ws_connect(address, max_msg_size=0, heartbeat=SILENCE * 2 / 3)

    def give_up(self) -> None:
        """The server is dead: do not wait for it to come back."""
        for task in self._tasks:
            task.cancel()
        self._end(ServerLost(f"the server {self.url} is gone"))

    def _message(self, event: dict[str, Any]) -> None:
        kind, data = event.get("type", ""), event.get("data") or {}
        waiting = self.waiting.get(data.get("prompt_id", ""))
        if waiting is None:
            return
        waiting.event(kind, data, time.monotonic())
        if kind == "executing" and data.get("node") is None and not waiting.ended.done():
            waiting.ended.set_result(None)

    async def _look_after_break(self) -> None:
        """Look for prompts that have ended or were forgotten while nobody listened."""
        places = await self._places([prompt_id for prompt_id, each in self.waiting.items() if each.sent])
        for prompt_id, place in places.items():
            gone = Gone() if self._closed_here else ServerLost(f"the server {self.url} has been restarted")
            self._answered(prompt_id, place, gone)
        self._closed_here = False

    # What is asked for when nothing is heard

    async def _watch(self) -> None:
        """Ask for prompts of which nothing is heard, and end those that run too long."""
        try:
            await asyncio.gather(self._keep_asking(), self._keep_limits())
        except Exception as error:
            self._end(error)
            raise

    async def _keep_limits(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            for waiting in self.waiting.values():
                if waiting.too_long(time.monotonic()) and not waiting.ended.done():
                    waiting.ended.set_exception(TooLong(waiting.limit or 0.0, stopped=True))

    async def _keep_asking(self) -> None:
        """Raises ServerLost if no answer comes for `SILENCE` from a server whose websocket is open."""
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            quiet = [prompt_id for prompt_id, waiting in self.waiting.items() if waiting.to_ask(now)]
            connection = self.connection
            if not quiet or not connection:  # there is nothing to ask, or `_listen` is looking for the server
                continue
            try:
                places = await self._places(quiet)
            except ServerLost:
                if self.connection == connection:
                    raise
                continue
            for prompt_id, place in places.items():
                self._answered(prompt_id, place, Gone())
            if "ended" in places.values():
                self._reconnect()

    async def _places(self, prompt_ids: Iterable[str]) -> dict[str, PromptPlace]:
        """Where these prompts are. Raises ServerLost if the server does not say so."""
        places: dict[str, PromptPlace] = {}
        queue = None
        for prompt_id in prompt_ids:
            queue = queue or await self._ask("/queue")
            place = place_of(prompt_id, queue, await self._ask(f"/history/{prompt_id}"))
            if place is None:
                raise ServerLost(f"the server {self.url} does not say which prompts it has")
            places[prompt_id] = place
        return places

    async def _ask(self, path: str) -> Any:
        """A JSON answer, asked for again when none comes: the connection that was kept open may be dead.

        Raises ServerLost if none comes for about `SILENCE`.
        """
        end, patience = time.monotonic() + SILENCE, ASKING
        while True:
            left = end - time.monotonic()
            try:
                answer = await asyncio.wait_for(self.get(path), min(patience, max(left, ASKING)))
                if answer is not None:
                    return answer
                raise ServerLost(f"the server {self.url} gives no answer to {path}")
            except (ServerLost, asyncio.TimeoutError) as error:
                if left <= patience:
                    raise ServerLost(f"the server {self.url} gives no answer to {path}") from error
                patience *= 2
                await asyncio.sleep(TICK)

    def _answered(self, prompt_id: str, place: PromptPlace, gone: Exception) -> None:
        """Take in where a prompt is. gone: its error, if the server does not have it."""
        waiting = self.waiting.get(prompt_id)
        if waiting is None or waiting.ended.done():
            return
        if place == "ended":
            waiting.ended.set_result(None)
        elif place == "gone":
            waiting.ended.set_exception(gone)
        else:
            waiting.answered(place, time.monotonic())

    def _reconnect(self) -> None:
        """Close a websocket that has not reported an end, for `_listen` to open another."""
        socket, self._socket = self._socket, None
        if socket is not None:
            self._closed_here = True
            closing = asyncio.create_task(socket.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def get(self, path: str, **query: str) -> Any:
        """A JSON answer. Raises ServerLost if there is no answer."""
        return json.loads(await self.get_bytes(path, **query) or b"null")

    async def get_bytes(self, path: str, **query: str) -> bytes | None:
        """The body of an answer; None for what the server does not have."""
        try:
            async with self.session.get(self.url + path, params=query, allow_redirects=False) as answer:
                self._admitted(answer.status, path)
                return await answer.read() if answer.status == 200 else None
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise ServerLost(f"the server {self.url} gives no answer ({error or type(error).__name__})") from error

    async def post(self, path: str, data: Any) -> tuple[int, Any]:
        """Post JSON: status and the JSON answer, None where there is none."""
        try:
            async with self.session.post(self.url + path, json=data, allow_redirects=False) as answer:
                self._admitted(answer.status)
                body = await answer.read()
                return answer.status, json.loads(body) if body[:1] in (b"{", b"[") else None
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise ServerLost(f"the server {self.url} gives no answer ({error or type(error).__name__})") from error

    async def fetch(self, item: Mapping[str, str], target: Path) -> None:
        """Save a file of the server: {"filename", "subfolder", "type"}. Raises OSError if the disk is full."""
        query = {name: str(item.get(name, "")) for name in ("filename", "subfolder", "type")}
        try:
            async with self.session.get(f"{self.url}/view", params=query, allow_redirects=False) as answer:
                self._admitted(answer.status, "/view")
                if answer.status != 200:
                    raise NodeFailed(
                        f"the server has no file {query['subfolder']}/{query['filename']} in its "
                        f"{query['type']} folder, although a node's result lists it",
                        "",
                    )
                with open(target, "wb") as file:
                    async for block in answer.content.iter_chunked(_BLOCK):
                        file.write(block)
        except aiohttp.ClientError as error:
            raise ServerLost(
                f"the server {self.url} ended the connection while sending {query['filename']} ({error})"
            ) from error

    async def upload(self, path: Path, subfolder: str, name: str, place: str) -> None:
        """Send a file into the server's input or output folder. Raises Refused if the server does not take it."""
        with open(path, "rb") as file:
            form = aiohttp.FormData()
            form.add_field("image", file, filename=name)
            for field_name, value in (("subfolder", subfolder), ("type", place), ("overwrite", "true")):
                form.add_field(field_name, value)
            try:
                async with self.session.post(f"{self.url}/upload/image", data=form, allow_redirects=False) as answer:
                    self._admitted(answer.status)
                    if answer.status == 413:
                        size = path.stat().st_size / 2**20
                        raise Refused(
                            f"the server takes no file as large as {path.name} ({size:.0f} MiB): start it "
                            "with a higher --max-upload-size"
                        )
                    if answer.status != 200:
                        raise Refused(f"the server did not take the file {path.name} (HTTP {answer.status})")
            except (aiohttp.ClientError, OSError) as error:
                raise ServerLost(
                    f"the server {self.url} ended the connection while receiving {path.name} ({error})"
                ) from error

    async def run(self, prompt: Prompt, on_event: OnEvent, limit: float | None = None) -> Finished:
        """Run a prompt to its end, sent again if the server does not have it any more. limit: seconds that it may run.

        Raises Refused, NodeFailed, Interrupted, ServerLost, TooLong. When cancelled, the prompt is taken from the queue
        or interrupted.
        """
        for sends in range(SENDS):
            if sends:
                on_event("sent_again", {})
            with contextlib.suppress(Gone):
                return await self._run(prompt, on_event, limit)
            if not self.sends_again:
                raise Interrupted("it was removed from the server's queue")
        raise Interrupted(
            f"it was sent {SENDS} times, and each time it disappeared from the server's queue without an entry in its "
            "history: check whether somebody clears them"
        )

    async def _run(self, prompt: Prompt, on_event: OnEvent, limit: float | None) -> Finished:
        prompt_id = str(uuid.uuid4())
        ended = asyncio.get_running_loop().create_future()
        waiting = Waiting(ended, on_event, time.monotonic(), limit, self.connection)
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
            waiting.sent = True
            await ended
            entry = (await self._ask(f"/history/{prompt_id}")).get(prompt_id) or waiting.entry(self.connection)
            if not entry:
                raise Gone
            return result_of(entry, prompt, waiting)
        except asyncio.CancelledError:
            await self.cancel(prompt_id)
            raise
        except TooLong as error:
            await self.cancel(prompt_id)
            raise TooLong(limit or 0.0, await self._has_stopped(prompt_id)) from error
        finally:
            self.waiting.pop(prompt_id, None)

    async def cancel(self, prompt_id: str) -> None:
        """Take a prompt from the queue, and interrupt it if it runs. A server that is gone has nothing to cancel."""
        with contextlib.suppress(ServerLost, Denied, asyncio.TimeoutError):
            await asyncio.wait_for(self.post("/queue", {"delete": [prompt_id]}), _GOODBYE)
            await asyncio.wait_for(self.post("/interrupt", {"prompt_id": prompt_id}), _GOODBYE)

    async def _has_stopped(self, prompt_id: str) -> bool:
        """Whether the server ends a prompt that was cancelled, within `STOPPING`."""
        end = time.monotonic() + STOPPING
        while time.monotonic() < end:
            with contextlib.suppress(ServerLost):
                if (await self._places([prompt_id]))[prompt_id] != "running":
                    return True
            await asyncio.sleep(TICK)
        return False
