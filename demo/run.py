"""`make demo`: run example_workflows/api/compare_methods.json on a real ComfyUI server without a screen.

METHODS=all takes compare_all_methods.json instead, which has all methods and takes some minutes.

Starts a server in a temporary folder with this checkout as a custom node, queues the workflow over HTTP, shows what
runs, prints the score table, and copies table, grid and plot into demo/out/. The server is ended afterwards.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from comfy_server import ComfyServer, PromptError, find_comfyui  # noqa: E402

ALL = os.environ.get("METHODS") == "all"
WORKFLOW = ROOT / "example_workflows" / "api" / f"compare_{'all_' if ALL else ''}methods.json"
OUT = ROOT / "demo" / "out"
_PICTURES = (("table", "DEFTScoreTable"), ("grid", "DEFTComparisonGrid"), ("plot", "DEFTFidelityPlot"))
SECONDS_BETWEEN_LINES = 5.0


def log(text: str) -> None:
    """A line for the person who waits."""
    print(f"[demo] {text}", flush=True)


class Progress:
    """Turns the server's messages into a line when a node starts, every few seconds while it works, and at its end."""

    def __init__(self, titles: dict[str, str]) -> None:
        self.titles = titles
        self.started = time.monotonic()
        self.node: str | None = None
        self.node_started = 0.0
        self.last_line = 0.0

    def __call__(self, kind: str, data: dict[str, Any]) -> None:
        """Take one message of the websocket."""
        now = time.monotonic()
        if kind == "executing" and data["node"] != self.node:
            if self.node is not None and now - self.node_started >= 1:
                log(f"{now - self.started:5.0f} s  {self.title(self.node)}: {now - self.node_started:.0f} s")
            self.node, self.node_started, self.last_line = data["node"], now, now
        elif kind == "progress" and now - self.last_line >= SECONDS_BETWEEN_LINES:
            log(f"{now - self.started:5.0f} s  {self.title(data['node'])}: {data['value']:.0f} of {data['max']:.0f}")
            self.last_line = now

    def title(self, node_id: str) -> str:
        """The node's title in the workflow."""
        return self.titles.get(node_id, f"node {node_id}")


def titles(prompt: dict[str, Any], info: dict[str, Any]) -> dict[str, str]:
    """A title for every node: the one in the workflow, else the node's display name."""
    node_titles = {}
    for node_id, node in prompt.items():
        display_name = info.get(node["class_type"], {}).get("display_name") or node["class_type"]
        node_titles[node_id] = node.get("_meta", {}).get("title") or display_name
    return node_titles


def collect(server: ComfyServer, prompt: dict[str, Any], outputs: dict[str, Any]) -> tuple[str, list[Path]]:
    """The score table in Markdown, and the pictures of table, grid and plot, copied into demo/out/."""
    OUT.mkdir(exist_ok=True)
    table, files = "", []
    for name, class_type in _PICTURES:
        shown = next(
            (outputs[key] for key, node in prompt.items() if node["class_type"] == class_type and key in outputs), None
        )
        if shown is None:
            raise PromptError(f"{WORKFLOW.name} has no {class_type} node that showed anything")
        path = OUT / f"{name}.png"
        path.write_bytes(server.image(shown["images"][0]))
        files.append(path)
        if class_type == "DEFTScoreTable":
            table = "\n".join(shown["text"])
            path = OUT / "table.md"
            path.write_text(table + "\n")
            files.append(path)
    return table, files


def main() -> None:
    """Run the demo; exit status 1 and the reason when it does not get through."""
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("[demo] ended"))  # so that the server is ended, too
    prompt = json.loads(WORKFLOW.read_text())
    with tempfile.TemporaryDirectory(prefix="deft-demo-") as folder:
        server = ComfyServer(find_comfyui(), Path(folder))
        log(f"starting ComfyUI ({server.comfyui}) without a screen")
        with server:
            log(f"ComfyUI is up after {server.seconds_to_start:.0f} s; running {WORKFLOW.relative_to(ROOT)}")
            try:
                finished = server.run(prompt, Progress(titles(prompt, server.get("/object_info"))))
                table, files = collect(server, prompt, finished.outputs)
            except PromptError as error:
                sys.exit(f"[demo] failed: {error}")
    print(f"\n{table}\n")
    for path in files:
        log(f"wrote {path.relative_to(ROOT)}")
    log(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
