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
from deft_pack.workflow_sources.packing import INPUT, widget_value

ROOT = Path(__file__).resolve().parent.parent.parent
WORKFLOWS = ROOT / "example_workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
TITLE = 30  # height of a node's title, above its position
ROOM_OF_PREVIEWS = 460  # pixels by which a training node grows: its text, the curve, all previews and the last one
MOST_NODES = 16  # on top, the note too
# The page shows a template in three quarters of its window, and text below 0.571 of its size not at all: tests/server
# opens each on 1920 x 1080.
WIDEST, HIGHEST = 2500, 1300
INTERFACE = json.loads((ROOT / "interface.json").read_text(encoding="utf-8"))["nodes"]
WANTED = {
    "load_and_apply",
    "compare_methods",
    "diverse_prompts",
    "deft_against_lora",
    "scene_personalisation",
    "scene_personalisation_garden",
    "train_with_previews",
    "stack_two_concepts",
    "export_as_lora",
    "score_a_folder",
    "strength_ladder",
    "compare_all_methods",
    "deft_table1",
    "deft_table1_one_prompt",
    "deft_table2",
    "deft_table2_repository",
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


def backwards(graph: dict[str, Any]) -> list[int]:
    """The links that neither go on to the right nor down."""
    boxes = {node["id"]: box(node) for node in graph["nodes"]}
    return [
        number
        for number, origin, _, target, _, _ in graph["links"]
        if boxes[target][0] < boxes[origin][2] and boxes[target][1] < boxes[origin][3]
    ]


def subgraphs(graph: dict[str, Any]) -> list[dict[str, Any]]:
    return graph.get("definitions", {}).get("subgraphs", [])


def problems(graph: dict[str, Any]) -> list[str]:
    """What is not as it should be in the arrangement of a graph."""
    messages = []
    groups = [group_box(group) for group in graph["groups"]]
    titles = [group["title"] for group in graph["groups"]]
    for one, other in combinations(range(len(groups)), 2):
        if overlap(groups[one], groups[other]):
            messages.append(f"groups {titles[one]} and {titles[other]} lie on each other")
    for node in graph["nodes"]:
        if sum(inside(box(node), group) for group in groups) != 1:
            messages.append(f"node {node['id']} is not inside one group")
    for one, other in combinations(graph["nodes"], 2):
        if overlap(box(one), box(other)):
            messages.append(f"nodes {one['id']} and {other['id']} lie on each other")
    if len(back := backwards(graph)) > 0.1 * len(graph["links"]):
        messages.append(f"links {back} of {len(graph['links'])} run back")
    for one in subgraphs(graph):
        for node, other in combinations(one["nodes"], 2):
            if overlap(box(node), box(other)):
                messages.append(f"nodes {node['id']} and {other['id']} lie on each other in {one['name']}")
    return messages


def test_all_examples_are_there() -> None:
    assert set(NAMES) >= WANTED
    for folder, ending in (("api", ".json"), (".", ".jpg")):
        assert sorted(path.stem for path in (WORKFLOWS / folder).glob(f"*{ending}")) == NAMES
    assert files.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_graph_can_be_read(name: str) -> None:
    assert problems(ui(name)) == []


def covered(graph: dict[str, Any]) -> list[tuple[int, int]]:
    """The nodes that lie where a training on top shows its curve and previews, each with the training's node."""
    rooms = {}
    for node in graph["nodes"]:
        if any(item["name"] == "previews" and item["link"] for item in node["inputs"]):
            left, _, right, bottom = box(node)
            rooms[node["id"]] = (left, bottom, right, bottom + ROOM_OF_PREVIEWS)
    return [
        (number, other["id"]) for number, room in rooms.items() for other in graph["nodes"] if overlap(box(other), room)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_training_with_previews_covers_no_node(name: str) -> None:
    assert covered(ui(name)) == []


def test_a_covered_node_is_found() -> None:
    graph = ui("train_with_previews")
    below = next(node for node in graph["nodes"] if node["type"] == "SaveImage")
    trainer = next(node for node in graph["nodes"] if node["type"] == "DEFTTrainAdapter")
    below["pos"] = [trainer["pos"][0], trainer["pos"][1] + trainer["size"][1] + 90]
    assert covered(graph) == [(trainer["id"], below["id"])]


def test_bad_arrangements_are_found() -> None:
    """The check above would find each kind of fault."""
    graph = ui("2 Use my adapter (demo)")
    nodes = {node["id"]: node for node in graph["nodes"]}
    nodes[2]["pos"] = nodes[1]["pos"]
    nodes[30]["pos"] = [5000, 5000]
    graph["groups"][1]["bounding"] = graph["groups"][2]["bounding"]
    inner = {node["id"]: node for node in subgraphs(graph)[0]["nodes"]}
    inner[41]["pos"] = inner[44]["pos"]
    text = " ".join(problems(graph))
    for words in (
        "nodes 1 and 2 lie",
        "node 30 is not inside",
        "run back",
        "nodes 41 and 44 lie on each other in Draw",
    ):
        assert words in text


@pytest.mark.parametrize("name", NAMES)
def test_note_says_what_it_shows(name: str) -> None:
    graph = ui(name)
    notes = [node for node in graph["nodes"] if node["type"] == "MarkdownNote"]
    assert len(notes) == 1
    (text,) = notes[0]["widgets_values"]
    title = graph["groups"][0]["title"]
    text, _, chinese = text.partition("\n\n---\n\n")
    assert "结果" in chinese
    assert re.search("自己的|运行之前|检查点", chinese)
    assert not re.search(r"[{}]", text + chinese)
    assert text.startswith(f"# {title}\n")
    assert "What you will see" in text
    assert re.search("your own|Before you run it|models/checkpoints", text)
    named = set(re.findall(r"(?<!\*)\*([a-z]+(?:_[a-z0-9]+)+)\*(?!\*)", text + chinese))
    assert {word for word in named if word not in NAMES} == set()
    for number in notes[0]["pos"]:  # it is what one sees first
        assert 0 <= number < 100


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
    for nodes in [graph["nodes"], *(one["nodes"] for one in subgraphs(graph))]:
        shown = [node["title"] for node in nodes]
        assert len(set(shown)) == len(shown)


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_say_the_same(name: str) -> None:
    assert files.differences(ui(name), api(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_large_enough_to_be_read(name: str) -> None:
    graph = ui(name)
    boxes = [box(node) for node in graph["nodes"]]
    assert len(boxes) <= (11 if name in SMALL else MOST_NODES)
    assert max(right for _, _, right, _ in boxes) - min(left for left, *_ in boxes) <= WIDEST
    assert max(bottom for *_, bottom in boxes) - min(top for _, top, *_ in boxes) <= HIGHEST


@pytest.mark.parametrize("name", NAMES)
def test_subgraphs_run_alike_in_all_front_ends(name: str) -> None:
    """Front end 1.45 runs the values inside, later ones those on top; one node each; none is a DynamicCombo."""
    graph = ui(name)
    assert "proxyWidgets" not in json.dumps(graph)
    kinds = [node["type"] for node in graph["nodes"]]
    for inner in subgraphs(graph):
        assert kinds.count(inner["id"]) == 1
        top = graph["nodes"][kinds.index(inner["id"])]
        nodes = {node["id"]: node for node in inner["nodes"]}
        assert [item["name"] for item in top["inputs"]] == [item["name"] for item in inner["inputs"]]
        assert len({item["name"] for item in top["inputs"]}) == len(top["inputs"])
        assert [item["name"] for item in top["outputs"]] == [item["name"] for item in inner["outputs"]]
        inside: dict[int, list[Any]] = {}
        for link in inner["links"]:
            if link["origin_id"] == INPUT:
                socket = nodes[link["target_id"]]["inputs"][link["target_slot"]]
                value = widget_value(nodes[link["target_id"]], socket["name"]) if "widget" in socket else None
                inside.setdefault(link["origin_slot"], []).append((socket, value))
        assert set(inside) == set(range(len(top["inputs"])))
        shown = iter(top["widgets_values"])
        for slot, item in enumerate(top["inputs"]):
            value = next(shown) if "widget" in item else None
            assert "widget" in item or item["link"] is not None, (top["title"], item["name"])
            for socket, own in inside[slot]:
                assert "widget" in item or "widget" not in socket
                assert own == value or item["link"] is not None, (top["title"], item["name"])
                assert not socket["type"].startswith("COMFY_"), item["name"]
        assert list(shown) == []


@pytest.mark.parametrize("name", NAMES)
def test_nodes_have_all_their_sockets(name: str) -> None:
    """Sockets that came later, too, which the page would add."""
    graph = ui(name)
    for node in [*graph["nodes"], *(node for one in subgraphs(graph) for node in one["nodes"])]:
        words = INTERFACE.get(node["type"], {"inputs": {}})["inputs"]
        sockets = {key for key, kind in words.items() if "[" not in key and "widget" not in kind and kind[0].isupper()}
        assert {key for key in sockets if "COMFY_" not in words[key]} <= {item["name"] for item in node["inputs"]}


@pytest.mark.parametrize("name", NAMES)
def test_where_each_model_file_comes_from(name: str) -> None:
    """The page offers the download of what stands under `models` at the node; the demo's files come with the pack."""
    graph = ui(name)
    inside = [node for one in subgraphs(graph) for node in one["nodes"]]
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


def test_differences_of_the_forms_are_noticed() -> None:
    graph, prompt = ui("2 Use my adapter (demo)"), api("2 Use my adapter (demo)")
    nodes = {node["id"]: node for node in graph["nodes"]}
    nodes[1]["type"] = "CheckpointLoaderSimple"
    nodes[2]["title"] = "Another"
    nodes[3]["mode"] = 4
    del prompt["70"]
    prompt["44"]["inputs"]["steps"] = 12345
    prompt["30"]["inputs"]["model"] = ["2", 0]
    differences = files.differences(graph, prompt)
    assert sorted(differences) == [
        "node 1 is CheckpointLoaderSimple and UNETLoader",
        "node 2 has two titles",
        "node 3 is muted or bypassed",
        "node 30 has other links",
        "node 44 lacks 12345",
        "node 70 is in one form only",
    ]


def test_a_socket_that_came_later_is_noticed() -> None:
    """Sockets on top and in a subgraph count; so `make generated` has the page write these graphs again."""
    graph, prompt = ui("score_everything"), api("score_everything")
    assert files.differences(graph, prompt) == []
    nodes = [*graph["nodes"], *(node for one in subgraphs(graph) for node in one["nodes"])]
    scoring = [node for node in nodes if node["type"] == "DEFTScoreImages"]
    assert scoring
    for node in scoring:  # renamed, since links inside a subgraph go by the place
        next(item for item in node["inputs"] if item["name"] == "masks")["name"] = "other"
    lacking = {f"node {node['id']} lacks the socket masks" for node in scoring}
    assert set(files.differences(graph, prompt)) == lacking


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
    prefixes = [inputs[key] for inputs in nodes for key in keys if inputs.get(key)]
    # The readings of a table have trainings and scores in common, in the folder of the first.
    own = (f"{name}/", f"{layout.sources()[name][0]}/")
    assert [value for value in prefixes if not value.startswith(own)] == []
    assert len(set(prefixes)) == len(prefixes)


@pytest.mark.parametrize("name", NAMES)
def test_thumbnail(name: str) -> None:
    path = WORKFLOWS / f"{name}.jpg"
    assert path.stat().st_size <= 60_000
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == ("JPEG", (512, 512))
        some = picture.convert("RGB").resize((64, 64), Image.Resampling.NEAREST)
        assert len(some.getcolors(64 * 64)) > 50


def test_every_example_is_in_the_docs() -> None:
    text = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"`{name}`" not in text or f"examples/{name}.jpg" not in text] == []


def test_layout_refuses_what_does_not_fit() -> None:
    given = layout.read("load_and_apply")
    graph = ui("load_and_apply")
    graph["nodes"] = [node for node in graph["nodes"] if node["type"] != "MarkdownNote"]
    twice = {**given, "groups": [*given["groups"], {"title": "Again", "role": "result", "lines": [[72]]}]}
    with pytest.raises(ValueError, match="node 72 stands twice"):
        layout.Arrangement(graph, twice)
    without = {**given, "groups": given["groups"][:-1]}
    graph["nodes"] = [node for node in graph["nodes"] if node["type"] != "MarkdownNote"]
    with pytest.raises(ValueError, match=r"nodes \[72, 920\] are in no group"):
        layout.Arrangement(graph, without)


@pytest.mark.parametrize("name", NAMES)
def test_a_line_is_a_node(name: str) -> None:
    """A difference of two versions then says which nodes have changed."""
    written, graph = (WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"), ui(name)
    assert written.count("\n") == len(api(name)) + 2
    lines = (WORKFLOWS / f"{name}.json").read_text(encoding="utf-8").splitlines()
    alone = [json.loads(line.strip().rstrip(",")) for line in lines if line.startswith(("  {", "  ["))]
    assert alone == [*graph["nodes"], *graph["links"], *graph["groups"]]
