"""The example workflows as a person opens them: a note, groups, nodes that do not lie on each other, a thumbnail."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deft_pack.scoring import download
from deft_pack.scoring.protocols import get_protocol
from deft_pack.workflow_sources import files, layout, scorers
from deft_pack.workflow_sources.bases import BASES
from deft_pack.workflow_sources.files import FILES
from deft_pack.workflow_sources.packing import widget_value

ROOT = Path(__file__).resolve().parent.parent.parent
WORKFLOWS = ROOT / "example_workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
TITLE = 30  # height of a node's title, above its position
FAR = 1500  # pixels that a link may run without a reroute
WANTED = {
    "load_and_apply",
    "compare_methods",
    "diverse_prompts",
    "deft_against_lora",
    "scene_personalisation",
    "train_with_previews",
    "stack_two_concepts",
    "export_as_lora",
    "score_a_folder",
    "strength_ladder",
    "compare_all_methods",
    "deft_table1",
    "deft_table2",
    "2 Use my adapter (demo)",
    *(f"1 Train my subject ({base})" for base in BASES),
}
SMALL = [name for name in NAMES if name[0].isdigit()]  # for who is new
RESULTS = {  # nodes that something can end with
    "SaveImage",
    "PreviewImage",
    "PreviewAny",
    "DEFTSaveAdapter",
    "DEFTSaveScores",
    "DEFTScoreTable",
    "DEFTFidelityPlot",
    "DEFTComparisonGrid",
    "DEFTVerifyScorer",
}
Box = tuple[float, float, float, float]  # left, top, right, bottom


def ui(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def api(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))


def box(node: dict[str, Any]) -> Box:
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE, x + width, y + height


def group_box(group: dict[str, Any]) -> Box:
    x, y, width, height = group["bounding"]
    return x, y, x + width, y + height


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def inside(small: Box, large: Box) -> bool:
    return large[0] <= small[0] and large[1] <= small[1] and small[2] <= large[2] and small[3] <= large[3]


def spans(graph: dict[str, Any]) -> list[tuple[int, float]]:
    """Each link's id, and how far its ends are apart from left to right, in pixels."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    return [
        (number, nodes[target]["pos"][0] - box(nodes[origin])[2]) for number, origin, _, target, _, _ in graph["links"]
    ]


def problems(graph: dict[str, Any]) -> list[str]:
    """What is not as it should be in the arrangement of a graph."""
    found = []
    groups = [group_box(group) for group in graph["groups"]]
    titles = [group["title"] for group in graph["groups"]]
    for one, other in combinations(range(len(groups)), 2):
        if overlap(groups[one], groups[other]):
            found.append(f"groups {titles[one]} and {titles[other]} lie on each other")
    for node in graph["nodes"]:
        if sum(inside(box(node), group) for group in groups) != 1:
            found.append(f"node {node['id']} is not inside one group")
    for one, other in combinations(graph["nodes"], 2):
        if overlap(box(one), box(other)):
            found.append(f"nodes {one['id']} and {other['id']} lie on each other")
    rerouted = {extension["id"] for extension in graph["extra"]["linkExtensions"]}
    links = spans(graph)
    found += [
        f"link {number} runs {apart:.0f} pixels without a reroute"
        for number, apart in links
        if apart > FAR and number not in rerouted
    ]
    backwards = [number for number, apart in links if apart < 0]
    if len(backwards) > 0.1 * len(links):
        found.append(f"links {backwards} of {len(links)} run from right to left")
    return found


def test_all_examples_are_there() -> None:
    assert set(NAMES) >= WANTED
    for folder, ending in (("api", ".json"), (".", ".jpg")):
        assert sorted(path.stem for path in (WORKFLOWS / folder).glob(f"*{ending}")) == NAMES
    assert files.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_graph_can_be_read(name: str) -> None:
    assert problems(ui(name)) == []


def test_bad_arrangements_are_found() -> None:
    """The check above would find each kind of fault."""
    graph = ui("load_and_apply")
    first, second = graph["nodes"][:2]
    second["pos"] = first["pos"]
    graph["nodes"][2]["pos"] = [-5000, -5000]
    graph["groups"][1]["bounding"] = graph["groups"][2]["bounding"]
    graph["extra"]["linkExtensions"] = []
    text = " ".join(problems(graph))
    for words in ("nodes 1 and 2", "node 3 is not inside", "lie on each other", "without a reroute"):
        assert words in text


