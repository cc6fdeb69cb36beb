"""Workflows in UI form become what ComfyUI's page sends, or are refused.

conversion/cases.jsonl has small workflows with what the page itself made of them: `api` in the front end 1.47.12
(ComfyUI 0.30.0), `old` in 1.45.15 (ComfyUI 0.24.0) where it differs, `error` where the page fails. object_info.json is
what ComfyUI 0.30.0 says of the nodes in them. tests/server compares ComfyUI's own templates with the page.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from deft_pack.sweeps.conversion import NotConvertible, convert, front_end_of
from deft_pack.sweeps.conversion.dynamic_prompts import OpenChoice, read
from deft_pack.sweeps.workflow import read_workflow

FOLDER = Path(__file__).parent / "conversion"
INFO = json.loads((FOLDER / "object_info.json").read_text())
CASES = {case["name"]: case for case in map(json.loads, (FOLDER / "cases.jsonl").read_text().splitlines())}
# Refused though the page sends something: another text at each run, and what the server would refuse.
REFUSED = {
    "name04": "Save Image (4): `filename_prefix`: has %date:yyyy%, which is another text at each run; write the date",
    "unknown0": "this ComfyUI has no node NoSuchNode",
    "combo03": 'Custom Combo (1): `choice`: is "c", where one of its choices is needed, and the node is saved with '
    "2 values more than it has widgets; look at it in ComfyUI, and save it with File > Export (API)",
    "dynamic03": 'Resize Image/Mask (2): `resize_type`: is "gone", where one of scale dimensions, scale by',
    "sub_null": "Empty Image (1) in the subgraph 'Sub': `width`: is null, where a whole number is needed; look at it",
    "values05": "KSampler (1): `denoise`: is null, where a number is needed; look at it",
    "values06": 'KSampler (1): `cfg`: is "euler", where a number is needed; look at it',
    "values08": "KSampler (1): `seed`: is null, where a whole number is needed; look at it",
}


def converted(workflow: dict[str, Any], front_end: str = "1.47.12") -> dict[str, Any]:
    """The prompt of a workflow, its texts read, without the nodes' titles."""
    result = convert(workflow, INFO, front_end)
    for node_id, name in result.dynamic:
        result.prompt[node_id]["inputs"][name] = read(result.prompt[node_id]["inputs"][name])
    return {key: {name: node[name] for name in ("class_type", "inputs")} for key, node in result.prompt.items()}


def exactly(value: Any) -> str:
    """JSON: true is not 1 there, and 1.0 is not 1."""
    return json.dumps(value, sort_keys=True, indent=1)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "api" in case and name not in REFUSED])
def test_the_prompt_is_the_page_s(name: str) -> None:
    case = CASES[name]
    assert exactly(converted(case["workflow"])) == exactly(case["api"])


def test_numbers_are_those_of_javascript() -> None:
    """Recorded in the page: JSON.stringify(JSON.parse(text))."""
    workflow = json.loads(json.dumps(CASES["converted"]["workflow"]))
    for saved, sent in ((8.0, 8), (2**64 - 1, 18446744073709552000), (2**53 + 1, 9007199254740992)):
        for node in workflow["nodes"]:
            if node["type"] == "PrimitiveInt":
                node["widgets_values"][0] = saved
        assert exactly(converted(workflow)["2"]["inputs"]["value"]) == exactly(sent)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "api" in case and name not in REFUSED])
def test_an_older_page_gives_subgraphs_their_own_values(name: str) -> None:
    """A subgraph's node shows what is inside before 1.47; its saved values are not read."""
    case = CASES[name]
    assert exactly(converted(case["workflow"], "1.45.15")) == exactly(case.get("old", case["api"]))


def test_a_front_end_that_is_not_known_is_refused() -> None:
    workflow = CASES["sub_plain"]["workflow"]
    for version in ("1.48.0", "1.44.19"):
        with pytest.raises(NotConvertible, match=rf"front end {version}\).*1.45 to 1.47.*Export \(API\)"):
            converted(workflow, version)
    # Where old and new rules differ, the version must be known; elsewhere it need not be.
    for version in ("1.46.15", ""):
        with pytest.raises(NotConvertible, match=r"other values in older front ends.*Export \(API\)"):
            converted(workflow, version)
        assert exactly(converted(CASES["combo00"]["workflow"], version)) == exactly(CASES["combo00"]["api"])


