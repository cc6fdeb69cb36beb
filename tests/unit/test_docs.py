"""README.md and docs/: every command is run, links lead somewhere, and what is named is there."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [*DOCS, ROOT / "demo" / "README.md", *sorted((ROOT / "web" / "docs").rglob("*.md"))]
PROGRAMS = ("python", "pip", "make", "comfy", "cm-cli", "git", "tail", "$(make")

# Which test runs a command, as file::test. Options that stand in brackets may be left out.
TRIES = {
    "tests/install/test_install.py::test_zip_and_git_checkout": [
        "pip install -r requirements.txt",
    ],
    "tests/server/test_docs.py::test_make_demo": [
        "make demo",
    ],
    "tests/server/test_docs.py::test_the_first_sweep": [
        "python -m sweeps run sweeps/plans/demo.yaml",
        "python -m sweeps report sweeps/plans/demo.yaml",
        "python -m sweeps report PLAN [--rows method,rank] [--grid-columns prompt] "
        "[--metrics CLIP-I,DINO] [--out FOLDER]",
    ],
    "tests/server/test_sweep_peft.py::test_the_whole_benchmark": [
        "python -m sweeps peft photos default_training_params.json",
        "python -m sweeps run sweeps/plans/peft_benchmark.yaml",
        "python -m sweeps report sweeps/plans/peft_benchmark.yaml",
    ],
    "tests/server/test_sweeps.py::test_two_servers_of_one_runner": [
        "python -m sweeps run PLAN --server http://127.0.0.1:8188 --server http://other:8188",
    ],
    "tests/server/test_runs_page.py::test_the_tab": [
        "python -m sweeps run NAME.yaml --server http://127.0.0.1:8188",
    ],
    "tests/server/test_sweep_access.py::test_no_secret_is_written_or_printed": [
        "python -m sweeps run PLAN --server https://me@gpu.example.org/comfy --certificate own.pem "
        '--header "X-Access: ${MY_KEY}"',
    ],
    "tests/server/test_sweep_ray.py::test_files_travel_and_a_server_dies": [
        "python -m sweeps run PLAN --store /shared/sweep --ray HEAD:6379 --comfyui /opt/ComfyUI",
    ],
    "tests/server/test_sweeps.py::test_cleaning_what_no_plan_has": [
        "python -m sweeps clean PLAN [--unused] [--damaged] [--yes]",
    ],
    "tests/unit/test_scorer.py::test_the_command_line_scores_folders": [
        "python -m scoring score --protocol dreambench++ --images OUT --references SRC --texts TXT --weights FOLDER",
    ],
    "tests/unit/test_scoring_judges.py::test_dreamsim_is_that_of_its_package": [
        "python -m scoring merge FOLDER DINO OUT",
    ],
    "tests/unit/test_docs.py::test_make_has_what_the_documents_say": [
        "make test",
    ],
}
RUN_BY = {command: test for test, commands in TRIES.items() for command in commands}
WALKS = "adding.md"  # whose commands tests/unit/test_docs_adding.py and tests/comfy/test_docs_adding.py run


def name_of(path: Path) -> str:
    """The path from the root."""
    return path.relative_to(ROOT).as_posix()


def blocks(text: str) -> Iterator[tuple[str, list[str], str]]:
    """Language, lines and the text that follows, of fenced blocks and of indented ones ("")."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$|(?<=\n\n)((?: {4}[^\n]*\n)+)", text, re.M | re.S):
        lines = (match.group(2) or match.group(3)).splitlines()
        yield match.group(1) or "", [line.removeprefix("    ") for line in lines], text[match.end() :]


def commands(path: Path) -> list[tuple[str, bool]]:
    """Each command line without its comment and with single spaces, and whether its output stands behind it."""
    command_lines = []
    for language, lines, rest in blocks(path.read_text(encoding="utf-8")):
        shown = rest.lstrip().startswith("```text")
        for line in lines:
            if line.startswith(PROGRAMS) and (language in ("", "sh")):
                command_lines.append((" ".join(line.split("  #")[0].split()), shown))
    return command_lines


