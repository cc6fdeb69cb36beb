"""Make docs/examples/NAME.jpg: the examples in the real front end, taken by the test that opens them.

    $(make -s python) scripts/make_example_pictures.py [NAME ...]

Without names all of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

import picture_marks
from comfy_server import ROOT, find_comfyui
from rooms import load_room

workflow_files = load_room("workflow_sources", "files")
_DOCS = ROOT / "docs" / "examples"
TEST = "tests/server/test_front_end.py::test_opens"


def marks() -> dict[Path, str]:
    """What each picture is made from."""
    names = workflow_files.names()
    return {_DOCS / f"{name}.jpg": picture_marks.digest(workflow_files.drawn(name)) for name in names}


def check_fonts() -> None:
    """End the script if the browser would draw boxes: no font has the Chinese characters of the examples' notes.

    Other systems than Linux come with one.
    """
    if not sys.platform.startswith("linux"):
        return
    if shutil.which("fc-list") is None:
        print("[generated] fc-list (of fontconfig) is missing: nobody knows whether a font has Chinese characters")
    elif not subprocess.run(["fc-list", ":lang=zh-cn"], stdout=subprocess.PIPE, check=True).stdout.strip():
        sys.exit(
            "[generated] example_pictures: no font here has the Chinese characters of the notes, which would "
            "be drawn as boxes: install one, such as the package fonts-noto-cjk."
        )


def make(names: Collection[str] = ()) -> None:
    """Take the pictures of these examples; of all without names."""
    check_fonts()
    chosen = picture_marks.chosen(marks(), names)
    with tempfile.TemporaryDirectory() as folder:
        variables = {"DEFT_TEST_PICTURES": folder, "COMFYUI_DIR": str(find_comfyui())}
        tests = [f"{TEST}[canvas-{path.stem}]" for path in chosen]
        subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], cwd=ROOT, env=os.environ | variables, check=True)
        for path, mark in chosen.items():
            picture_marks.write(path, (Path(folder) / path.name).read_bytes(), mark)


if __name__ == "__main__":
    make(sys.argv[1:])
