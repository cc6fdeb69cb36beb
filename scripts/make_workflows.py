"""Make example_workflows out of workflow_sources/examples: NAME.json (what people open), api/NAME.json and NAME.jpg.

    $(make -s python) scripts/make_workflows.py [--thumbnails] [NAME ...]

The API form is what the example's source says. The other form is written by ComfyUI's own front end, in a browser, for
the named examples and for those whose nodes, links or values have changed; layout.yaml then places the nodes of all.
--thumbnails makes NAME.jpg of the named examples, or of those where it is outdated: those that need no other files are
run, and the picture shows what comes out; that of the others shows their graph.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import picture_marks
from browser import drive_browser
from comfy_server import ComfyServer, find_comfyui
from generated import write
from PIL import Image, ImageOps
from rooms import load_room

files, layout, graph_picture, blueprints = (
    load_room("workflow_sources", name) for name in ("files", "layout", "graph_picture", "blueprints")
)
WORKFLOWS: Path = files.TEMPLATES
SIDE, MOST_BYTES = 512, 60_000  # of a thumbnail


def converted(server: ComfyServer, prompts: Mapping[str, Any]) -> dict[str, Any]:
    """Workflows in API form, by name, as the front end writes them."""
    paths = {}
    for name, prompt in prompts.items():
        source = server.base / "api" / f"{name}.json"  # the front end makes the graph's id of the name
        source.parent.mkdir(exist_ok=True)
        source.write_text(json.dumps(prompt), encoding="utf-8")
        paths[source] = server.base / f"{name}.json"
    drive_browser(
        "convert", server.url, *(str(path) for pair in paths.items() for path in pair), timeout=60 + 20 * len(paths)
    )
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths.values()}


def make_graphs(server: ComfyServer | None, names: Collection[str]) -> None:
    """Write the API form of all examples, then the front end's: of the named ones anew, by a server's front end."""
    write(files.api_files())
    if server and names:
        for name, graph in converted(server, {name: files.prompt_of(name) for name in names}).items():
            write({WORKFLOWS / f"{name}.json": files.arranged(graph, name)})
    write(files.graph_files())


def make_blueprints(server: ComfyServer | None) -> None:
    """Write the blueprints; those whose nodes, links or values have changed by a server's front end."""
    changed = {one.name: one for one in blueprints.blueprints() if files.outdated_blueprint(one)}
    if changed and server is None:
        with own_server() as started:
            make_blueprints(started)
            return
    if server:
        for name, graph in converted(server, {name: one.prompt for name, one in changed.items()}).items():
            write({changed[name].path: blueprints.packed(graph, changed[name])})
    write(files.blueprint_files())


def thumbnail(pictures: list[Image.Image], background: str = "white") -> bytes:
    """The pictures below each other in a square, as JPEG, in the best quality that is small enough."""
    shown = [picture.convert("RGB") for picture in pictures]
    width = max(picture.width for picture in shown)
    shown = [picture.resize((width, round(picture.height * width / picture.width))) for picture in shown]
    sheet = Image.new("RGB", (width, sum(picture.height for picture in shown)), background)
    for index, picture in enumerate(shown):
        sheet.paste(picture, (0, sum(other.height for other in shown[:index])))
    sheet.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    square = ImageOps.pad(sheet, (SIDE, SIDE), color=background)
    for quality in range(90, 40, -5):
        data = io.BytesIO()
        square.save(data, "JPEG", quality=quality, optimize=True)
        if data.tell() <= MOST_BYTES:
            break
    return data.getvalue()


def results(server: ComfyServer, name: str, nodes: Collection[int | str]) -> list[Image.Image]:
    """Run a workflow, with nothing kept of those before; returns the first picture that each of the nodes shows."""
    prompt: dict[str, Any] = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
    server.post("/free", {"unload_models": True, "free_memory": True})
    time.sleep(1)  # the server does it when its queue wakes up
    shutil.rmtree(server.base / "output", ignore_errors=True)  # trainings' checkpoints are there
    started = time.monotonic()
    outputs = server.run(prompt).outputs
    print(f"[workflows] ran {name} in {time.monotonic() - started:.0f} s")
    return [Image.open(io.BytesIO(server.image(outputs[str(node)]["images"][0]))) for node in nodes]


def shown_nodes(name: str) -> list[int | str]:
    """The nodes whose results are an example's thumbnail; none where its graph is."""
    nodes = layout.read(name).get("thumbnail") or []
    return nodes if isinstance(nodes, list) else [nodes]


def thumbnail_marks() -> dict[Path, str]:
    """What each thumbnail is made from."""
    marks = {}
    for name in files.names():
        if nodes := shown_nodes(name):
            mark = picture_marks.digest(nodes, files.computed(name))
        else:
            mark = picture_marks.digest(graph_picture.shown(files.graph_of(name)))
        marks[WORKFLOWS / f"{name}.jpg"] = mark
    return marks


def make_thumbnails(names: Collection[str]) -> None:
    """Run the named examples, or draw their graphs, and write the pictures of the template browser."""
    with contextlib.ExitStack() as stack:
        server = None
        for path, mark in picture_marks.chosen(thumbnail_marks(), names).items():
            if nodes := shown_nodes(path.stem):
                server = server or stack.enter_context(own_server())
                picture = thumbnail(results(server, path.stem, nodes))
            else:
                picture = thumbnail([graph_picture.draw(files.graph_of(path.stem))], graph_picture.BACKGROUND)
            picture_marks.write(path, picture, mark)


@contextlib.contextmanager
def own_server() -> Iterator[ComfyServer]:
    """A server in a temporary folder."""
    with tempfile.TemporaryDirectory() as base, ComfyServer(find_comfyui(), Path(base)) as server:
        yield server


def make(names: Collection[str] = ()) -> None:
    """Make the graphs of these examples; without names those that are outdated."""
    changed = names or [name for name in files.names() if files.outdated(name)]
    if not changed:
        make_graphs(None, ())
        return
    with own_server() as server:
        make_graphs(server, changed)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--thumbnails", action="store_true", help="also make the pictures")
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    make(options.names)
    if options.thumbnails:
        outdated = [path.stem for path in picture_marks.outdated(thumbnail_marks())]
        if names := options.names or outdated:
            make_thumbnails(names)


if __name__ == "__main__":
    main()