@pytest.mark.parametrize("name", NAMES)
def test_note_says_what_it_shows(name: str) -> None:
    graph = ui(name)
    notes = [node for node in graph["nodes"] if node["type"] == "MarkdownNote"]
    assert len(notes) == 1
    (text,) = notes[0]["widgets_values"]
    title = graph["groups"][0]["title"]
    assert text.startswith(f"# {title}\n")
    assert "What you will see" in text
    assert re.search("your own|Before you run it|models/checkpoints", text)
    named = set(re.findall(r"(?<!\*)\*([a-z]+(?:_[a-z0-9]+)+)\*(?!\*)", text))
    assert {word for word in named if word not in NAMES} == set()
    for number in notes[0]["pos"]:  # it is what one sees first
        assert 0 <= number < 100
    assert all(point["pos"][0] >= notes[0]["size"][0] for point in graph["extra"]["reroutes"])


@pytest.mark.parametrize("name", NAMES)
def test_titles_are_words(name: str) -> None:
    graph = ui(name)
    titles = [group["title"] for group in graph["groups"]]
    assert len(titles) >= 3
    assert len(set(titles)) == len(titles)
    for node in graph["nodes"]:
        title = node.get("title") or node["type"]
        assert re.match(r"[A-Z0-9]", title), title
        assert "_" not in title.replace("from_base", "").replace("bear_plushie", ""), title
        assert title != node["type"] or node["type"] == "MarkdownNote", node["id"]
    shown = [node["title"] for node in graph["nodes"]]
    assert len(set(shown)) == len(shown)


@pytest.mark.parametrize("name", NAMES)
def test_reroutes_hold_together(name: str) -> None:
    """Each point has its links, each link's way leads back without a loop, as the front end reads it."""
    graph = ui(name)
    points = {point["id"]: point for point in graph["extra"]["reroutes"]}
    assert len(points) == len(graph["extra"]["reroutes"])
    passed: dict[int, set[int]] = {number: set() for number in points}
    sources = {link[0]: (link[1], link[2]) for link in graph["links"]}
    for extension in graph["extra"]["linkExtensions"]:
        point: int | None = extension["parentId"]
        while point is not None:
            assert extension["id"] not in passed[point]
            passed[point].add(extension["id"])
            point = points[point].get("parentId")
    for number, links in passed.items():
        assert links == set(points[number]["linkIds"])
        assert links
        assert len({sources[link] for link in links}) == 1  # a point carries one value


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_say_the_same(name: str) -> None:
    assert files.differences(ui(name), api(name)) == []


@pytest.mark.parametrize("name", SMALL)
def test_it_opens_small_enough_to_be_read(name: str) -> None:
    """At most ten nodes on top beside the note. The page shows a template in three quarters of the window, and text
    that is smaller than 0.571 of its size as bars: on 1920 x 1080 that is 2500 x 1400.
    """
    boxes = [box(node) for node in ui(name)["nodes"]]
    assert len([node for node in ui(name)["nodes"] if node["type"] != "MarkdownNote"]) <= 10
    assert not re.search(r"[{}]", json.dumps(layout.read(name)["note"]))
    assert max(right for _, _, right, _ in boxes) - min(left for left, *_ in boxes) <= 2500
    assert max(bottom for *_, bottom in boxes) - min(top for _, top, *_ in boxes) <= 1400


@pytest.mark.parametrize("name", NAMES)
def test_where_each_model_file_comes_from(name: str) -> None:
    """The page offers the download of what stands under `models` at the node; the demo's files come with the pack."""
    graph = ui(name)
    inside = [node for one in graph.get("definitions", {}).get("subgraphs", []) for node in one["nodes"]]
    for node in graph["nodes"] + inside:
        values = [value for value in node["widgets_values"] if isinstance(value, str)]
        needed = [value for value in values if value.endswith(".safetensors") and not value.startswith("deft_demo_")]
        offered = node["properties"].get("models", [])
        assert [one["name"] for one in offered] == needed
        for one in offered:
            assert (one["directory"], one["url"]) == FILES[one["name"]]
            assert re.fullmatch(r"https://huggingface\.co/[\w.-]+/[\w.-]+/resolve/main/[\w./-]+", one["url"])
            # A browser keeps the name of the address; the scorers' repositories all have a model.safetensors.
            assert one["url"].rpartition("/")[2] == one["name"] or one["directory"] == "scorers"


