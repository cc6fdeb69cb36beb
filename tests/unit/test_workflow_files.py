"""The workflow files for GitHub: they are YAML, and what they refer to is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FILES = ("publish", "test")


@pytest.fixture
def workflows(root: Path) -> dict[str, dict[str, Any]]:
    """Every workflow by its file's name. YAML 1.1 takes the key `on` for true."""
    by_name = {path.stem: yaml.safe_load(path.read_text()) for path in (root / ".github" / "workflows").glob("*.yml")}
    assert sorted(by_name) == sorted(FILES)
    return by_name


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """All steps of all jobs."""
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("name", FILES)
def test_actions_have_a_version(workflows: dict[str, dict[str, Any]], name: str) -> None:
    used = [step["uses"] for step in steps(workflows[name]) if "uses" in step]
    assert used[0].startswith("actions/checkout@")
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@v\d+", action) for action in used)


def test_publishing(workflows: dict[str, dict[str, Any]], root: Path) -> None:
    workflow = workflows["publish"]
    assert all((root / path).is_file() for path in workflow[True]["push"]["paths"])
    publish = steps(workflow)[-1]
    assert publish["uses"].startswith("Comfy-Org/publish-node-action@")
    assert publish["with"] == {"personal_access_token": "${{ secrets.REGISTRY_ACCESS_TOKEN }}"}


@pytest.mark.parametrize(
    ("publisher", "repository", "status"),
    [("", "", 1), ("", "https://example.org/x", 1), ("me", "", 1), ("me", "https://example.org/x", 0)],
)
def test_publishing_needs_the_owner(
    workflows: dict[str, dict[str, Any]], root: Path, tmp_path: Path, publisher: str, repository: str, status: int
) -> None:
    """The step that looks for empty fields, on a pyproject.toml with and without them."""
    text = (root / "pyproject.toml").read_text()
    for field, value in (("PublisherId", publisher), ("Repository", repository)):
        text, count = re.subn(rf'^{field} = ".*"$', f'{field} = "{value}"', text, flags=re.M)
        assert count == 1
    (tmp_path / "pyproject.toml").write_text(text)
    (check,) = (step["run"] for step in steps(workflows["publish"]) if "run" in step)
    done = subprocess.run(["bash", "-e", "-c", check], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == status
    assert ("::error" in done.stdout) == bool(status)


def test_tests(workflows: dict[str, dict[str, Any]], root: Path) -> None:
    """The workflow calls a target of the Makefile."""
    (command,) = (step["run"] for step in steps(workflows["test"]) if "run" in step)
    program, target = command.split()
    assert program == "make"
    assert re.search(rf"^{target}:", (root / "Makefile").read_text(), re.M)
