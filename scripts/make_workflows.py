"""Make example_workflows/NAME.json (what people open) from example_workflows/api/NAME.json, by ComfyUI's own front end.

    $(make -s python) scripts/make_workflows.py [NAME ...]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from comfy_server import ROOT, ComfyServer, drive_browser, find_comfyui
from make_plans import NOTES
from make_tables import TABLES, arrange, note_node

WORKFLOWS = ROOT / "example_workflows"


def main() -> None:
    """Convert the named workflows, or all."""
    names = sys.argv[1:] or sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json"))
    pairs = [str(path) for name in names for path in (WORKFLOWS / "api" / f"{name}.json", WORKFLOWS / f"{name}.json")]
    with tempfile.TemporaryDirectory() as base, ComfyServer(find_comfyui(), Path(base)) as server:
        drive_browser("convert", server.url, *pairs)
    for path in map(Path, pairs[1::2]):
        if path.stem in TABLES or path.stem in NOTES:
            graph = json.loads(path.read_text())
            if path.stem in TABLES:
                arrange(TABLES[path.stem], graph)
            else:  # left of all nodes, and to be read when the workflow is opened
                graph["nodes"].append(note_node(graph, NOTES[path.stem], [-600, 60]))
                graph["extra"]["ds"] = {"scale": 0.6, "offset": [660, 100]}
            path.write_text(json.dumps(graph, indent=2, ensure_ascii=False) + "\n")
        print(f"[workflows] wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