def test_a_number_of_a_primitive_is_one_of_javascript_too() -> None:
    workflow = json.loads(json.dumps(CASES["values00"]["workflow"]))
    (sampler,) = (each for each in workflow["nodes"] if each["type"] == "KSampler")
    slot = {"name": "cfg", "type": "FLOAT", "link": 99, "widget": {"name": "cfg"}}
    sampler["inputs"] = [each for each in sampler["inputs"] if each["name"] != "cfg"] + [slot]
    workflow["nodes"].append(
        node("PrimitiveNode", 77, widgets_values=[3], outputs=[{"name": "FLOAT", "type": "FLOAT", "links": [99]}])
    )
    workflow["links"].append([99, 77, 0, sampler["id"], len(sampler["inputs"]) - 1, "FLOAT"])
    assert exactly(converted(workflow)[str(sampler["id"])]["inputs"]["cfg"]) == "3"


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "error" in case])
def test_what_the_page_cannot_run_is_refused(name: str) -> None:
    with pytest.raises(NotConvertible, match=r"\(\d+\): .*connect it"):
        converted(CASES[name]["workflow"])


@pytest.mark.parametrize("name, text", REFUSED.items())
def test_what_cannot_be_known_is_refused(name: str, text: str) -> None:
    with pytest.raises(NotConvertible) as caught:
        converted(CASES[name]["workflow"])
    assert str(caught.value).startswith(text)


# By the page's processDynamicPrompt, recorded in the front end 1.47.12.
TEXTS = {
    "a cat // a remark\nin the snow": "a cat \nin the snow",
    "a /* b\nc */ d": "a  d",
    "see http://x.org": "see http:",
    "{one}": "one",
    "{a|a}": "a",
    "{ {b} ": " b ",
    "x } y | z": "x } y | z",
    r"\{a\|b\}": "{a|b}",
    r"C:\temp": r"C:\temp",
    "end\\": r"end\undefined",
    '{ "a": 1 }': ' "a": 1 ',
}


@pytest.mark.parametrize("text, sent", TEXTS.items())
def test_texts_are_read_as_the_page_reads_them(text: str, sent: str) -> None:
    assert read(text) == sent


def test_a_choice_is_left_to_the_caller() -> None:
    with pytest.raises(OpenChoice, match=r"\{red\|green\}"):
        read("a {red|green} cat")
    assert read("a {red|{dark|light} green} cat", lambda options: options[-1]) == "a light green cat"
    seen: list[list[str]] = []
    read("{a|b} {c|d}", lambda options: seen.append(list(options)) or options[0])  # type: ignore[func-returns-value]
    assert seen == [["a", "b"], ["c", "d"]]


def saved(tmp_path: Path, workflow: dict[str, Any]) -> Path:
    path = tmp_path / "saved.json"
    path.write_text(json.dumps(workflow))
    return path


def texts(tmp_path: Path, text: str) -> Path:
    """A workflow with a text that the page reads."""
    workflow = json.loads(json.dumps(CASES["textnull"]["workflow"]))
    (node,) = (node for node in workflow["nodes"] if node["type"] == "CLIPTextEncode")
    node["widgets_values"] = [text]
    return saved(tmp_path, workflow)


def test_a_plan_s_workflow_is_converted(tmp_path: Path) -> None:
    case = CASES["nest"]
    for version, expected in (("1.47.12", case["api"]), ("1.45.15", case["old"])):
        prompt = read_workflow(saved(tmp_path, case["workflow"]), INFO, version)
        assert {key: node["inputs"] for key, node in prompt.items()} == {
            key: node["inputs"] for key, node in expected.items()
        }
    (text,) = (
        node["inputs"]["text"]
        for node in read_workflow(texts(tmp_path, "a {cat} // one"), INFO).values()
        if node["class_type"] == "CLIPTextEncode"
    )
    assert text == "a cat "


