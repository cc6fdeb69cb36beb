"""What is said where a package is missing: what needs it, and the command that gets it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import Any

import pytest

from deft_pack.scoring import protocols, scorer
from deft_pack.scoring.packages import MissingPackage, needed_by


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Python finds these packages no more."""
    for loaded in list(sys.modules):
        if loaded.split(".")[0] in names:
            monkeypatch.delitem(sys.modules, loaded)
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize(("module", "package"), [("open_clip", "open_clip_torch"), ("timm", "timm")])
def test_the_sentence(monkeypatch: pytest.MonkeyPatch, module: str, package: str) -> None:
    without(monkeypatch, module)
    with pytest.raises(MissingPackage) as caught, needed_by("The thing"):
        importlib.import_module(module)
    assert str(caught.value) == (
        f"The thing needs the package {package}, which is not installed: install it with "
        f"`{sys.executable} -m pip install {package}` and start ComfyUI again."
    )


def test_a_python_in_a_folder_with_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "lpips")
    monkeypatch.setattr(sys, "executable", "/opt/my ComfyUI/bin/python")
    with pytest.raises(MissingPackage, match='`"/opt/my ComfyUI/bin/python" -m pip install lpips`'), needed_by("LPIPS"):
        importlib.import_module("lpips")


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(ZeroDivisionError), needed_by("The thing"):
        raise ZeroDivisionError


def demo_folder(root: Any) -> Any:
    """The demo's scorers."""
    return root / "demo" / "models"


def test_a_scorer_can_leave_out_what_a_package_is_missing_for(monkeypatch: pytest.MonkeyPatch, root: Any) -> None:
    whole = scorer.load_scorer("demo", [demo_folder(root)])
    without(monkeypatch, "timm")
    with pytest.raises(MissingPackage, match="DINO needs the package timm"):
        scorer.load_scorer("demo", [demo_folder(root)])
    left = scorer.load_scorer("demo", [demo_folder(root)], leave_out=True)
    assert left.backbones.keys() < whole.backbones.keys()
    (remark,) = left.remarks(protocols.get_protocol("demo").of("references", "text"))
    assert "skipped: DINO needs the package timm" in remark
    assert "pip install timm" in remark


def test_the_command_line_says_it(root: Any) -> None:
    """`python -m scoring` without open_clip: one sentence, no traceback."""
    pictures = str(next((root / "demo").rglob("*.png")).parent)
    code = (
        "import sys, runpy; sys.modules['open_clip'] = None; sys.argv[0] = 'scoring'; "
        "runpy.run_module('scoring', run_name='__main__')"
    )
    arguments = [
        "score",
        "--protocol",
        "demo",
        "--images",
        pictures,
        "--references",
        pictures,
        "--weights",
        str(demo_folder(root)),
    ]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=root, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [done.stderr.strip()]
    assert "CLIP needs the package open_clip_torch, which is not installed" in done.stderr