@pytest.mark.parametrize("protocol", scorers.WEIGHTS)
def test_scorers_have_the_names_and_addresses_of_their_own_download(protocol: str) -> None:
    rules = get_protocol(protocol)
    specs = {f"{kind}_weights": spec for kind, spec in rules.backbones.items() if rules.needs(kind)}
    named = {widget: name for widget, name in scorers.WEIGHTS[protocol].items() if name != "auto"}
    assert named == {widget: download.own_name(spec) for widget, spec in specs.items()}
    for widget, name in named.items():
        assert FILES[name] == ("scorers", download.hub_address(specs[widget].hub[0]))


@pytest.mark.parametrize("name", SMALL)
def test_values_on_top_of_a_subgraph_are_those_inside(name: str) -> None:
    graph = ui(name)
    (inner,) = graph["definitions"]["subgraphs"]
    (top,) = [node for node in graph["nodes"] if node["type"] == inner["id"]]
    (packing,) = files.flat_prompt_of(name).packings
    nodes = {node["id"]: node for node in inner["nodes"]}
    assert top["widgets_values"] == [widget_value(nodes[node], name) for node, name in packing.promoted.values()]
    assert "proxyWidgets" not in json.dumps(graph)


def test_differences_of_the_forms_are_noticed() -> None:
    graph, prompt = ui("load_and_apply"), api("load_and_apply")
    graph["nodes"][0]["type"] = "CheckpointLoaderSimple"
    graph["nodes"][1]["title"] = "Another"
    graph["nodes"][2]["mode"] = 4
    del prompt["22"]
    prompt["40"]["inputs"]["steps"] = 12345
    prompt["41"]["inputs"]["model"] = ["1", 0]
    found = files.differences(graph, prompt)
    assert sorted(found) == [
        "node 1 is CheckpointLoaderSimple and UNETLoader",
        "node 2 has two titles",
        "node 22 is in one form only",
        "node 3 is muted or bypassed",
        "node 40 lacks 12345",
        "node 41 has other links",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_node_leads_to_a_result(name: str) -> None:
    prompt = api(name)
    used = {value[0] for node in prompt.values() for value in node["inputs"].values() if isinstance(value, list)}
    ends = {node["class_type"] for node_id, node in prompt.items() if node_id not in used}
    assert ends <= RESULTS


def test_ids_of_graphs_are_their_own() -> None:
    """The front end keeps drafts by them."""
    ids = [ui(name)["id"] for name in NAMES]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_one_machine(name: str) -> None:
    for path in (WORKFLOWS / f"{name}.json", WORKFLOWS / "api" / f"{name}.json"):
        assert not re.search(r'"(/|[A-Za-z]:\\\\|~/)|/home/|/root/|/tmp/|file://', path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_outputs_go_to_a_folder_of_its_name(name: str) -> None:
    keys = ("filename_prefix", "run_name", "append_to")
    nodes = [node["inputs"] for node in api(name).values() if node["inputs"].get("place") != "models/loras"]
    found = [inputs[key] for inputs in nodes for key in keys if inputs.get(key)]
    assert [value for value in found if not value.startswith(f"{name}/")] == []
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("name", NAMES)
def test_thumbnail(name: str) -> None:
    path = WORKFLOWS / f"{name}.jpg"
    assert path.stat().st_size <= 60_000
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == ("JPEG", (512, 512))
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 50


def test_every_example_is_in_the_docs() -> None:
    text = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"`{name}`" not in text or f"examples/{name}.jpg" not in text] == []


def test_layout_refuses_what_does_not_fit() -> None:
    given = layout.read("load_and_apply")
    graph = ui("load_and_apply")
    graph["nodes"] = [node for node in graph["nodes"] if node["type"] != "MarkdownNote"]
    twice = {**given, "groups": [*given["groups"], {"title": "Again", "role": "result", "lines": [[70]]}]}
    with pytest.raises(ValueError, match="node 70 stands twice"):
        layout.Arrangement(graph, twice)
    without = {**given, "groups": given["groups"][:-1]}
    graph["nodes"] = [node for node in graph["nodes"] if node["type"] != "MarkdownNote"]
    with pytest.raises(ValueError, match=r"nodes \[70, 72\] are in no group"):
        layout.Arrangement(graph, without)


@pytest.mark.parametrize("name", NAMES)
def test_a_line_is_a_node(name: str) -> None:
    """So that a difference of two versions says which nodes have changed."""
    written, graph = (WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"), ui(name)
    assert written.count("\n") == len(api(name)) + 2
    lines = (WORKFLOWS / f"{name}.json").read_text(encoding="utf-8").splitlines()
    alone = [json.loads(line.strip().rstrip(",")) for line in lines if line.startswith(("  {", "  ["))]
    assert alone == [*graph["nodes"], *graph["links"], *graph["groups"]]
