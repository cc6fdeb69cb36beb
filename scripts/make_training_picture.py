"""Write docs/training_tab.jpg: a training with scored previews in the real front end.

$(make -s python) scripts/make_training_picture.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import picture_marks
from browser import drive_browser
from comfy_server import ROOT, ComfyServer, find_comfyui
from rooms import load_room

workflow_files = load_room("workflow_sources", "files")
_PICTURE = ROOT / "docs" / "training_tab.jpg"
_EXAMPLE = "choose_a_checkpoint"
# What comes after the training is made short.
SET = {"DEFTCompareCheckpoints": {"prompts": "a sks teddy bear", "steps": 2}, "KSampler": {"steps": 2}}


def marks() -> dict[Path, str]:
    """What the picture is made from."""
    return {_PICTURE: picture_marks.digest(workflow_files.computed(_EXAMPLE), SET)}


def make() -> None:
    """Take the picture with a server of its own."""
    with tempfile.TemporaryDirectory() as base, ComfyServer(find_comfyui(), Path(base)) as server:
        taken = server.base / _PICTURE.name
        options = {"set": SET, "picture": str(taken)}
        source = workflow_files.TEMPLATES / f"{_EXAMPLE}.json"
        if complaints := drive_browser("training", server.url, json.dumps(options), source):
            raise RuntimeError("\n".join(complaints))
        for path, mark in marks().items():
            picture_marks.write(path, taken.read_bytes(), mark)


if __name__ == "__main__":
    make()
