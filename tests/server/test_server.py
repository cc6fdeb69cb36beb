"""The pack on a real server: nodes listed, example workflows run by comfy-cli in both formats, opened by a browser."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
WORKFLOWS = ROOT / "example_workflows"
UI_FILES = sorted(WORKFLOWS.glob("*.json"))
API_FILES = sorted((WORKFLOWS / "api").glob("*.json"))
SHORT_STEPS = 2  # training steps; a test looks at whether a workflow runs, not at what it learns
TRAINERS = ("DEFTTrainAdapter", "DEFTTrainTextualInversion")
# Files of gigabytes and folders of photos. The examples that name them run in tests/comfy/test_reference.py and
# test_tables.py, with small models and the demo's pictures instead.
NOT_HERE = {
    "omnigen2_fp16.safetensors", "qwen_2.5_vl_fp16.safetensors", "ae.safetensors",
    "v1-5-pruned-emaonly-fp16.safetensors", "sd_xl_base_1.0.safetensors",
    *(f"dreambooth/{name}" for name in ("bear_plushie", "cat", "dog8")),
    *(f"dreambench_plus/live_subject_animal_{name}" for name in ("00_kitten", "01_stork", "02_kitten", "03_horse")),
}


def missing_files(path: Path) -> set[str]:
    """Those of NOT_HERE that an example names."""
    nodes = json.loads((WORKFLOWS / "api" / path.name).read_text()).values()
    return {value for node in nodes for value in node["inputs"].values() if isinstance(value, str)} & NOT_HERE


COMPLETE = [path for path in API_FILES + UI_FILES if not missing_files(path)]
INCOMPLETE = [path for path in API_FILES if missing_files(path)]


def literal_node_ids() -> set[str]:
    """The node ids written in the source, as ComfyUI Manager's scanner finds them."""
    found = set()
    for path in (ROOT / "nodes").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "Schema":
                found |= {ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg == "node_id"}
    return found


def with_few_steps(workflow: dict[str, Any]) -> dict[str, Any]:
    """Either format of a workflow with short trainings."""
    if "nodes" in workflow:
        for node in workflow["nodes"]:
            if node["type"] in TRAINERS:
                names = []
                for socket in node["inputs"]:
                    if "widget" in socket:
                        names.append(socket["widget"]["name"])
                        if socket["name"].endswith("seed"):
                            names.append("control_after_generate")
                assert len(names) == len(node["widgets_values"]), (names, node["widgets_values"])
                node["widgets_values"][names.index("steps")] = SHORT_STEPS
        return workflow
    for node in workflow.values():
        if node["class_type"] in TRAINERS:
            node["inputs"]["steps"] = SHORT_STEPS
    return workflow


def test_every_node_is_listed(server: Any) -> None:
    info = server.get("/object_info")
    ours = {name for name, node in info.items() if node["python_module"] == f"custom_nodes.{server.pack_name}"}
    assert ours == literal_node_ids()
    assert ours


def test_locale_file_says_what_the_nodes_say(server: Any, make_locale: Any) -> None:
    info = server.get("/object_info")
    wanted = {name: make_locale.texts(info[name]) for name in literal_node_ids()}
    assert json.loads(make_locale.TARGET.read_text()) == wanted, "run scripts/make_locale.py"


def test_both_formats_of_every_example_are_there() -> None:
    assert [path.name for path in UI_FILES] == [path.name for path in API_FILES]
    assert API_FILES


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", COMPLETE, ids=lambda path: str(path.relative_to(WORKFLOWS)))
def test_comfy_cli_runs(server: Any, path: Path, tmp_path: Path) -> None:
    short = tmp_path / path.name
    short.write_text(json.dumps(with_few_steps(json.loads(path.read_text()))))
    command = [
        str(Path(sys.executable).parent / "comfy"), "--skip-prompt", "run", "--workflow", str(short),
        "--host", "127.0.0.1", "--port", str(server.port), "--wait", "--timeout", "300", "--json",
    ]
    variables = os.environ | {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path), "DO_NOT_TRACK": "1"}
    done = subprocess.run(command, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}\n{server.log_tail()}"
    envelope = json.loads(done.stdout.strip().splitlines()[-1])
    assert envelope["ok"] and envelope["data"]["status"] == "completed"
    history = server.get(f"/history/{envelope['data']['prompt_id']}")[envelope["data"]["prompt_id"]]
    assert history["status"]["status_str"] == "success"
    assert history["outputs"], "no node showed anything"


@pytest.mark.parametrize("path", INCOMPLETE, ids=lambda path: path.name)
def test_nothing_but_files_and_folders_is_missing(server: Any, path: Path) -> None:
    """The server knows the nodes and their inputs, and refuses the example for the files alone."""
    prompt, info = json.loads(path.read_text()), server.get("/object_info")
    for node in prompt.values():
        known = {name for names in info[node["class_type"]]["input_order"].values() for name in names}
        # What a dynamic input adds is named behind a dot.
        assert {name.partition(".")[0] for name in node["inputs"]} <= known, node
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.post("/prompt", {"prompt": prompt})
    found = [error for node in json.loads(refused.value.read())["node_errors"].values() for error in node["errors"]]
    assert {error["type"] for error in found} == {"value_not_in_list"}
    assert {error["extra_info"]["received_value"] for error in found} == missing_files(path)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", UI_FILES, ids=lambda path: path.name)
def test_browser_opens(drive_browser: Any, path: Path, tmp_path: Path) -> None:
    screenshot = Path(os.environ.get("DEFT_TEST_LOGS") or tmp_path) / f"{path.stem}.png"
    seen = drive_browser("check", path, screenshot)
    assert [node for node in seen["nodes"] if not node["registered"]] == []
    assert seen["errors"] == []
    # The front end looks for model files only; a single one it names.
    missing = sorted(name for name in missing_files(path) if name.endswith(".safetensors"))
    told = [f"{len(missing)} errors found"] if len(missing) > 1 else [f"{name} is missing" for name in missing]
    assert [text.splitlines()[0] for text in seen["complaints"]] == told
    assert screenshot.stat().st_size > 10_000
    # What the front end would send is what the API file says.
    for node_id, node in json.loads((WORKFLOWS / "api" / path.name).read_text()).items():
        assert seen["api"][node_id]["class_type"] == node["class_type"]
        sent = {name: seen["api"][node_id]["inputs"].get(name) for name in node["inputs"]}
        assert sent == node["inputs"], node_id


def test_browser_sees_what_is_missing(drive_browser: Any, tmp_path: Path) -> None:
    """The check above would find a node that is not installed and a model file that is not there."""
    path = tmp_path / "broken.json"
    text = (WORKFLOWS / "compare_methods.json").read_text()
    path.write_text(text.replace("DEFTScoreTable", "NoSuchNode").replace("deft_demo_denoiser", "no_such_file"))
    seen = drive_browser("check", path, tmp_path / "broken.png")
    assert {node["type"] for node in seen["nodes"] if not node["registered"]} == {"NoSuchNode"}
    assert "2 errors found" in " ".join(seen["complaints"])
