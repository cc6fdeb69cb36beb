"""Make example_workflows/NAME.json (what people open) from example_workflows/api/NAME.json.

    $(make -s python) scripts/make_workflows.py [--thumbnails] [NAME ...]

ComfyUI's own front end writes them; layout.py places the nodes as layouts/NAME.yaml says. --thumbnails also runs those
that need no other files, and makes NAME.jpg of what comes out; the picture of the others is their graph.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from comfy_server import ROOT, ComfyServer, drive_browser, find_comfyui
from graph_picture import BACKGROUND, draw
from layout import arrange, read
from PIL import Image, ImageOps

WORKFLOWS = ROOT / "example_workflows"
SIDE, MOST_BYTES = 512, 60_000  # of a thumbnail


def convert(server: ComfyServer, names: list[str]) -> None:
    """Write the front end's form of the named workflows."""
    pairs = [str(path) for name in names for path in (WORKFLOWS / "api" / f"{name}.json", WORKFLOWS / f"{name}.json")]
    drive_browser("convert", server.url, *pairs, timeout=60 + 20 * len(names))
    for name in names:
        path = WORKFLOWS / f"{name}.json"
        graph = json.loads(path.read_text(encoding="utf-8"))
        arrange(graph, name)
        path.write_text(json.dumps(graph, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"[workflows] wrote {path.relative_to(ROOT)}")


def write_thumbnail(pictures: list[Image.Image], path: Path, background: str = "white") -> None:
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
    path.write_bytes(data.getvalue())
    print(f"[workflows] wrote {path.relative_to(ROOT)}, {data.tell() / 1024:.0f} kB")


def results(server: ComfyServer, name: str, nodes: list[int]) -> list[Image.Image]:
    """Run a workflow, with nothing kept of those before, and the first picture that each of the nodes shows."""
    prompt: dict[str, Any] = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
    server.post("/free", {"unload_models": True, "free_memory": True})
    time.sleep(1)  # the server does it when its queue wakes up
    shutil.rmtree(server.base / "output", ignore_errors=True)  # trainings' checkpoints are there
    started = time.monotonic()
    outputs = server.run(prompt).outputs
    print(f"[workflows] ran {name} in {time.monotonic() - started:.0f} s")
    return [Image.open(io.BytesIO(server.image(outputs[str(node)]["images"][0]))) for node in nodes]


def main() -> None:
    """Convert the named workflows, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--thumbnails", action="store_true", help="also run them and make the pictures")
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    names = options.names or sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json"))
    with tempfile.TemporaryDirectory() as base, ComfyServer(find_comfyui(), Path(base)) as server:
        convert(server, names)
        for name in names if options.thumbnails else ():
            nodes = read(name).get("thumbnail", [])
            if nodes:
                pictures = results(server, name, nodes if isinstance(nodes, list) else [nodes])
                write_thumbnail(pictures, WORKFLOWS / f"{name}.jpg")
            else:
                graph = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
                write_thumbnail([draw(graph)], WORKFLOWS / f"{name}.jpg", BACKGROUND)


if __name__ == "__main__":
    main()