def test_shell_blocks_hold_commands_only() -> None:
    """No command may be missed because its program is not known here."""
    for path in DOCS:
        for language, lines, _ in blocks(path.read_text(encoding="utf-8")):
            if language == "sh":
                assert all(line.startswith(PROGRAMS) for line in lines), (name_of(path), lines)
            assert language in ("", "sh", "text", "python", "diff", "yaml", "json", "mermaid"), (
                name_of(path),
                language,
            )


@pytest.mark.parametrize("path", DOCS, ids=name_of)
def test_every_command_is_run_or_shown(path: Path) -> None:
    if path.name == WALKS:
        assert len(commands(path)) > 8
        return
    left = [line for line, shown in commands(path) if not shown and line not in RUN_BY]
    assert left == [], "name a test in RUN_BY, or show the output in a text block behind it"


def test_the_list_has_nothing_that_no_document_says() -> None:
    command_lines = {line for path in DOCS for line, _ in commands(path)}
    assert set(RUN_BY) - command_lines == set()


@pytest.mark.parametrize("test", sorted(set(RUN_BY.values())))
def test_the_tests_that_run_them_are_there(test: str) -> None:
    file, _, function = test.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert function in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def help_of(commands: list[tuple[str, str]]) -> list[str]:
    """What `python -m module command --help` prints of each, one after the other in one process."""
    program = (
        "import json, runpy, sys\n"
        "for module, command in json.loads(sys.argv.pop()):\n"
        "    sys.argv[1:] = [command, '--help']\n"
        "    try:\n"
        "        runpy.run_module(module, run_name='__main__', alter_sys=True)\n"
        "    except SystemExit as end:\n"
        "        assert not end.code, command\n"
        "    print('\\0', end='')\n"
    )
    line = [sys.executable, "-c", program, json.dumps(commands)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\0")[:-1]


def test_options_are_there() -> None:
    documented: dict[tuple[str, str], set[str]] = {}
    for path in DOCS:
        for line, _ in commands(path):
            matched = re.match(r"python -m (sweeps|scoring) (\w+)", line)
            if matched:
                documented.setdefault((matched[1], matched[2]), set()).update(re.findall(r"--[\w-]+", line))
    assert {module for module, _ in documented} == {"sweeps", "scoring"}
    for (command, options), text in zip(documented.items(), help_of(list(documented)), strict=True):
        assert options - set(re.findall(r"--[\w-]+", text)) == set(), command


def test_make_has_what_the_documents_say() -> None:
    """`make test` is what has started this. Of the others it is looked at what they would run."""
    make_targets = {line.split()[1] for path in DOCS for line, _ in commands(path) if line.startswith("make ")}
    for path in DOCS:
        make_targets |= set(re.findall(r"`make (?:-s )?(\w+)", path.read_text(encoding="utf-8")))
    assert {"demo", "test", "lint"} <= make_targets
    for target in sorted(make_targets):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        scripts = re.findall(r"\b(?:scripts|demo)/\w+\.py", done.stdout)
        assert scripts, done.stdout
        assert all((ROOT / script).is_file() for script in scripts), done.stdout
    shown = subprocess.run([sys.executable, "scripts/test.py", "nothing"], cwd=ROOT, capture_output=True, text=True)
    assert "comfy-0.30.0" in shown.stderr
    assert "server" in shown.stderr


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.M)
    }


def target_of(path: Path, file: str) -> Path:
    """What a link of a page leads to. ComfyUI shows help pages as if they lay in web/docs itself."""
    folder = ROOT / "web" / "docs" if "web" in path.relative_to(ROOT).parts else path.parent
    return (folder / file).resolve() if file else path


def links(path: Path) -> list[str]:
    """Targets of links and pictures that are no addresses; not of code."""
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text)
    return [one or other for one, other in targets if "://" not in (one or other)]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_and_pictures_are_there(path: Path) -> None:
    missing = []
    for link in links(path):
        file, _, anchor = link.partition("#")
        target = target_of(path, file)
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    assert missing == []


def test_every_picture_of_the_documents_is_shown() -> None:
    shown = {target_of(path, link) for path in PAGES for link in links(path)}
    pictures = [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".png", ".jpg")]
    assert pictures
    assert [name_of(path) for path in pictures if path not in shown] == []


def test_the_index_has_every_page() -> None:
    linked = {link for link in links(ROOT / "README.md") if link.endswith(".md")}
    assert {name_of(path) for path in DOCS[1:]} <= linked


