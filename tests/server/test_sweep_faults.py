"""What happens to a prompt between a client and a real server: queues that are cleared, websockets that fall silent."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from deft_pack.sweeps import client as client_module
from deft_pack.sweeps import waiting as waiting_module
from deft_pack.sweeps.client import Client
from deft_pack.sweeps.errors import Interrupted, TooLong
from deft_pack.sweeps.workflow import needed_by

from .proxy import Cable, Proxy
from .sweep_tools import read_until, runs, start, sweeps, trained, write_plan


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is asked sooner."""
    monkeypatch.setattr(waiting_module, "QUIET", 0.5)
    monkeypatch.setattr(waiting_module.Waiting, "pause", 0.5)
    monkeypatch.setattr(client_module, "TICK", 0.05)
    monkeypatch.setattr(client_module, "ASKING", 2.0)


def sampling(steps: int, seed: int) -> dict[str, Any]:
    """A picture of the demo's model, which takes its time by its steps."""
    workflow = copy.deepcopy(trained())
    ids = {node["_meta"]["title"]: node_id for node_id, node in workflow.items()}
    sample = workflow[ids["Sample"]]["inputs"]
    sample |= {"steps": steps, "seed": seed, "model": [ids["Model"], 0]}
    return {node_id: workflow[node_id] for node_id in sorted(needed_by(workflow, [ids["Save picture"]]))}


SEEDS = iter(range(int(time.time()), 2**40))  # a picture that ComfyUI has made already has no steps


async def until(there: Callable[[], Any]) -> Any:
    """Wait for what a function gives."""
    end = time.monotonic() + 60
    while not (value := await asyncio.to_thread(there)):
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    return value


@contextlib.asynccontextmanager
async def a_busy_server(server: Any) -> AsyncIterator[None]:
    """A server with a long prompt of somebody else's, which ends with the block."""
    async with Client(server.url) as other:
        running = asyncio.create_task(other.run(sampling(10000, next(SEEDS)), lambda *_: None))
        await until(lambda: server.get("/queue")["queue_running"])
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await until(lambda: not server.get("/queue")["queue_running"])


def pictures(finished: Any) -> int:
    return sum(len(shown.get("images", ())) for shown in finished.outputs.values())


@pytest.mark.parametrize("way", ["clear", "delete"])
def test_a_prompt_that_was_taken_out_of_the_queue_is_sent_again(server: Any, way: str) -> None:
    events: list[str] = []

    async def run() -> Any:
        async with Client(server.url) as client:
            async with a_busy_server(server):
                mine = asyncio.create_task(client.run(sampling(2, next(SEEDS)), lambda kind, _: events.append(kind)))
                (waits,) = await until(lambda: server.get("/queue")["queue_pending"])
                server.post("/queue", {"clear": True} if way == "clear" else {"delete": [waits[1]]})
                (again,) = await until(lambda: server.get("/queue")["queue_pending"])
                assert again[1] != waits[1]
                assert not mine.done()
            return await asyncio.wait_for(mine, 60)

    assert pictures(asyncio.run(run())) == 1
    assert events.count("sent_again") == 1
    assert events.count("execution_success") == 1


def test_a_prompt_that_is_always_taken_out_is_cancelled(server: Any) -> None:
    """Somebody wants it away. Nor is it sent again after the runner was asked to stop."""

    async def run(sends_again: bool) -> int:
        times = 0
        async with Client(server.url) as client, a_busy_server(server):
            client.sends_again = sends_again
            mine = asyncio.create_task(client.run(sampling(2, next(SEEDS)), lambda *_: None))
            while not mine.done():
                times += bool(server.get("/queue")["queue_pending"])
                server.post("/queue", {"clear": True})
                await asyncio.sleep(0.05)
            with pytest.raises(Interrupted, match="from the server's queue"):
                await mine
        return times

    assert asyncio.run(run(True)) == client_module.SENDS
    assert asyncio.run(run(False)) == 1


