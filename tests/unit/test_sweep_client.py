"""The client against servers that fall silent: they take connections, and answer nothing."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from deft_pack.sweeps import client as module
from deft_pack.sweeps.client import Client
from deft_pack.sweeps.errors import ServerLost
from deft_pack.sweeps.facts import Facts


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds become tenths."""
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    monkeypatch.setattr(module, "SILENCE", 0.6)
    monkeypatch.setattr(module, "ASKING", 0.1)


class Silent:
    """A server that answers until it is told to be silent."""

    def __init__(self) -> None:
        self.silent = asyncio.Event()
        self.prompts: list[Any] = []
        self.sockets: list[web.WebSocketResponse] = []

    async def __aenter__(self) -> str:
        app = web.Application()
        app.add_routes([web.get("/ws", self.socket), web.post("/prompt", self.prompt), web.get("/queue", self.queue)])
        app.add_routes([web.get("/history/{id}", self.nothing)])
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    async def __aexit__(self, *_: object) -> None:
        await self.runner.cleanup()

    async def wait(self) -> None:
        """Wait for ever, if the server is silent."""
        if self.silent.is_set():
            await asyncio.Event().wait()

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        """The websocket; it answers questions by its own reading."""
        await self.wait()
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        reading = asyncio.create_task(socket.receive())
        await asyncio.wait({reading, asyncio.create_task(self.silent.wait())}, return_when=asyncio.FIRST_COMPLETED)
        reading.cancel()
        await self.wait()
        return socket

    async def prompt(self, request: web.Request) -> web.Response:
        """Take a prompt, and never run it."""
        await self.wait()
        self.prompts.append((await request.json())["prompt_id"])
        return web.json_response({})

    async def queue(self, request: web.Request) -> web.Response:
        """All prompts wait."""
        await self.wait()
        return web.json_response({"queue_running": [], "queue_pending": [[0, each] for each in self.prompts]})

    async def nothing(self, request: web.Request) -> web.Response:
        """Nothing has ended."""
        await self.wait()
        return web.json_response({})


async def lost(client: Client) -> None:
    """A prompt runs until its server counts as lost."""
    with pytest.raises(ServerLost):
        await client.run({}, lambda *_: None)


def test_a_server_that_falls_silent_is_lost() -> None:
    """While it only waits it is not; without an answer it is, after SILENCE and PATIENCE."""

    async def run() -> float:
        server = Silent()
        async with server as url, Client(url) as client:
            running = asyncio.create_task(lost(client))
            await asyncio.sleep(3)  # five times SILENCE, and no message but the answers to aiohttp's questions
            assert server.prompts
            assert not running.done()
            assert not client.lost
            server.silent.set()
            start = time.monotonic()
            await running
            return time.monotonic() - start

    assert asyncio.run(run()) > 0.3  # at least PATIENCE goes by


def test_a_server_that_never_answers_is_none() -> None:
    """Only the system takes the connection."""

    async def run() -> None:
        tried = asyncio.Event()

        async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await tried.wait()
            writer.close()  # since Python 3.12 a server's end waits for its connections

        async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
            with pytest.raises(ServerLost, match="does not answer as a ComfyUI server"):
                await asyncio.wait_for(
                    Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}").__aenter__(), 20
                )
            tried.set()

    asyncio.run(run())


def test_a_request_without_an_answer() -> None:
    async def run() -> None:
        server = Silent()
        async with server as url, Client(url) as client:
            server.silent.set()
            with pytest.raises(ServerLost, match="gives no answer"):
                await asyncio.wait_for(client.get("/queue"), 20)

    asyncio.run(run())


def test_an_error_of_who_is_told_is_not_lost() -> None:
    """What is told of messages raises: the run ends with that, and does not wait for ever."""

    async def run() -> None:
        server = Silent()
        async with server as url, Client(url) as client:
            running = asyncio.create_task(client.run({}, lambda *_: 1 / 0))
            while not server.prompts:
                await asyncio.sleep(0.01)
            await server.sockets[0].send_json({"type": "progress", "data": {"prompt_id": server.prompts[0]}})
            with pytest.raises(ZeroDivisionError):
                await asyncio.wait_for(running, 20)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("argv", "folders", "place"),
    [
        (["main.py", "--output-directory", "/work/output"], ["/work/output/embeddings"], ("output", "embeddings")),
        (["/comfy/main.py"], ["/comfy/models/embeddings"], None),
        (["/comfy/main.py"], ["/comfy/models/embeddings", "/comfy/input/my/embeddings"], ("input", "my/embeddings")),
        (["main.py", "--base-directory", "/base"], ["/base/output/embeddings"], ("output", "embeddings")),
        (["main.py", "--base-directory", "/base"], ["/comfy/output/embeddings"], None),
        (["main.py"], ["/comfy/output/embeddings"], None),
    ],
)
def test_where_an_embedding_can_be_sent(argv: list[str], folders: list[str], place: Any) -> None:
    """Embeddings go into a folder of embeddings in the output or input folder: /upload/image writes nowhere else."""
    facts = Facts({}, {"system": {"argv": argv}}, [Path("/comfy/output/loras"), *map(Path, folders)])
    assert facts.embeddings == place
