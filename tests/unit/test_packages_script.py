"""scripts/packages.py: which versions and which Pythons it tries. (make packages runs it.)"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from ..scripts import load_script


@pytest.fixture(scope="module")
def packages() -> Any:
    load_script("environment")
    return load_script("packages")


def test_each_bound_of_the_requirements_is_tried(packages: Any, root: Path) -> None:
    lines = (root / "requirements.txt").read_text().split()
    assert [f"{name}>={bound}" for name, bound in packages.bounds().items()] == lines


def test_a_python_that_only_pyenv_has(packages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyenv puts a script of each name on the path that refuses those versions that are not chosen."""
    paths = {name: tmp_path / name / "bin" / "python3.99" for name in ("shims", "versions/3.99.1", "versions/3.99.2")}
    for name, path in paths.items():
        path.parent.mkdir(parents=True)
        path.write_text(
            "#!/bin/sh\nexit 127\n" if name != "versions/3.99.2" else f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
        )
        path.chmod(0o755)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(paths["shims"].parent))
    assert packages.interpreter("python3.99") == str(paths["versions/3.99.2"])
    assert packages.interpreter("python3.98") is None


def test_a_python_that_is_not_there_is_named(packages: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert packages.with_python("python3.98")
    assert capsys.readouterr().out == "[packages] python3.98: not run, there is no python3.98 on this machine\n"
