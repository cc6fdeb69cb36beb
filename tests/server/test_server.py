"""The pack on a real server: nodes listed, example workflows run by comfy-cli in both formats."""

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

from .example_files import API_FILES, COMPLETE, INCOMPLETE, ROOT, UI_FILES, WORKFLOWS, missing_files, with_few_steps


def literal_node_ids() -> set[str]:
    """The node ids written in the source, as ComfyUI Manager's scanner finds them."""
    node_ids = set()
    for path in (ROOT / "nodes").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "Schema":
                node_ids |= {ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg == "node_id"}
    return node_ids


def test_every_node_is_listed(server: Any) -> None:
    info = server.get("/object_info")
    ours = {name for name, node in info.items() if node["python_module"] == f"custom_nodes.{server.pack_name}"}
    assert ours == literal_node_ids()
    assert ours


def test_locale_file_says_what_the_nodes_say(server: Any, make_locale: Any) -> None:
    info = server.get("/object_info")
    texts = {name: make_locale.texts(info[name]) for name in literal_node_ids()}
    assert json.loads(make_locale.ENGLISH_FILE.read_text()) == texts, "make generated PARTS=locales"


def test_both_formats_of_every_example_are_there() -> None:
    assert [path.name for path in UI_FILES] == [path.name for path in API_FILES]
    assert API_FILES


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "path",
    sorted(COMPLETE, key=lambda path: (path.name, path.parent == WORKFLOWS)),
    ids=lambda path: str(path.relative_to(WORKFLOWS)),
)
def test_comfy_cli_runs(server: Any, path: Path, tmp_path: Path) -> None:
    # Both formats of an example come one after the other: as far as they are one prompt, ComfyUI has computed it.
    short = tmp_path / path.name
    short.write_text(json.dumps(with_few_steps(json.loads(path.read_text()))))
    command = [
        str(Path(sys.executable).parent / "comfy"),
        "--skip-prompt",
        "run",
        "--workflow",
        str(short),
        "--host",
        "127.0.0.1",
        "--port",
        str(server.port),
        "--wait",
        "--timeout",
        "300",
        "--json",
    ]
    variables = os.environ | {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path), "DO_NOT_TRACK": "1"}
    done = subprocess.run(command, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}\n{server.log_tail()}"
    envelope = json.loads(done.stdout.strip().splitlines()[-1])
    assert envelope["ok"]
    assert envelope["data"]["status"] == "completed"
    history = server.get(f"/history/{envelope['data']['prompt_id']}")[envelope["data"]["prompt_id"]]
    assert history["status"]["status_str"] == "success"
    assert history["outputs"], "no node showed anything"


@pytest.mark.parametrize("path", INCOMPLETE, ids=lambda path: path.name)
def test_nothing_but_files_and_folders_is_missing(server: Any, path: Path) -> None:
    """The server knows the nodes and their inputs, and refuses the example for the files alone."""
    prompt, info = json.loads(path.read_text()), server.get("/object_info")
    for node in prompt.values():
        input_names = {name for names in info[node["class_type"]]["input_order"].values() for name in names}
        # What a dynamic input adds is named behind a dot.
        assert {name.partition(".")[0] for name in node["inputs"]} <= input_names, node
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.post("/prompt", {"prompt": prompt})
    errors = [error for node in json.loads(caught.value.read())["node_errors"].values() for error in node["errors"]]
    assert {error["type"] for error in errors} == {"value_not_in_list"}
    # A scorer's usual file that is not there is no error here: the node looks for it, and offers its download.
    scorers = (node["inputs"].values() for node in prompt.values() if node["class_type"] == "DEFTLoadScorer")
    usual = {value for inputs in scorers for value in inputs if isinstance(value, str)}
    assert {error["extra_info"]["received_value"] for error in errors} == missing_files(path) - usual
