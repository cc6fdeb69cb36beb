"""How the routes over the runs come to ComfyUI's server; what they answer is tested on a real one (tests/server)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web


def test_they_are_registered_once(pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The routes are not registered again by a second copy of the pack in custom_nodes."""
    routes = pack.nodes.routes
    table = web.RouteTableDef()
    monkeypatch.setattr(routes.PromptServer, "instance", SimpleNamespace(routes=table), raising=False)
    for _ in range(2):
        routes.register_routes()
    assert [(route.method, route.path) for route in table] == [("GET", path) for path in routes.HANDLERS]


def test_without_a_server_nothing_happens(pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack.nodes.routes.PromptServer, "instance", None, raising=False)
    pack.nodes.routes.register_routes()
