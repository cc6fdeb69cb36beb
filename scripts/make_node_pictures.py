"""Write web/docs/<NodeId>/node.png, the pictures of the help pages: each node as the real front end draws it.

$(make -s python) scripts/make_node_pictures.py [NODE_ID ...]
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import picture_marks
from browser import drive_browser
from comfy_server import ROOT, ComfyServer, find_comfyui
from make_help import members_of
from PIL import Image

DOCS = ROOT / "web" / "docs"
_ADAPTER = "my_dog_deft.safetensors"  # what the file widgets show; nothing is read


def shown(node: dict[str, Any]) -> str:
    """The text of the picture of a node of /object_info, which is also the picture's mark."""
    return "\n".join([node["display_name"], *visible(node["input"]), *node["output_name"]])


def visible(groups: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The names of the inputs on a new node: those of a dynamic choice's first option, the first of a growing input's.

    What comes with another option is on no picture, so a new option leaves the picture as it is.
    """
    for name, kind, options, _ in members_of(groups):
        if kind == "COMFY_AUTOGROW_V3":
            template = options["template"]
            yield from (f"{name}.{template['prefix']}{number}" for number in range(template["min"] + 1))
            continue
        yield prefix + name
        if kind == "COMFY_DYNAMICCOMBO_V3":
            yield from visible(options["options"][0]["inputs"], f"{prefix}{name}.")


def marks(nodes: Mapping[str, Any]) -> dict[Path, str]:
    """What should be the mark of each node's picture. nodes: those of the pack in /object_info."""
    return {DOCS / name / "node.png": shown(node) for name, node in nodes.items()}


def shrunk(source: Path) -> bytes:
    """A screenshot as a PNG with a palette: some kilobytes, and no difference that one sees."""
    data = io.BytesIO()
    with Image.open(source) as picture:
        small = picture.convert("RGB").quantize(256, kmeans=2, dither=Image.Dither.NONE)
    small.save(data, "PNG", optimize=True)
    return data.getvalue()


def take(server: ComfyServer, names: list[str]) -> None:
    """Take the pictures of these nodes; of all nodes of the pack if there are no names."""
    info = server.get("/object_info")
    ours = sorted(name for name in info if info[name]["python_module"] == f"custom_nodes.{server.pack_name}")
    if unknown := set(names) - set(ours):
        sys.exit(f"The pack has no node {', '.join(sorted(unknown))}; it has {', '.join(ours)}.")
    pictures = {name: server.base / f"{name}.png" for name in names or ours}
    drive_browser("nodes", server.url, *(str(word) for pair in pictures.items() for word in pair))
    for name, picture in pictures.items():
        picture_marks.write(DOCS / name / "node.png", shrunk(picture), shown(info[name]))


def main() -> None:
    """A server of its own, with an adapter file to choose."""
    with tempfile.TemporaryDirectory() as base:
        loras = Path(base) / "models" / "loras"
        loras.mkdir(parents=True)
        (loras / _ADAPTER).touch()
        (loras / "my_dog_steps").mkdir()
        (loras / "my_dog_steps" / _ADAPTER).touch()
        with ComfyServer(find_comfyui(), Path(base)) as server:
            take(server, sys.argv[1:])


if __name__ == "__main__":
    main()
