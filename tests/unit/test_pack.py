"""The root module: what ComfyUI sees first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = ("torch", "comfy", "peft", "open_clip", "timm", "matplotlib", "diffusers", "transformers", "numpy")


def test_root_module_imports_nothing_heavy(root: Path) -> None:
    code = (
        "import sys, runpy;"
        f"pack = runpy.run_path({str(root / '__init__.py')!r});"
        f"print(pack['WEB_DIRECTORY'], *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["./web"]


def test_web_directory_is_there(root: Path) -> None:
    import deft_pack

    assert (root / deft_pack.WEB_DIRECTORY / "docs").is_dir()
    assert not hasattr(deft_pack, "NODE_CLASS_MAPPINGS")  # ComfyUI would take it and ignore the entry point
