"""Write web/docs/<NodeId>/node.png, the pictures of the help pages: each node as the real front end draws it.

$(make -s python) scripts/make_node_pictures.py [NODE_ID ...]
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from browser import drive_browser
from comfy_server import ROOT, ComfyServer, find_comfyui
from make_help import members_of
from PIL import Image
from PIL.PngImagePlugin import PngInfo

DOCS = ROOT / "web" / "docs"
_ADAPTER = "my_dog_deft.safetensors"  # what the file widgets show; nothing is read


def shown(node: dict[str, Any]) -> str:
    """The text of the picture of a node of /object_info; it stands in the file, so that a test sees an old picture."""
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


def text_of(path: Path) -> str:
    """The text in a picture; empty where there is no picture or none of a node."""
    if not path.is_file():
        return ""
    with Image.open(path) as picture:
        return str(picture.info.get("Description", ""))


def shrink(source: Path, target: Path, text: str) -> None:
    """Write a screenshot as a PNG with a palette: some kilobytes, and no difference that one sees."""
    part, info = target.with_suffix(".part"), PngInfo()
    info.add_text("Description", text)
    with Image.open(source) as picture:
        small = picture.convert("RGB").quantize(256, kmeans=2, dither=Image.Dither.NONE)
    small.save(part, "PNG", optimize=True, pnginfo=info)
    os.replace(part, target)


def take(server: ComfyServer, names: list[str]) -> None:
    """Take the pictures of these nodes; of all nodes of the pack if there are no names."""
    info = server.get("/object_info")
    ours = sorted(name for name in info if info[name]["python_module"] == f"custom_nodes.{server.pack_name}")
    if unknown := set(names) - set(ours):
        sys.exit(f"The pack has no node {', '.join(sorted(unknown))}; it has {', '.join(ours)}.")
    pictures = {name: server.base / f"{name}.png" for name in names or ours}
    drive_browser("nodes", server.url, *(str(word) for pair in pictures.items() for word in pair))
    for name, picture in pictures.items():
        target = DOCS / name / "node.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shrink(picture, target, shown(info[name]))
        print(f"[pictures] wrote {target.relative_to(ROOT)}: {target.stat().st_size / 1000:.0f} kB")


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
