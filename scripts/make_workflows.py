"""Make example_workflows/NAME.json (what people open) from example_workflows/api/NAME.json, by ComfyUI's own front end.

    $(make -s python) scripts/make_workflows.py [NAME ...]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from comfy_server import ROOT, ComfyServer, drive_browser, find_comfyui
from make_tables import TABLES, arrange

WORKFLOWS = ROOT / "example_workflows"


def main() -> None:
    """Convert the named workflows, or all."""
    names = sys.argv[1:] or sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json"))
    pairs = [str(path) for name in names for path in (WORKFLOWS / "api" / f"{name}.json", WORKFLOWS / f"{name}.json")]
    with tempfile.TemporaryDirectory() as base, ComfyServer(find_comfyui(), Path(base)) as server:
        drive_browser("convert", server.url, *pairs)
    for path in map(Path, pairs[1::2]):
        if path.stem in TABLES:
            graph = json.loads(path.read_text())
            arrange(TABLES[path.stem], graph)
            path.write_text(json.dumps(graph, indent=2, ensure_ascii=False) + "\n")
        print(f"[workflows] wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
