"""The walks of docs/maintainers/adding.md: new files, changed lines and commands, read from the document and done."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = os.environ.get("DEFT_TEST_FORKS") or sys.executable  # scripts/test.py: that of tests/preloaded.py
DOCUMENT = ROOT / "docs" / "maintainers" / "adding.md"
# All but these is copied: what a walk changes may be anywhere, and tests look for files of the pack where they are.
NOT_COPIED = shutil.ignore_patterns(".git", "__pycache__", ".mypy_cache", ".ruff_cache", "node_modules")
# What the gate of a copy leaves out: itself, and what reads no list of the pack's and takes long (full-size encoders,
# runs of sweeps and their servers, installed packages).
LEFT_OUT = (
    "docs_adding",
    "scorer",
    "scoring_exactness",
    "scoring_packages",
    "sweep_client",
    "sweep_report",
    "sweep_server",
    "sweep_store",
    "files_peft_tuners",
)
# Beside the files that walks name these go over all files and lists of the pack; every day the gate is they.
EVERY_DAY = ("architecture", "docs", "pack", "training_nodes", "web_files")
# And of those files every day all but these: they take seconds and read no list of the pack's.
SLOW = (
    "tests/unit/test_docs.py::test_options_are_there",
    "tests/unit/test_files_hostile.py::test_archives_that_grow",
    "tests/unit/test_files_hostile.py::test_memory_stays_near_the_size_of_the_file",
    "tests/unit/test_scoring_metrics.py::test_preprocessing_equals_the_processors_of_transformers",
)
# What the gate runs inside ComfyUI: the files that go over lists of methods, nodes, settings and metrics. Only in
# `make test-all`: what they compare has to be made for it. Pictures are not; what is stale of them is compared apart.
OVER_LISTS = ("every_method", "fields", "format_table", "generated", "help", "help_lists", "interface", "nodes_schema")
OF_PICTURES = (
    "tests/comfy/test_generated.py::test_nothing_is_stale",
    "tests/comfy/test_help.py::test_pictures_are_small",
)
LONGEST = 60  # lines of a walk: a screen


@dataclass(frozen=True)
class Step:
    """One block: kind is python (the text of the new file `path`), diff (a change of `path`) or sh (commands)."""

    section: str
    kind: str
    path: str
    text: str


def steps() -> list[Step]:
    """All blocks in order. The last "New file `...`" before a block names its file, in a diff the line with +++."""
    blocks, section, path = [], "", ""
    text = DOCUMENT.read_text(encoding="utf-8")
    pattern = r"^## ([^\n]+)$|New file `([\w./]+)`|^```(\w+)\n(.*?)^```$"
    for match in re.finditer(pattern, text, re.M | re.S):
        section, path = match.group(1) or section, match.group(2) or path
        if match.group(3) == "diff":
            before, *files = re.split(r"^\+\+\+ (\S+)\n", match.group(4), flags=re.M)
            assert not before, f"{section}: a diff begins with the name of its file"
            blocks += [Step(section, "diff", *each) for each in zip(files[::2], files[1::2])]
        elif match.group(3):
            blocks.append(Step(section, match.group(3), path, match.group(4)))
    return blocks


def sections() -> dict[str, str]:
    """The text of each section, with its heading."""
    parts = re.split(r"^(?=## )", DOCUMENT.read_text(encoding="utf-8"), flags=re.M)[1:]
    return {part.partition("\n")[0].removeprefix("## "): part for part in parts}


def generated(section: str) -> set[str]:
    """The parts of `make generated` that a section names."""
    return {
        part for parts in re.findall(r'`make generated PARTS="([^"]*)"`', sections()[section]) for part in parts.split()
    }


def changed(before: str, diff: str) -> str:
    """A text with the changes in it, between which stands @@."""
    for part in re.split(r"^@@\n", diff, flags=re.M):
        before = _changed(before, part)
    return before


def _changed(before: str, diff: str) -> str:
    """A text with one change. What the diff takes away and leaves as it is has to stand there exactly once."""
    lines = diff.splitlines()
    assert all(line[:1] in " +-" for line in lines), diff
    old = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "+")
    new = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "-")
    places = [match.start() for match in re.finditer(f"^{re.escape(old)}", before, re.M)]
    assert len(places) == 1, f"stands there {len(places)} times:\n{old}"
    return before[: places[0]] + new + before[places[0] + len(old) :]


def unwalked_copy(folder: Path) -> Path:
    """A copy of the pack as it is."""
    shutil.copytree(ROOT, folder, ignore=NOT_COPIED, dirs_exist_ok=True, symlinks=True)
    return folder


def walk(folder: Path, section: str) -> None:
    """Do in a copy what a section writes."""
    for step in (step for step in steps() if step.section == section):
        path = folder / step.path
        if step.kind == "python":
            assert not path.exists(), f"{step.path} is there already"
            path.write_text(step.text, encoding="utf-8")
        elif step.kind == "diff":
            path.write_text(changed(path.read_text(encoding="utf-8"), step.text), encoding="utf-8")


def walked_copy(folder: Path) -> Path:
    """A copy of the pack in which all that the document writes is done."""
    unwalked_copy(folder)
    for section in sections():
        walk(folder, section)
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


def files_of(where: str) -> list[str]:
    """The files of tests that the commands of the walks name."""
    words = [word for _, line in commands(where) for word in line.split()]
    return list(dict.fromkeys(word for word in words if word.startswith(f"tests/{where}/")))


def chosen(where: str, whole: Collection[str] = ()) -> str:
    """pytest's -k for these files in one run: of those that a command names with -k only what it chooses.

    whole: names of files of which all is run nevertheless.
    """
    choices = re.findall(r"tests/\w+/(test_\w+)\.py -k (\w+)", "\n".join(line for _, line in commands(where)))
    files = [file for file, _ in choices if file.removeprefix("test_") not in whole]
    return " or ".join([f"not ({' or '.join(files)})", *(word for _, word in choices)])


@dataclass(frozen=True)
class Gate:
    """What the tests of a copy have come to: how many passed of each file, and which failed, with their words."""

    passed: Mapping[str, int]
    failed: tuple[str, ...]
    output: str


def gate(folder: Path, *words: str) -> Gate:
    """Run tests of a copy, in one process; none of them stops the others."""
    report = folder / "gate.xml"
    command = [PYTHON, "-m", "pytest", "-q", "--tb=short", f"--junitxml={report}", *words]
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert report.is_file(), done.stdout[-6000:]
    passed: Counter[str] = Counter()
    failed = []
    for case in ElementTree.parse(report).iter("testcase"):
        file = case.get("classname", "").replace(".", "/") + ".py"
        if any(child.tag in ("failure", "error") for child in case):
            failed.append(f"{file}::{case.get('name')}")
        elif case.find("skipped") is None:
            passed[file] += 1
    return Gate(passed, tuple(failed), done.stdout)


def run(line: str, folder: Path) -> str:
    """The output of a command, which has to succeed."""
    program, *arguments = shlex.split(line)
    assert program == "python"
    done = subprocess.run(
        [PYTHON, *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout
