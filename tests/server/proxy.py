"""Things that stand between a client and ComfyUI, as networks and reverse proxies do, in a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from typing import Any

from aiohttp import ClientSession, WSMsgType, web


class Proxy:
    """A reverse proxy. target: the server behind it.

    swallow: messages of each websocket that are passed on; those after them are not, while the websocket stays up and
    answers. prefix: the path under which the server lies. door: headers that it asks for; status: its answer to
    requests without them. tls: its certificate.
    """

    def __init__(
        self,
        target: str,
        swallow: int | None = None,
        prefix: str = "",
        door: dict[str, str] | None = None,
        status: int = 401,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.target, self.swallow, self.prefix = target, swallow, prefix
        self.door, self.status, self.tls = door or {}, status, tls
        self.sockets = 0
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on."""
        if any(request.headers.get(name) != value for name, value in self.door.items()):
            return web.Response(status=self.status, headers={"Location": "/login?next=secret"})
        if not request.path_qs.startswith(f"{self.prefix}/"):
            return web.Response(status=404)
        target = self.target + request.path_qs.removeprefix(self.prefix)
        async with ClientSession() as session:
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await self._websocket(request, session, target)
            kept = {name: value for name, value in request.headers.items() if name == "Content-Type"}
            async with session.request(request.method, target, data=await request.read(), headers=kept) as answer:
                return web.Response(
                    status=answer.status, body=await answer.read(), content_type=answer.content_type or None
                )

    async def _websocket(self, request: web.Request, session: ClientSession, target: str) -> web.StreamResponse:
        here = web.WebSocketResponse()
        await here.prepare(request)
        self.sockets += 1
        async with session.ws_connect(target, max_msg_size=0) as there:
            listening = asyncio.create_task(here.receive())  # or it would not answer pings
            left = self.swallow
            while not listening.done():
                receiving = asyncio.create_task(there.receive())
                await asyncio.wait({receiving, listening}, return_when=asyncio.FIRST_COMPLETED)
                if not receiving.done() or receiving.result().type is not WSMsgType.TEXT:
                    receiving.cancel()
                    if receiving.done() and receiving.result().type is WSMsgType.BINARY:
                        continue
                    break
                if left is None or left > 0:
                    await here.send_str(receiving.result().data)
                left = None if left is None else left - 1
            listening.cancel()
        return here

    @contextlib.asynccontextmanager
    async def served(self) -> Any:
        """Serve while the block runs."""
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self.tls).start()
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}{self.prefix}"
        try:
            yield self
        finally:
            await runner.cleanup()


class Cable:
    """A TCP connection to the server that can be cut: what is open then stays open, and nothing comes through it."""

    def __init__(self, target: str) -> None:
        self.host, _, self.port = target.removeprefix("http://").rpartition(":")
        self.cut = asyncio.Event()
        self.connections = 0
        self.url = ""

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        cut = self.cut
        there = await asyncio.open_connection(self.host, int(self.port))

        async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 16):
                if cut.is_set():
                    await asyncio.Event().wait()
                sink.write(data)
                await sink.drain()
            if cut.is_set():
                await asyncio.Event().wait()
            sink.close()

        with contextlib.suppress(OSError):
            await asyncio.gather(pass_on(reader, there[1]), pass_on(there[0], writer))

    def cut_now(self) -> None:
        """Cut all that is open; what comes later is whole."""
        self.cut.set()
        self.cut = asyncio.Event()

    @contextlib.asynccontextmanager
    async def served(self) -> Any:
        """Serve while the block runs."""
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()


@contextlib.contextmanager
def in_thread(proxy: Any) -> Iterator[Any]:
    """Serve a proxy for other processes while the block runs."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    serving = proxy.served()
    asyncio.run_coroutine_threadsafe(serving.__aenter__(), loop).result(20)
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(serving.__aexit__(None, None, None), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()