def test_a_plan_s_workflow_that_is_refused(tmp_path: Path) -> None:
    """The file, then the node and the input, and what to do."""
    path = saved(tmp_path, CASES["values06"]["workflow"])
    with pytest.raises(ValueError) as caught:
        read_workflow(path, INFO)
    assert str(caught.value) == (
        f'{path} cannot be converted to the API form: KSampler (1): `cfg`: is "euler", where a number is needed; '
        "look at it in ComfyUI, and save it with File > Export (API)."
    )
    with pytest.raises(ValueError, match=r"does not have: NoSuchNode\. Install their packs"):
        read_workflow(saved(tmp_path, CASES["unknown0"]["workflow"]), INFO)
    with pytest.raises(ValueError, match=r"\(\d+\): `text` has the choice \{cat\|dog\}, .* the values of an axis"):
        read_workflow(texts(tmp_path, "a {cat|dog}"), INFO)


def node(kind: str, number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "type": kind, "mode": 0, "inputs": [], "outputs": [], "properties": {}, **more}


def alone(*nodes: dict[str, Any]) -> dict[str, Any]:
    """A workflow with these nodes beside one that is sent."""
    image = node("EmptyImage", 1, widgets_values=[64, 64, 1, 0])
    return {"version": 0.4, "last_node_id": 9, "nodes": [image, *nodes], "links": []}


def test_decorations_are_left_out() -> None:
    """What the server does not know and nobody takes a value from; one that is connected is missing."""
    group = node("Fast Groups Muter (rgthree)", 2, outputs=[{"name": "OPT_CONNECTION", "type": "*", "links": None}])
    assert set(converted(alone(node("Label (rgthree)", 3), group, node("Unknown", 4)))) == {"1"}
    with pytest.raises(NotConvertible, match="no node Unknown"):
        converted(alone(node("Unknown", 4, inputs=[{"name": "image", "type": "IMAGE", "link": 1}])))


def other_pack(inputs: dict[str, Any]) -> dict[str, Any]:
    return INFO | {"Other": {"input": {"required": inputs}, "output": [], "python_module": "custom_nodes.other-pack"}}


@pytest.mark.parametrize(
    "inputs, values, problem",
    [
        (
            {"a": ["COMFY_NEW_V3", {}]},
            [],
            r"Other \(2\): `a`: is of the type COMFY_NEW_V3, which this pack does not know",
        ),
        ({"a": ["INT", {}]}, {"a": 1}, r"Other \(2\): has its values saved by name, .* the JavaScript of its pack"),
        ({"a": ["INT", {}]}, [1, "x"], r"Other \(2\): is saved with 1 value more than it has widgets.*\(other-pack\)"),
        ({"a": ["INT", {}], "b": ["INT", {}]}, [1], r"Other \(2\): is saved with 1 value fewer than it has widgets"),
        ({"a": ["LOAD_3D", {}]}, [""], r"Other \(2\): `a`: is a scene, which the browser makes"),
        ({"a": ["WEBCAM", {}]}, [""], r"Other \(2\): `a`: is a picture of the camera, which the browser makes"),
    ],
)
def test_what_javascript_or_the_browser_makes_is_refused(inputs: dict[str, Any], values: Any, problem: str) -> None:
    with pytest.raises(
        NotConvertible, match=problem + r".*; open it in ComfyUI and save it with File > Export \(API\)"
    ):
        convert(alone(node("Other", 2, widgets_values=values)), other_pack(inputs), "1.47.12")


def test_what_is_not_sent_is_not_refused() -> None:
    """A muted or bypassed node, whatever its values are."""
    info = other_pack({"a": ["INT", {}]})
    for mode in (2, 4):
        workflow = alone(node("Other", 2, mode=mode, widgets_values={"a": 1}))
        assert set(convert(workflow, info, "1.47.12").prompt) == {"1"}


def test_a_file_that_a_sweep_uploads_is_no_choice_yet() -> None:
    picture = alone(node("LoadImage", 2, widgets_values=["not there.png", "image", "more"]))
    assert converted(picture)["2"]["inputs"] == {"image": "not there.png"}
    model = alone(node("CheckpointLoaderSimple", 2, widgets_values=["not there.safetensors", "more"]))
    info = json.loads(json.dumps(INFO))
    info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0] = ["there.safetensors"]
    with pytest.raises(NotConvertible, match=r"\(2\): `ckpt_name`: .* saved with 1 value more than it has widgets"):
        convert(model, info, "1.47.12")


