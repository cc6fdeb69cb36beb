"""Loads the checkout as the package `deft_pack`, whatever its folder is called, without ComfyUI."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from . import everyday
from .hub import Hub
from .preloaded import own_interpreter

ROOT = Path(__file__).resolve().parent.parent
sys.executable = own_interpreter()  # also in a fork, which scripts/test.py makes of some parts


def load_pack() -> None:
    """Put the repository root into sys.modules under the name that the tests import."""
    spec = importlib.util.spec_from_file_location(
        "deft_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["deft_pack"] = module
    spec.loader.exec_module(module)


if "deft_pack" not in sys.modules:
    load_pack()


REPEATS = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this size of the run does not repeat, and what an older ComfyUI has no part in."""
    version = everyday.NEWEST
    if any(everyday.place_of(item).startswith(everyday.COMBINED) for item in items):
        import comfyui_version

        version = tuple(map(int, comfyui_version.__version__.split(".")[:2]))
    choice = everyday.choose(items, everyday.size_of_run(), version)
    config.stash[REPEATS] = len(choice.repeats)
    items[:] = choice.kept
    config.hook.pytest_deselected(items=choice.repeats + choice.foreign)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """How many cases only `make test-all` has, and the time of this process and its children; scripts/test.py adds
    them up."""
    if config.stash.get(REPEATS, 0):
        terminalreporter.write_line(f"{config.stash[REPEATS]} combinations only in make test-all")
    terminalreporter.write_line(f"{sum(os.times()[:4]):.1f} s of CPU")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository root."""
    return ROOT


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    """The server in a thread of its own, as HF_ENDPOINT."""
    made, loop, ready = Hub(), asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        application = web.Application()
        application.add_routes(
            [web.get("/{owner}/{model}/resolve/main/{name}", made.resolve), web.get("/store/file", made.file)]
        )
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}")
        ready.set()

    thread = threading.Thread(target=lambda: (loop.run_until_complete(serve()), loop.run_forever()), daemon=True)
    thread.start()
    assert ready.wait(10)
    yield made
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
