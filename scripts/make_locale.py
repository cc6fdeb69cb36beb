"""Write locales/en/nodeDefs.json, the texts that translators start from, out of the nodes themselves.

    $(make -s python) scripts/make_locale.py
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from comfy_server import ROOT, ComfyServer, find_comfyui

TARGET = ROOT / "locales" / "en" / "nodeDefs.json"


def texts(node: dict[str, Any]) -> dict[str, Any]:
    """The part of a node's description in /object_info that people read, in the form of ComfyUI's locale files."""
    inputs = {}
    for group in node["input"].values():
        for name, definition in group.items():
            options = definition[1] if len(definition) > 1 else {}
            inputs[name] = {"name": options.get("display_name") or name, "tooltip": options.get("tooltip", "")}
    outputs = {}
    for index, name in enumerate(node["output_name"]):
        outputs[str(index)] = {"name": name, "tooltip": (node.get("output_tooltips") or [""])[index] or ""}
    return {"display_name": node["display_name"], "description": node["description"], "inputs": inputs,
            "outputs": outputs}


def main() -> None:
    """Ask a server for the nodes and write the file."""
    with tempfile.TemporaryDirectory() as base, ComfyServer(find_comfyui(), Path(base)) as server:
        found = {name: texts(node) for name, node in sorted(server.get("/object_info").items())
                 if node["python_module"] == f"custom_nodes.{server.pack_name}"}
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    part = TARGET.with_suffix(".part")
    part.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, TARGET)
    print(f"[locale] wrote {TARGET.relative_to(ROOT)}: {len(found)} nodes")


if __name__ == "__main__":
    main()
