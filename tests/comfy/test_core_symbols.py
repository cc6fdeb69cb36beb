"""What the pack takes of ComfyUI is there: each symbol and route by its name, which a newer one may have dropped."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from ..scripts import load_script
from .conftest import comfyui_folder

scripts: Any = load_script("core_symbols")
SYMBOLS = scripts.symbols()


def test_this_comfyui_has_them_all() -> None:
    assert len(SYMBOLS) > 100
    lacking = scripts.Core(comfyui_folder()).lacking()
    assert [each for each in lacking if not each.startswith("(")] == []


def test_the_source_is_read_as_python_reads_it(comfyui: Any) -> None:
    """Each symbol is there when ComfyUI runs, too."""
    gone = []
    for symbol in SYMBOLS:
        try:
            value = importlib.import_module(symbol.module)
            for name in symbol.names:
                value = getattr(value, name)
        except (ImportError, AttributeError):
            gone.append(symbol)
    assert [str(symbol) for symbol in gone if not symbol.optional] == []


def test_the_routes_are_the_servers(comfyui: Any) -> None:
    """The routes are those that aiohttp has in the server that runs."""
    server = sys.modules["server"].PromptServer.instance
    forms = {route.path for route in server.routes if hasattr(route, "path")}
    texts = {path for path in scripts.routes() if "{}" not in path and "/embeddings" not in path}
    assert len(texts) > 5
    assert texts - forms <= {"/experiment/models"}  # of a class of its own


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """A ComfyUI of a few lines."""
    other = "class Base:\n    LIMIT: int = 3\n\nclass Bar(Base):\n    def __init__(self):\n        self.n = 1\n"
    server = "@routes.get('/view')\nasync def view(request): ...\n\n"
    files = {
        "comfy/utils.py": "from .other import *\ntry:\n    import fast as slow\nexcept ImportError:\n    slow = None\n",
        "comfy/other.py": other,
        "comfy/__init__.py": "",
        "server.py": f"{server}@routes.post('/models/{{folder}}/{{name:.*}}')\nasync def model(request): ...\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("module", "names", "present"),
    [
        ("comfy.utils", (), True),
        ("comfy.gone", (), False),
        ("comfy", ("utils", "Bar"), True),
        ("comfy.utils", ("Bar", "n"), True),
        ("comfy.utils", ("Bar", "LIMIT"), True),
        ("comfy.utils", ("slow", "anything"), True),
        ("comfy.utils", ("Bar", "gone"), False),
        ("comfy.other", ("slow",), False),
        ("comfy.utils", ("gone",), False),
    ],
)
def test_what_was_dropped_is_noticed(core: Path, module: str, names: tuple[str, ...], present: bool) -> None:
    assert scripts.Core(core).has(scripts.Symbol(module, names)) == present


def test_what_was_dropped_is_named(core: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [scripts.Symbol("comfy.utils", ("Bar",)), scripts.Symbol("comfy.utils", ("gone",))]
    monkeypatch.setattr(scripts, "symbols", lambda: [*taken, scripts.Symbol("comfy.later", (), True)])
    monkeypatch.setattr(scripts, "routes", lambda: ["/view", "/models/{}/{}", "/gone"])
    lines, fails = scripts.report({"mine": core})
    assert fails
    assert lines == [
        "[core] mine: 3 symbols and 3 routes, 2 of them lacking",
        "    comfy.utils.gone",
        "    (comfy.later)",
        "    the route /gone",
    ]
