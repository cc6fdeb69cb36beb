"""The walks of docs/adding.md: new files, changes of lines and commands, read from the document and really done."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "adding.md"
# Large, or only read: no walk changes them. All else is copied.
LINKED = ("demo", "docs", "example_workflows", "web")


@dataclass(frozen=True)
class Step:
    """One block: kind is python (the text of the new file `path`), diff (a change of `path`) or sh (commands)."""

    section: str
    kind: str
    path: str
    text: str


def steps() -> list[Step]:
    """All blocks in order. The last "New file `...`" or "In `...`" before a block names its file."""
    found, section, path = [], "", ""
    text = DOCUMENT.read_text(encoding="utf-8")
    pattern = r"^## ([^\n]+)$|(?:New file|[Ii]n) `([\w./]+\.py)`|^```(\w+)\n(.*?)^```$"
    for match in re.finditer(pattern, text, re.M | re.S):
        section, path = match.group(1) or section, match.group(2) or path
        if match.group(3):
            found.append(Step(section, match.group(3), path, match.group(4)))
    return found


def changed(before: str, diff: str) -> str:
    """A text with the change in it. What the diff takes away and leaves as it is has to stand there exactly once."""
    lines = diff.splitlines()
    assert all(line[:1] in " +-" for line in lines), diff
    old = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "+")
    new = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "-")
    places = [match.start() for match in re.finditer(f"^{re.escape(old)}", before, re.M)]
    assert len(places) == 1, f"stands there {len(places)} times:\n{old}"
    return before[: places[0]] + new + before[places[0] + len(old) :]


def walked_copy(folder: Path) -> Path:
    """A copy of the pack in which all that the document writes is done."""
    for path in ROOT.iterdir():
        if path.name in LINKED:
            (folder / path.name).symlink_to(path, target_is_directory=path.is_dir())
        elif path.name != ".git":
            copy = shutil.copytree if path.is_dir() else shutil.copy2
            copy(path, folder / path.name)
    for step in steps():
        path = folder / step.path
        assert not step.path.startswith(LINKED), f"{step.path} is not in the copy"
        if step.kind == "python":
            assert not path.exists(), f"{step.path} is there already"
            path.write_text(step.text, encoding="utf-8")
        elif step.kind == "diff":
            path.write_text(changed(path.read_text(encoding="utf-8"), step.text), encoding="utf-8")
    return folder


def commands(where: str) -> list[tuple[str, str]]:
    """Section and line of the commands, those inside ComfyUI (where: comfy) or the others (unit)."""
    return [
        (step.section, line)
        for step in steps()
        if step.kind == "sh"
        for line in step.text.splitlines()
        if ("tests/comfy/" in line) == (where == "comfy")
    ]


def run(line: str, folder: Path) -> str:
    """The output of a command, which has to succeed."""
    program, *arguments = shlex.split(line)
    assert program == "python"
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout
