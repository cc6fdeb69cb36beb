"""One real ComfyUI server for all tests of this folder, in a base folder of its own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ..everyday import name_of
from ..scripts import load_script
from ..search_words import WORDS
from .sweep_tools import servers_python

ROOT = Path(__file__).resolve().parent.parent.parent
NODES = sorted(folder.name for folder in (ROOT / "web" / "docs").iterdir())
# Whose help is opened: all in English. In another language some show that the page takes that language's files; what
# stands in the files is held by tests/comfy/test_help.py.
OPENED = {"en": NODES, "zh": NODES[::5]}
TEMPLATE = "train_with_previews"  # the example that is opened from the template browser


@pytest.fixture(scope="session")
def make_locale(server: Any) -> Any:
    """scripts/make_locale.py; it imports comfy_server, which the server's fixture has loaded."""
    return load_script("make_locale")


def is_of_sweeps(item: pytest.Item) -> bool:
    """Whether a test is in one of the files of sweeps."""
    return item.path.name.startswith("test_sweep")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A running ComfyServer (scripts/comfy_server.py) with the pack; a fork where tests of sweeps have some anyway."""
    comfy_server = load_script("comfy_server")
    base = tmp_path_factory.mktemp("server base")
    comfyui = comfy_server.find_comfyui()
    python = str(servers_python()) if any(is_of_sweeps(item) for item in request.session.items) else sys.executable
    (base / "input").mkdir()
    shutil.copy(comfyui / "input" / "example.png", base / "input")  # which every ComfyUI has, and an example names
    with comfy_server.ComfyServer(comfyui, base, python=python) as running:
        yield running
    assert running.process.poll() is not None
    shutil.rmtree(base, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort tests that need the page last: it is drawn as long as it is open."""
    items.sort(key=lambda item: "drive_browser" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def browser() -> Any:
    """scripts/browser.py; skips where there is no browser."""
    module = load_script("browser")
    try:
        module.browser_environment()
    except RuntimeError as missing:
        pytest.skip(str(missing))
    return module


@pytest.fixture(scope="session")
def drive_browser(server: Any, browser: Any) -> Iterator[Callable[..., Any]]:
    """Runs a command of scripts/browser.mjs on the page that all tests of this server share."""
    with browser.Browser(server.url) as page:
        yield page.ask


@pytest.fixture(scope="session")
def drive_new_browser(server: Any, browser: Any) -> Callable[..., Any]:
    """Runs a command of scripts/browser.mjs in a browser of its own: for another front end, and for what leaves
    the page changed."""
    return lambda command, *words, **options: browser.drive_browser(command, server.url, *words, **options)


Job = tuple[object, ...]
Seen = Callable[[str, str], Any]


def done_by(drive: Callable[..., Any], jobs: Mapping[str, Job], timeout: float = 300.0) -> dict[str, Any]:
    """What the page shows of each job, by name; an error for one that fails, the others are done all the same."""
    seen: dict[str, Any] = {}
    for name, job in jobs.items():
        try:
            seen[name] = drive(*job, timeout=timeout)
        except RuntimeError as error:
            seen[name] = error
    return seen


@pytest.fixture(scope="session")
def in_language(server: Any, drive_browser: Callable[..., Any], request: pytest.FixtureRequest) -> Seen:
    """What the page shows in a language: "help" and "search", and "templates" in English; of the tests that are run."""
    jobs: dict[str, dict[str, tuple[str, Job]]] = {
        language: {
            "help": ("test_every_node_has_help_and_names", ("help", language, *OPENED[language])),
            "search": ("test_search_finds_what_people_type", ("search", language, *WORDS)),
        }
        for language in OPENED
    }
    jobs["en"]["templates"] = ("test_template_browser", ("templates", server.pack_name, TEMPLATE))
    asked = {name_of(item) for item in request.session.items}

    @cache
    def look(language: str) -> dict[str, Any]:
        chosen = {name: job for name, (test, job) in jobs[language].items() if test in asked}
        return done_by(drive_browser, chosen)

    return lambda language, name: result_of(look(language), name)


def result_of(seen: Mapping[str, Any], name: str) -> Any:
    """What a command of a page has returned; its error where it failed."""
    if isinstance(seen[name], RuntimeError):
        raise seen[name]
    return seen[name]