@pytest.mark.parametrize("swallow", [0, 4])
def test_a_websocket_that_falls_silent(server: Any, swallow: int) -> None:
    """HTTP says that a prompt has ended, and another websocket is opened."""

    async def run() -> tuple[int, int]:
        proxy = Proxy(server.url, swallow)
        async with proxy.served(), Client(proxy.url) as client:
            first = await asyncio.wait_for(client.run(sampling(2, next(SEEDS)), lambda *_: None), 60)
            second = await asyncio.wait_for(client.run(sampling(2, next(SEEDS)), lambda *_: None), 60)
            await until(lambda: proxy.sockets > 1)
            assert not client.lost
            return pictures(first), pictures(second)

    assert asyncio.run(run()) == (1, 1)


def test_a_connection_that_is_open_at_one_end_only(server: Any) -> None:
    """Neither messages nor the end of the connection come through any more, and new connections do."""

    async def run() -> int:
        cable = Cable(server.url)
        async with cable.served(), Client(cable.url) as client:
            begun = asyncio.Event()
            mine = asyncio.create_task(client.run(sampling(40, next(SEEDS)), lambda *_: begun.set()))
            await begun.wait()
            before = cable.connections
            cable.cut_now()
            finished = await asyncio.wait_for(mine, 60)
            assert cable.connections > before
            return pictures(finished)

    assert asyncio.run(run()) == 1


@pytest.mark.parametrize("when", ["execution_start", "executing"])
def test_the_history_is_cleared(server: Any, when: str) -> None:
    """While a prompt runs, or after its end and before the client has read it: it is not run once more."""
    events: list[str] = []

    def on_event(kind: str, data: dict[str, Any]) -> None:
        events.append(kind)
        if kind == when and (kind != "executing" or data["node"] is None):
            server.post("/history", {"clear": True})

    async def run() -> Any:
        async with Client(server.url) as client:
            return await asyncio.wait_for(client.run(sampling(2, next(SEEDS)), on_event), 60)

    finished = asyncio.run(run())
    assert pictures(finished) == 1
    assert finished.seconds > 0
    assert events.count("execution_start") == 1
    assert bool(server.get("/history")) == (when == "execution_start")


def test_a_prompt_that_runs_too_long(server: Any) -> None:
    """The server has ended it when its error comes. (When its time begins: tests/unit/test_sweep_waiting.py.)"""

    async def run() -> None:
        async with Client(server.url) as client:
            with pytest.raises(TooLong, match="longer than 0.5 s") as caught:
                await asyncio.wait_for(client.run(sampling(10000, next(SEEDS)), lambda *_: None, 0.5), 60)
            assert caught.value.stopped

    asyncio.run(run())
    assert not server.get("/queue")["queue_running"]


def test_a_plan_with_a_time_limit(server: Any, tmp_path: Path) -> None:
    text = "axes: {steps: {into: Sample.steps, values: [9999, 10000]}}\ntime_limit: 0.5\n"
    plan = write_plan(tmp_path, sampling(2, next(SEEDS)), text)
    out = sweeps("run", plan, "--store", tmp_path / "store", "--server", server.url, status=1)
    assert "0 done, 2 failed, 0 cancelled" in out
    errors = {run["error"] for run in runs(tmp_path / "store", "failed").values()}
    assert errors == {"it ran longer than 0.5 s (`time_limit` in the plan), and was interrupted"}


def test_one_control_c_after_the_queue_was_cleared(server: Any, tmp_path: Path) -> None:
    """The cell that waited is not sent again, and the one that runs is waited for."""
    seeds = f"axes: {{seed: {{into: Sample.seed, seeds: 3, first: {next(SEEDS)}}}}}\n"
    plan = write_plan(tmp_path, sampling(10000, 0), seeds)
    process = start("run", plan, "--store", tmp_path / "store", "--server", server.url)
    read_until(process, "cells to run")
    end = time.monotonic() + 60
    while [len(each) for each in server.get("/queue").values()] != [1, 1]:
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    read_until(process, "finishing")
    server.post("/queue", {"clear": True})
    assert "cancelled" in read_until(process, "from the server's queue")
    server.post("/interrupt", {})
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert "0 done, 0 failed, 2 cancelled" in out
