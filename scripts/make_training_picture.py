"""Write docs/training_tab.jpg: a training with scored previews in the real front end.

$(make -s python) scripts/make_training_picture.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from browser import drive_browser
from comfy_server import ROOT, ComfyServer, find_comfyui

_PICTURE = ROOT / "docs" / "training_tab.jpg"
_EXAMPLE = ROOT / "example_workflows" / "choose_a_checkpoint.json"
# What comes after the training is made short.
SET = {"DEFTCompareCheckpoints": {"prompts": "a sks teddy bear", "steps": 2}, "KSampler": {"steps": 2}}


def take(picture: Path) -> None:
    """Take the picture with a server of its own."""
    with tempfile.TemporaryDirectory() as base, ComfyServer(find_comfyui(), Path(base)) as server:
        options = {"set": SET, "picture": str(picture)}
        if complaints := drive_browser("training", server.url, json.dumps(options), _EXAMPLE):
            raise RuntimeError("\n".join(complaints))


if __name__ == "__main__":
    take(_PICTURE)
    print(f"[pictures] wrote {_PICTURE.relative_to(ROOT)}: {_PICTURE.stat().st_size / 1000:.0f} kB")