def test_a_group_node_is_refused() -> None:
    with pytest.raises(NotConvertible, match=r"workflow>mine \(2\): is a group node of an older front end; open it"):
        converted(alone(node("workflow>mine", 2, inputs=[{"name": "a", "type": "IMAGE", "link": 1}])))


def test_a_connection_of_another_type_is_refused() -> None:
    workflow = alone(
        node("SaveImage", 2, inputs=[{"name": "images", "type": "IMAGE", "link": 1}], widgets_values=["x"])
    )
    workflow["nodes"][0] = node("PrimitiveInt", 1, widgets_values=[1], outputs=[{"name": "INT", "type": "INT"}])
    workflow["links"] = [[1, 1, 0, 2, 0, "INT"]]
    with pytest.raises(
        NotConvertible, match=r"Save Image \(2\): `images`: takes IMAGE, but is connected to INT of Int"
    ):
        converted(workflow)


def set_and_get(get: str) -> dict[str, Any]:
    """An image through the Set and Get nodes of KJNodes."""
    image = [{"name": "IMAGE", "type": "IMAGE", "links": [1]}]
    nodes = [
        node("EmptyImage", 1, widgets_values=[64, 64, 1, 0], outputs=image),
        node("SetNode", 2, inputs=[{"name": "IMAGE", "type": "IMAGE", "link": 1}], widgets_values=["picture"]),
        node("GetNode", 3, widgets_values=[get], outputs=[{"name": "IMAGE", "type": "IMAGE", "links": [2]}]),
        node("SaveImage", 4, inputs=[{"name": "images", "type": "IMAGE", "link": 2}], widgets_values=["x"]),
    ]
    return {"version": 0.4, "nodes": nodes, "links": [[1, 1, 0, 2, 0, "IMAGE"], [2, 3, 0, 4, 0, "IMAGE"]]}


def test_set_and_get_nodes() -> None:
    assert converted(set_and_get("picture"))["4"]["inputs"]["images"] == ["1", 0]
    with pytest.raises(NotConvertible, match=r"GetNode \(3\): there is no Set node named 'other'"):
        converted(set_and_get("other"))


@pytest.mark.parametrize(
    "damage",
    [
        {"nodes": [{"id": 1}]},
        {"links": [[1, 2]]},
        {"nodes": [], "definitions": {"subgraphs": [{"id": "a"}]}},
        {"nodes": 3},
    ],
)
def test_a_damaged_file_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(NotConvertible, match="the file is damaged.*save it again in ComfyUI"):
        converted(alone() | damage)


def test_which_page_a_server_gives() -> None:
    packages = [{"name": "comfyui-frontend-package", "installed": "1.47.12", "required": "1.45.15"}]
    system = {"required_frontend_version": "1.45.15", "argv": ["main.py", "--cpu"]}
    assert front_end_of({"system": system}) == "1.45.15"
    assert front_end_of({"system": system | {"comfy_package_versions": packages}}) == "1.47.12"
    assert front_end_of({}) == ""
    for option, version in (
        (["--front-end-version", "Comfy-Org/ComfyUI_frontend@v1.46.15"], "1.46.15"),
        (["--front-end-version", "Comfy-Org/ComfyUI_frontend@latest"], "latest"),
        (["--front-end-root", "/page"], ""),
    ):
        assert front_end_of({"system": system | {"argv": ["main.py", *option]}}) == version


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([64, 64, 1, 0, 5, 6], "is saved with 2 values more than it has widgets, .*; the last ones are dropped"),
        ([64, 64, 1], "is saved with 1 value fewer than it has widgets, .*; the last ones keep their defaults"),
    ],
)
def test_values_more_or_fewer_are_remarked_on(values: list[int], text: str) -> None:
    """The page says nothing, and neither drops the node nor its other values."""
    result = convert(alone(node("EmptyImage", 2, widgets_values=values)), INFO, "1.47.12")
    assert result.prompt["2"]["inputs"] == {"width": 64, "height": 64, "batch_size": 1, "color": 0}
    (remark,) = result.remarks
    assert re.search(rf"\(2\) {text}", remark)


def test_a_required_socket_without_a_connection_is_remarked_on() -> None:
    result = convert(alone(node("SaveImage", 2, widgets_values=["x"])), INFO, "1.47.12")
    (remark,) = result.remarks
    assert "(2): images has no connection" in remark
    assert convert(alone(), INFO, "1.47.12").remarks == []