# What documents name that is made when something runs, or lies in ComfyUI or in other people's packages.
ELSEWHERE = re.compile(
    r"(ComfyUI|models|output|input|custom_nodes|comfy|method_comparison|examples/deft|Linaqruf|timm|openai|facebook\w*)/"
)
TOP = {path.name for path in ROOT.iterdir()} | {".github", "interface.json"}


def code_words(path: Path) -> list[str]:
    """What stands in code font outside of blocks."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("path", DOCS, ids=name_of)
def test_files_and_folders_in_code_font_are_there(path: Path) -> None:
    """Paths that begin with one of the pack's own folders or are one of its files at the top."""
    made = set(re.findall(r"New file `([^`]+)`", path.read_text(encoding="utf-8")))  # by the walks
    missing = []
    for word in code_words(path):
        if not re.fullmatch(r"[\w./-]+", word) or ELSEWHERE.match(word) or word in made or "NAME" in word:
            continue
        first = word.split("/")[0]
        if first in TOP and ("/" in word or "." in word):
            places = (ROOT / word, ROOT / f"{word}.py", path.parent / word)
            if not any(place.exists() for place in places) and not word.startswith("demo/out"):
                missing.append(word)
    assert missing == []


def schemas() -> dict[str, str]:
    """Display name by id of all nodes, as they are written in the source."""
    display_names = {}
    for path in sorted((ROOT / "nodes").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "Schema":
                values = {keyword.arg: keyword.value for keyword in call.keywords}
                display_names[ast.literal_eval(values["node_id"])] = ast.literal_eval(values["display_name"])
    return display_names


def table_under(heading: str) -> list[list[str]]:
    """The rows of the table under a heading of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return rows[2:]


def test_the_readme_has_every_node() -> None:
    rows = table_under("Nodes")
    assert all(len(row) == 2 and row[1] for row in rows)
    assert sorted(row[0] for row in rows) == sorted(schemas().values())


def test_the_readme_has_every_folder() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    folders = {file.split("/")[0] for file in tracked.stdout.splitlines() if "/" in file and not file.startswith(".")}
    if tracked.returncode:  # no checkout, but an unpacked archive
        folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] not in "._"}
    named = {name for row in table_under("Where things are") for name in re.findall(r"`(\w+)/`", row[0])}
    assert folders
    assert named == folders


def test_examples_in_the_readme_are_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\*([a-z0-9]+(?:_[a-z0-9]+)+)\*", text))
    assert named
    assert all((ROOT / "example_workflows" / f"{name}.json").is_file() for name in named)


def test_the_readers_see_what_they_look_for(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A page, of `this`\n\n    python -m x  --y  # why\n\n```sh\nmake z\n```\n\n```text\nout\n```\n\n"
        '[a](b.md#c) ![p](q.png) `[no](x)` <img src="r.jpg"> [w](https://w)\n'
    )
    assert commands(page) == [("python -m x --y", False), ("make z", True)]
    assert links(page) == ["b.md#c", "q.png", "r.jpg"]
    assert anchors(page) == {"a-page-of-this"}
    assert code_words(page) == ["this", "[no](x)"]


def test_the_counts_of_nodes_and_wires() -> None:
    """The counts of docs/comparison.md that are this pack's, in its own template and blueprint."""
    text = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
    counts = dict(re.findall(r"^\| this pack, (\w+) \| (\d+ \| \d+) \|", text, re.M))
    graph = json.loads((ROOT / "example_workflows" / "1 Train my subject (SDXL).json").read_text())
    kinds = ("CheckpointLoaderSimple", "DEFTPrepareTrainingPictures", "DEFTTrainAdapter", "DEFTSaveAdapter")
    nodes = {node["id"] for node in graph["nodes"] if node["type"] in kinds}
    wires = [link for link in graph["links"] if {link[1], link[3]} <= nodes]
    assert counts["nodes"] == f"{len(nodes)} | {len(wires)}"
    blueprint = json.loads((ROOT / "subgraphs" / "DEFT Train a subject with LoRA.json").read_text())
    (inside,) = blueprint["definitions"]["subgraphs"]
    sockets = [slot["name"] for slot in inside["inputs"] if slot["type"] in ("MODEL", "CLIP", "VAE")]
    assert counts["blueprint"] == f"2 | {len(sockets)}"
