"""Workflows in UI form: ComfyUI's own templates and blueprints become what the page makes of them, or are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deft_pack.sweeps.conversion import MissingNodes, NotConvertible, convert, front_end_of
from deft_pack.sweeps.conversion.dynamic_prompts import read

from ..everyday import size_of_run
from .example_files import UI_FILES, WORKFLOWS, with_own_ids
from .sweep_tools import ROOT

# One start of the browser opens some three hundred workflows.
pytestmark = pytest.mark.timeout(900)

TEMPLATES = "0.1.27"  # belongs to comfyui-workflow-templates 0.11.27, which ComfyUI 0.30.0 requires
OLD = "1.45.15"  # the front end of ComfyUI 0.24.0
OF_THE_PAGE = {"Note", "MarkdownNote", "PrimitiveNode", "Reroute"}  # nodes that no server has
REFUSED = {
    "image_anima_lllite_image_inpainting": "`mask`: is a drawing, which the browser makes",
    "video_wan2_1_infinitetalk": "`mask`: is a drawing, which the browser makes",
    "Text to Audio (ACE-Step 1.5)": "`value`: is null, where a number is needed",
}


@pytest.fixture(scope="module")
def workflows(server: Any) -> list[Path]:
    """ComfyUI's templates and the blueprints of its subgraphs: all of them, or every day a few with each kind of
    node."""
    command = [sys.executable, str(ROOT / "scripts" / "environment.py"), "templates", TEMPLATES]
    folder = Path(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())
    files = [*sorted(folder.glob("*.json")), *sorted((server.comfyui / "blueprints").glob("*.json"))]
    files = [path for path in files if '"nodes"' in path.read_text()]  # the others are lists of the templates
    return files if size_of_run() == "all" else with_each_kind(files, set(server.get("/object_info")) | OF_THE_PAGE)


def with_each_kind(files: list[Path], there: set[str]) -> list[Path]:
    """Workflows of these kinds of nodes, so many that each kind is in one of them: time and again the one with the
    most new kinds for its size, then without those that the later ones have made needless."""
    kinds: dict[Path, set[str]] = {}
    sizes: dict[Path, int] = {}
    for path in files:
        workflow = json.loads(path.read_text())
        graphs = [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]
        nodes = [node["type"] for graph in graphs for node in graph["nodes"]]
        types = set(nodes) - {graph.get("id") for graph in graphs}
        if types and types <= there:
            kinds[path], sizes[path] = types, len(nodes)
    chosen: list[Path] = []
    lacking = set().union(*kinds.values())
    while lacking:
        chosen.append(max(kinds, key=lambda path: len(kinds[path] & lacking) / sizes[path]))
        lacking -= kinds[chosen[-1]]
    for path in chosen[::-1]:
        others = [kinds[other] for other in chosen if other != path]
        if kinds[path] <= set().union(*others):
            chosen.remove(path)
    return chosen


def ours(path: Path, info: dict[str, Any], front_end: str) -> dict[str, Any]:
    converted = convert(json.loads(path.read_text()), info, front_end)
    for node_id, name in converted.dynamic:
        converted.prompt[node_id]["inputs"][name] = read(converted.prompt[node_id]["inputs"][name])
    return converted.prompt


def sent(prompt: dict[str, Any]) -> str:
    """What is compared: the page's titles are in its own words."""
    nodes = {
        key: {"class_type": node["class_type"], "inputs": node["inputs"]}
        for key, node in prompt.items()
        if "class_type" in node  # the page sends nodes that nobody has, too
    }
    return json.dumps(nodes, sort_keys=True, indent=1)


def test_templates_are_what_the_page_makes_of_them_or_refused(
    server: Any, drive_new_browser: Any, workflows: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info, front_end = server.get("/object_info"), front_end_of(server.get("/system_stats"))
    converted: dict[Path, dict[str, Any]] = {}
    older: dict[Path, dict[str, Any]] = {}
    refused, skipped = {}, []
    for path in workflows:
        try:
            converted[path] = ours(path, info, front_end)
            other = ours(path, info, OLD)
            if sent(other) != sent(converted[path]):
                older[path] = other
        except MissingNodes:
            skipped.append(path.stem)
        except NotConvertible as error:
            refused[path.stem] = str(error)
    different = []
    for version, prompts in (("", converted), (OLD, older)):
        (tmp_path / "list.json").write_text(json.dumps([str(path) for path in prompts]))
        pages = drive_new_browser("prompts", tmp_path / "list.json", front_end=version, timeout=840)
        for (path, prompt), page in zip(prompts.items(), pages, strict=True):
            if "error" in page or sent(prompt) != sent(page["api"]):
                different.append((version or front_end, path.stem, page.get("error", "other values")))
        with capsys.disabled():
            print(f"\n[conversion] front end {version or front_end}: {len(prompts)} workflows compared")
    with capsys.disabled():
        print(f"[conversion] {len(different)} different, {len(skipped)} skipped: nodes that this server does not have")
        for name, reason in refused.items():
            print(f"[conversion] refused: {name}: {reason}")
    assert different == []
    assert {name: reason for name, reason in refused.items() if REFUSED.get(name, "-") not in reason} == {}
    assert set(refused) <= set(REFUSED)
    assert len(converted) > len(workflows) / 2
    assert len(older) > (5 if size_of_run() == "all" else 0)


def test_the_pack_s_examples_are_their_api_files(server: Any) -> None:
    """Optional inputs that an API file leaves out are apart."""
    info, front_end = server.get("/object_info"), front_end_of(server.get("/system_stats"))
    for path in UI_FILES:
        prompt = with_own_ids(ours(path, info, front_end))
        api = json.loads((WORKFLOWS / "api" / path.name).read_text())
        assert set(prompt) == set(api), path.name
        for node_id, node in api.items():
            inputs = prompt[node_id]["inputs"]
            assert {name: inputs.get(name) for name in node["inputs"]} == node["inputs"], (path.name, node_id)
