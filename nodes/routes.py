"""Read-only routes over the runs in ComfyUI's output folder and over what scorers need, for the page and for programs.

    GET /deft/v1/runs                           the runs, the newest first
    GET /deft/v1/runs/ID                        one run: its curve, settings, checkpoints, previews and scores
    GET /deft/v1/runs/ID/previews/STEP          the pictures of a step, as JPEG
    GET /deft/v1/protocols                      the scoring protocols whose weights are on this machine

An ID is looked up among the runs that lie there, so that no request names a path. What there is not is a 404.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import folder_paths
from aiohttp import web
from server import PromptServer

from ..scoring.scores import whole_lines
from ..trainers.run import history
from .scorer_files import ready

_PREFIX = "/deft/v1/runs"
LARGEST_SCORES = 8 << 20  # bytes
_SCORES = re.compile(rf"(?!{re.escape(history.LOG)}$).+\.jsonl")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def output_folder() -> Path:
    """The folder below which runs lie."""
    return Path(folder_paths.get_output_directory()).resolve()


def run_list(root: Path) -> dict[str, Any]:
    """All runs in few words."""
    return {"runs": [history.summary(root, folder) for folder in history.runs(root).values()]}


def one_run(root: Path, name: str) -> dict[str, Any] | None:
    """All of a run; None if there is none of that id."""
    folder = history.runs(root).get(name)
    if folder is None:
        return None
    details = history.detail(root, folder)
    scores, problems = scores_in(folder)
    return details | {
        "scores": scores,
        "problems": [history.text(each) for each in (*details["problems"], *problems)][:50],
    }


def preview(root: Path, name: str, step: int) -> bytes | None:
    """The JPEG of a run's preview; None if there is none."""
    folder = history.runs(root).get(name)
    return None if folder is None else history.preview(folder, step)


def scores_in(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The means of the scores that lie in a run's folder, as Score Table and Save Scores write them, and what of their
    files is damaged."""
    rows: list[tuple[Any, ...]] = []
    problems: list[str] = []
    for file in sorted(folder.iterdir()):
        data = history.read_bytes(file, LARGEST_SCORES) if _SCORES.fullmatch(file.name) else None
        try:
            whole = whole_lines(data or b"", file.name)
            rows += [(row.label, row.subject, row.metric, row.value, row.images) for row in whole.scores.rows]
            problems += whole.problems
        except (ValueError, OverflowError) as error:
            problems.append(f"{error} The file is skipped.")
    names = ("label", "subject", "metric", "value", "images")
    return [history.simple(dict(zip(names, row, strict=True))) for row in rows[:200]], problems


def as_json(value: Any) -> web.Response:
    """An answer that no browser keeps; 404 for None."""
    status, shown = (404, {"error": "not found"}) if value is None else (200, value)
    return web.Response(
        text=json.dumps(shown, allow_nan=False),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
    )


def safely(handler: Handler) -> Handler:
    """The handler, with an answer also where reading fails."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except (OSError, ValueError, RecursionError) as error:
            logging.warning(f"{request.path}: {type(error).__name__}: {error}")
            return web.json_response({"error": "it cannot be read"}, status=500)

    return answer


async def list_runs(request: web.Request) -> web.StreamResponse:
    """GET /deft/v1/runs."""
    return as_json(await asyncio.to_thread(run_list, output_folder()))


async def show_run(request: web.Request) -> web.StreamResponse:
    """GET /deft/v1/runs/ID."""
    return as_json(await asyncio.to_thread(one_run, output_folder(), request.match_info["run"]))


async def show_preview(request: web.Request) -> web.StreamResponse:
    """GET /deft/v1/runs/ID/previews/STEP."""
    run, step = request.match_info["run"], int(request.match_info["step"])
    data = await asyncio.to_thread(preview, output_folder(), run, step)
    if data is None:
        return as_json(None)
    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    return web.Response(body=data, content_type="image/jpeg", headers=headers)


async def list_protocols(request: web.Request) -> web.StreamResponse:
    """GET /deft/v1/protocols."""
    return as_json({"ready": await asyncio.to_thread(ready)})


HANDLERS: dict[str, Handler] = {
    "/deft/v1/protocols": list_protocols,
    _PREFIX: list_runs,
    _PREFIX + "/{run:[0-9a-f]{16}}": show_run,
    _PREFIX + r"/{run:[0-9a-f]{16}}/previews/{step:\d{1,12}}": show_preview,
}


def register_routes() -> None:
    """Give the routes to ComfyUI's server, if there is one; once, though there may be two copies of the pack."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return
    there = {route.path for route in server.routes if isinstance(route, web.RouteDef)}
    for path, handler in HANDLERS.items():
        if path not in there:
            server.routes.get(path)(safely(handler))
