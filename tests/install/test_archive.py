"""The archive that users get, and what the registry looks at before it takes one."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .conftest import ROOT, comfy

LEFT_OUT = (
    "tests/",
    "benchmarks/",
    "scripts/",
    ".github/",
    ".ci/",
    "demo/recipe/",
    "demo/run.py",
    "Makefile",
    "requirements-dev.txt",
    ".gitignore",
    "interface.json",
)
NEEDED = (
    "__init__.py",
    "pyproject.toml",
    "requirements.txt",
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "locales/en/nodeDefs.json",
    "web/docs/DEFTTrainAdapter/en.md",
    "demo/models/",
    "demo/LICENSE-EMOJI.md",
    "example_workflows/compare_methods.json",
    "subgraphs/DEFT Train a subject with LoRA.json",
    "example_workflows/compare_methods.jpg",
    "example_workflows/api/compare_methods.json",
    "sweeps/plans/demo.yaml",
    "sweeps/__main__.py",
    "docs/sweeps.md",
)
MOST_BYTES = 30e6


@pytest.fixture(scope="module")
def unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive's files."""
    folder = tmp_path_factory.mktemp("archive")
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return folder


def test_validate_has_nothing_to_say(checkout: Path) -> None:
    """All lines of its output: a warning would be one more."""
    assert comfy(checkout, "node", "validate").splitlines() == [
        "Validating node configuration...",
        "Running security checks...",
        "✓ All validation checks passed successfully",
    ]


def test_validate_would_say_something(checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    folder.mkdir()
    (folder / "pyproject.toml").write_text((checkout / "pyproject.toml").read_text())
    (folder / "bad.py").write_text("eval('1'); exec('2')\n")
    output = comfy(folder, "node", "validate")
    assert all(rule in output for rule in ("S307", "S102", "E702"))
    assert "passed" not in output


def test_size_and_content(archive: Path, checkout: Path) -> None:
    assert archive.stat().st_size < MOST_BYTES
    with zipfile.ZipFile(archive) as file:
        names = file.namelist()
    assert [name for name in names if name.startswith(LEFT_OUT)] == []
    assert [name for name in NEEDED if not any(member.startswith(name) for member in names)] == []
    assert [name for name in LEFT_OUT if not (ROOT / name).exists()] == []  # or the list says nothing
    # Every help page, template and picture of the checkout.
    for folder in ("web", "example_workflows", "subgraphs", "locales", "sweeps"):
        tracked = subprocess.run(
            ["git", "ls-files", folder], cwd=checkout, stdout=subprocess.PIPE, text=True, check=True
        ).stdout.splitlines()
        assert tracked
        assert set(tracked) <= set(names)


def test_no_rule_of_the_registry_is_broken(unpacked: Path) -> None:
    """The rules hold without this project's settings, and without comments that silence a rule."""
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--ignore-noqa",
        "--no-cache",
        "--select",
        "S102,S307,S301,E702",
        str(unpacked),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert len(list(unpacked.rglob("*.py"))) > 100
