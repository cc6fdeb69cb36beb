"""Targets by what people see: widgets of subgraphs, primitives, nodes inside subgraphs; workflows out of pictures."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from deft_pack.sweeps.cells import Compiler
from deft_pack.sweeps.facts import Facts
from deft_pack.sweeps.files import Files
from deft_pack.sweeps.launch import compiled
from deft_pack.sweeps.plan import read_plan
from deft_pack.sweeps.store import Store

FOLDER = Path(__file__).parent / "conversion"
INFO = json.loads((FOLDER / "object_info.json").read_text())
CASES = {case["name"]: case for case in map(json.loads, (FOLDER / "cases.jsonl").read_text().splitlines())}


def case(name: str) -> dict[str, Any]:
    """A case's workflow."""
    workflow: dict[str, Any] = json.loads(json.dumps(CASES[name]["workflow"]))
    return workflow


def prompt_of(folder: Path, content: dict[str, Any] | bytes, values: dict[str, Any], name: str = "w.json") -> Any:
    """What the one cell of a plan with these fixed values gets: node id -> inputs.

    All nodes are output nodes there: some cases have none that saves.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    (folder / "plan.yaml").write_text(json.dumps({"name": "p", "workflow": name, "set": values}))
    info = {kind: {**node, "output_node": True} for kind, node in INFO.items()}
    stats = {"system": {"required_frontend_version": "1.47.12"}}
    store = Store.open(folder / "store", "p")
    compiler: Compiler
    compiler, cells = compiled(read_plan(folder / "plan.yaml"), Facts(info, stats, []), store, Files())
    (cell,) = cells.pictures
    return {node_id: node["inputs"] for node_id, node in compiler.prompt_of(cell).items()}


def changed(folder: Path, name: str, values: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """(node id, input) -> value of what these values change in a case's prompt."""
    before, after = (prompt_of(folder / str(len(each)), case(name), each) for each in ({}, values))
    assert before.keys() == after.keys()
    return {
        (node_id, entry): value
        for node_id, inputs in after.items()
        for entry, value in inputs.items()
        if before[node_id].get(entry) != value
    }


@pytest.mark.parametrize(
    ("name", "target", "value", "inputs"),
    [
        ("sub_plain", "Sub.width", 777, {("10:1", "width")}),
        ("sub_plain", "10.height", 777, {("10:1", "height")}),
        ("sub_plain", "Sub/Empty Image.batch_size", 7, {("10:1", "batch_size")}),
        ("sub_proxy_new", "Sub.batch_size", 7, {("10:1", "batch_size")}),
        ("sub_fan", "F.text", "new", {("10:1", "text"), ("10:2", "text"), ("10:3", "source")}),
        ("sub_two", "11.width", 777, {("11:1", "width")}),
        ("nest", "B.prompt", "new", {("7:2:1", "text")}),
        ("nest", "B/A/CLIP Text Encode (Prompt).text", "new", {("7:2:1", "text")}),
        ("prim1", "PrimitiveNode.value", 777, {("2", "width")}),
        ("psub_in", "P/Primitive.value", 777, {("10:1", "width"), ("10:1", "height")}),
        ("psub_titled", "P.Size", 777, {("10:1", "width"), ("10:1", "height")}),
    ],
)
def test_what_people_see_is_a_target(tmp_path: Path, name: str, target: str, value: Any, inputs: set[Any]) -> None:
    assert changed(tmp_path, name, {target: value}) == dict.fromkeys(inputs, value)


@pytest.mark.parametrize(("name", "widget"), [("sub_plain", "10.width"), ("sub_fan", "10.text"), ("nest", "7.prompt")])
def test_a_widget_of_a_subgraph_is_set_as_the_page_sets_it(tmp_path: Path, name: str, widget: str) -> None:
    """The same prompt as by the value in the file, which the page's own results stand behind."""
    workflow = case(name)
    (host,) = (each for each in workflow["nodes"] if str(each["id"]) == widget.partition(".")[0])
    value = 777 if name == "sub_plain" else "another"
    host["widgets_values"][0] = value
    by_file = prompt_of(tmp_path / "file", workflow, {})
    assert by_file == prompt_of(tmp_path / "plan", case(name), {widget: value})
    assert by_file != prompt_of(tmp_path / "before", case(name), {})


@pytest.mark.parametrize(
    ("name", "target", "text"),
    [
        ("sub_plain", "Sub.witdh", "'Sub' shows no widget 'witdh'; near: width"),
        ("sub_plain", "Sup.width", "'Sup.width' names no node of the workflow; near: Sub"),
        ("sub_plain", "Sub/Emtpy Image.width", "names no node of the workflow; near: Sub/Empty Image, Empty Image"),
        ("prim1", "Primitive.value", "names no node of the workflow; near: PrimitiveNode"),
        ("sub_two", "Sub.width", "2 nodes are called 'Sub': write an id instead (10, 11)"),
        ("sub_two", "Sub/Empty Image.width", "2 nodes are called 'Sub/Empty Image': write an id instead (10:1, 11:1)"),
        ("sub_plain", "Sub.width", "`width` takes a whole number, not 'x'"),
    ],
)
def test_a_wrong_target_lists_what_there_is(tmp_path: Path, name: str, target: str, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        prompt_of(tmp_path, case(name), {target: "x"})


def picture(**texts: str) -> bytes:
    """A PNG as ComfyUI's Save Image writes it."""
    info = PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    target = io.BytesIO()
    Image.new("RGB", (4, 4)).save(target, "PNG", pnginfo=info)
    return target.getvalue()


def test_a_picture_is_a_workflow(tmp_path: Path) -> None:
    """What dragging it into ComfyUI restores: the saved workflow, or else the prompt, as in a sweep's own pictures."""
    api = {"5": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}}
    both = picture(prompt=json.dumps(api), workflow=json.dumps(case("sub_plain")))
    expected = prompt_of(tmp_path / "json", case("sub_plain"), {"Sub.width": 777})
    assert prompt_of(tmp_path / "both", both, {"Sub.width": 777}, "w.png") == expected
    alone = picture(prompt=json.dumps(api))
    assert prompt_of(tmp_path / "alone", alone, {"5.color": 9}, "w.png") == {"5": api["5"]["inputs"] | {"color": 9}}
    for content in (picture(), picture(parameters="x"), alone[:60]):
        with pytest.raises(ValueError, match=r"w\.png cannot be read \(the (picture has no workflow|PNG file)"):
            prompt_of(tmp_path / "none", content, {}, "w.png")
