"""The examples and nodes in ComfyUI's own front end, with both kinds of nodes: those of the canvas and Vue's."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from deft_pack.sweeps.training_nodes import TRAINERS

from ..everyday import CHOSEN, name_of
from ..search_words import OWN_TITLES, WORDS
from .conftest import TEMPLATE, Seen, done_by, result_of
from .example_files import COMPLETE, UI_FILES, WORKFLOWS, missing_files, own_id, with_own_ids

# One command of the page shows what many tests look at, so that the first test of each kind takes minutes.
pytestmark = pytest.mark.timeout(1800)

MODES = {"canvas": False, "vue": True}
STEPS = 6
SET = {
    **{trainer: {"steps": STEPS} for trainer in TRAINERS},
    "DEFTTrainingPreviews": {"every": 2, "steps": 2},
    "DEFTTrainingSettings": {"checkpoint_every": STEPS // 2},
    "DEFTCompareCheckpoints": {"prompts": "a sks teddy bear in the snow\na sks teddy bear", "steps": 2},
    "KSampler": {"steps": 2},
    "DEFTPrompts": {"prompts": "a sks teddy bear in the snow\na sks teddy bear"},
}
# Pictures for the documentation, of the canvas' nodes: of all examples, otherwise of these.
PICTURES = os.environ.get("DEFT_TEST_PICTURES")
PICTURED = ("compare_methods.json", "deft_table1.json", "train_with_previews.json")
OPENED = [(mode, path) for mode in MODES for path in UI_FILES]
READABLE = 8 / 14  # of the size at which a node's text is 14 pixels high: the page draws none below 8
# Run from the page: all kinds of nodes that the examples have. comfy-cli runs each example (test_server.py), and
# train_with_previews is run below. Each with one of the two, in turns; those in BOTH with both.
ELSEWHERE = (
    "compare_methods.json",
    "deft_against_lora.json",
    "scene_personalisation.json",
    "strength_ladder.json",
    "train_with_previews.json",
)
RUN_FILES = [path for path in UI_FILES if path in COMPLETE and path.name not in ELSEWHERE]
BOTH = ("train_with_everything.json", "load_and_apply.json", "choose_a_checkpoint.json")
RUNS = sorted(
    {(list(MODES)[number % 2], path) for number, path in enumerate(RUN_FILES)}
    | {(mode, path) for mode in MODES for path in RUN_FILES if path.name in BOTH}
)
SLOWEST = "train_with_everything.json"  # of the trainings with previews: some half a second for a step
CONTROL = "fixed"  # the front end's name of the widget behind a seed that is to stay
SEED = random.SystemRandom().randrange(1, 2**31)  # the server gives what it has where nothing has changed


def cases(pairs: list[tuple[str, Path]]) -> Any:
    """Parametrisation by kind of nodes and example."""
    return pytest.mark.parametrize("mode, path", pairs, ids=[f"{mode}-{path.stem}" for mode, path in pairs])


def named(path: Path, kind: str = "class_type") -> dict[str, str]:
    """The node classes of an example, by the nodes' ids."""
    return {key: node[kind] for key, node in json.loads((WORKFLOWS / "api" / path.name).read_text()).items()}


def missing_text(path: Path) -> str:
    """How the page begins to tell what is missing. It looks for model files only, and names a single one."""
    missing = sorted(name for name in missing_files(path) if name.endswith(".safetensors"))
    if len(missing) > 1:
        return f"{len(missing)} errors found"
    return f"{missing[0]} is missing" if missing else ""


def ids_of(request: pytest.FixtureRequest, *names: str) -> set[str]:
    """The cases of these tests that are run: one command of the page looks at all of them."""
    return {item.callspec.id for item in request.session.items if name_of(item) in names}


# What a node refuses, and what the page then has to show, by the kind of nodes.
REFUSED = {
    "vue": ("DEFTTrainAdapter", {"pattern": "no_such_layer"}, "matches 'all linear' and pattern 'no_such_layer'"),
    "canvas": ("DEFTSaveAdapter", {"filename_prefix": "../outside"}, "outside"),
}
FAILING = WORKFLOWS / "train_with_previews.json"
TITLE = "Base: draw, and score what was drawn with all of the scorers"  # too long for its node


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for pictures: DEFT_TEST_PICTURES (`make generated`: docs/examples), or one that is thrown away."""
    folder = Path(PICTURES or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An example with a node that is not installed, a model file that is not there, and a bad layout."""
    path = tmp_path_factory.mktemp("broken") / "broken.json"
    text = (WORKFLOWS / "compare_methods.json").read_text()
    text = text.replace("DEFTScoreTable", "NoSuchNode").replace("deft_demo_denoiser", "no_such_file")
    graph = json.loads(text)
    nodes = {node["id"]: node for node in graph["nodes"]}
    nodes[73]["pos"][0] += 2000
    nodes[910]["title"] = TITLE
    nodes[72]["pos"] = nodes[71]["pos"]
    path.write_text(json.dumps(graph))
    return path


@pytest.fixture(scope="module")
def in_page(
    server: Any, drive_browser: Any, pictures: Path, broken: Path, request: pytest.FixtureRequest
) -> Callable[[str, str], Any]:
    """What a page with one of the two kinds of nodes shows, of the tests that are run: the widgets of dynamic choices
    ("widgets"), each example that is opened and the broken one ("check") or run ("run") by its name, and what is told
    of a node that fails ("fail"). One page for all; pictures are taken of the canvas' nodes."""
    opened, ran = ids_of(request, "test_opens", "test_every_node_is_drawn"), ids_of(request, "test_runs_from_the_page")
    asked = {name_of(item) for item in request.session.items}
    widgets, failing = (
        ids_of(request, name) for name in ("test_widgets_appear_where_they_apply", "test_page_tells_what_failed")
    )

    @cache
    def look(mode: str) -> dict[str, Any]:
        vue = {"vue": MODES[mode]}
        opens = [path for kind, path in OPENED if kind == mode and f"{mode}-{path.stem}" in opened]
        missing_texts = {path.name: missing_text(path) for path in opens}
        if "test_browser_sees_what_is_missing" in asked:
            opens.append(broken)
            missing_texts[broken.name] = "2 errors found"
        runs = [path for kind, path in RUNS if kind == mode and f"{mode}-{path.stem}" in ran]
        jobs: dict[str, tuple[object, ...]] = {}
        if mode in widgets:
            jobs["widgets"] = ("widgets", json.dumps({**vue, **choices(server)}))
        if opens:
            options: dict[str, Any] = {**vue, "expected": missing_texts}
            if not MODES[mode]:
                options |= {"pictures": str(pictures), "pictured": [path.name for path in opens if pictured(path)]}
            jobs["check"] = ("check", json.dumps(options), *opens)
        if runs:
            jobs["run"] = ("run", json.dumps({**vue, "set": SET, "seed": SEED + MODES[mode]}), *runs)
        if mode in failing:
            kind, bad, _ = REFUSED[mode]
            options = {**vue, "type": kind, "bad": bad, "set": SET, "seed": SEED + 10 + MODES[mode]}
            jobs["fail"] = ("fail", json.dumps(options), FAILING)
        seen = done_by(drive_browser, jobs, timeout=300 + 25 * len(opens) + 40 * len(runs))
        for name, files in (("check", opens), ("run", runs)):
            if isinstance(seen.get(name), list):
                seen[name] = dict(zip((path.name for path in files), seen[name], strict=True))
        return seen

    return lambda mode, name: result_of(look(mode), name)


def pictured(path: Path) -> bool:
    """Whether a picture is taken of an example on the canvas."""
    return bool(PICTURES) or path.name in PICTURED


@cases(OPENED)
def test_opens(in_page: Seen, mode: str, path: Path) -> None:
    seen = in_page(mode, "check")[path.name]
    assert "failed" not in seen, seen
    assert [node for node in seen["nodes"] if not node["registered"]] == []
    assert seen["errors"] == []
    assert [text.splitlines()[0] for text in seen["complaints"]] == ([missing_text(path)] if missing_text(path) else [])
    # What the front end would send is what the API file says.
    api = with_own_ids(seen["api"])
    for node_id, node in json.loads((WORKFLOWS / "api" / path.name).read_text()).items():
        assert api[node_id]["class_type"] == node["class_type"]
        sent = {name: api[node_id]["inputs"].get(name) for name in node["inputs"]}
        assert sent == node["inputs"], node_id
    opening = seen["opening"]
    assert opening["readable"]
    assert opening["scale"] >= READABLE
    assert opening["cut"] == []
    assert [pair for pair in combinations(opening["boxes"], 2) if on_each_other(*pair)] == []
    if not MODES[mode] and pictured(path):
        assert 10_000 < Path(seen["picture"]).stat().st_size < 200_000


@cases([("vue", path) for path in UI_FILES])
def test_every_node_is_drawn(in_page: Seen, mode: str, path: Path) -> None:
    """Each node is an element of the page with Vue, on no other, and red only where its model file is missing."""
    seen = in_page(mode, "check")[path.name]
    assert set(seen["elements"]) == {node["id"] for node in seen["nodes"]}
    assert widened(path, seen) == []
    files: dict[str, list[Any]] = {}  # by the node on top
    for key, node in seen["api"].items():
        files.setdefault(key.partition(":")[0], []).extend(node["inputs"].values())
    for node_id, element in seen["elements"].items():
        assert min(element["box"][2:]) > 0, (node_id, element)
        assert element["title"], (node_id, element)
        assert not element["broken"], (node_id, element)
        models = {name for name in missing_files(path) if name.endswith(".safetensors")}
        assert element["error"] == any(value in models for value in files.get(node_id, ()) if isinstance(value, str))
    boxes = {node_id: element["box"] for node_id, element in seen["elements"].items()}
    assert [pair for pair in combinations(boxes, 2) if on_each_other(*(boxes[node_id] for node_id in pair))] == []


def widened(path: Path, seen: dict[str, Any]) -> list[str]:
    """The nodes that Vue makes wider than they are in the file, for their titles."""
    widths = {str(node["id"]): node["size"][0] for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]}
    return [node_id for node_id, element in seen["elements"].items() if element["box"][2] > widths[node_id] + 4]


def on_each_other(one: list[float], other: list[float]) -> bool:
    """Whether two boxes [x, y, width, height] cover each other by more than a border's width."""
    return all(
        min(one[axis] + one[axis + 2], other[axis] + other[axis + 2]) - max(one[axis], other[axis]) > 4
        for axis in (0, 1)
    )


@pytest.mark.parametrize("mode", MODES)
def test_browser_sees_what_is_missing(in_page: Seen, broken: Path, mode: str) -> None:
    """The checks above would find a node that is not installed, a model file that is not there, a graph that is too
    large, a title that is cut, and nodes on each other."""
    seen = in_page(mode, "check")[broken.name]
    assert {node["type"] for node in seen["nodes"] if not node["registered"]} == {"NoSuchNode"}
    assert "2 errors found" in " ".join(seen["complaints"])
    opening = seen["opening"]
    assert opening["scale"] < READABLE
    assert not opening["readable"]
    assert TITLE in opening["cut"]
    assert [pair for pair in combinations(opening["boxes"], 2) if on_each_other(*pair)]
    if MODES[mode]:
        assert widened(broken, seen) == ["910"]
        (inside,) = {key for key, node in seen["api"].items() if node.get("class_type") == "UNETLoader"}
        red = {node_id for node_id, element in seen["elements"].items() if element["error"]}
        assert inside.partition(":")[0] in red


def test_template_browser(in_language: Seen) -> None:
    """The browser lists the pack's examples with their thumbnails, and a click opens one."""
    path = WORKFLOWS / f"{TEMPLATE}.json"
    seen = in_language("en", "templates")
    assert sorted(card["name"] for card in seen["listed"]) == [path.stem for path in UI_FILES]
    for card in seen["listed"]:
        # The page keeps a thumbnail that it has loaded as a blob, and shows its own picture where there is none.
        assert card["src"].startswith("blob:"), card
        assert card["width"] == 512, card
    assert {own_id(key): node["class_type"] for key, node in seen["api"].items()} == named(path)
    # ComfyUI's own templates are a package of their own, which a server for tests does not have.
    assert [
        text
        for text in seen["errors"]
        if "/templates/" not in text and "getCoreWorkflowTemplates" not in text and "getFuseOptions" not in text
    ] == []
    assert seen["complaints"] == []


def test_every_kind_of_node_is_run_from_the_page() -> None:
    def kinds(paths: list[Path]) -> set[str]:
        return {kind for path in paths for kind in named(path).values()}

    assert kinds(RUN_FILES) == kinds([path for path in UI_FILES if path in COMPLETE])


def test_every_example_is_run_every_day() -> None:
    """Each is run from the page or by comfy-cli."""
    by_cli = {name.rpartition("/")[2] for name in CHOSEN["server/test_server.py::test_comfy_cli_runs"]}
    assert by_cli | {path.name for path in RUN_FILES} == {path.name for path in COMPLETE}


@cases(RUNS)
def test_runs_from_the_page(in_page: Seen, mode: str, path: Path) -> None:
    """Progress, previews, texts and pictures are seen in the page, and nothing is complained about."""
    seen = in_page(mode, "run")[path.name]
    assert "failed" not in seen, seen
    assert seen["end"]["kind"] == "execution_success"
    assert seen["errors"] == []
    assert seen["complaints"] == []
    during, types = seen["seen"], named(path)
    for node_id, kind in types.items():
        if kind == "DEFTCompareCheckpoints":
            assert_compared(seen["shown"][node_id], seen["outputs"][node_id]["text"])
    assert during["running"], during
    assert during["title"], during
    trainers = {node_id for node_id, kind in types.items() if kind in TRAINERS}
    if "DEFTTrainingPreviews" in types.values():
        # A training of seconds; others are over before the page has drawn a bar or a text.
        assert any(0 < width <= 100 for width in during["overlay"])
        training = max(trainers, key=lambda node_id: len(during["previews"].get(node_id, ())))
        assert any(0 < value < 1 for value in during["progress"][training])
        assert any(f"step {STEPS}/{STEPS}" in text for text in during["texts"][training])
        # A busy page draws not each of the three, where they follow each other in tenths of a second.
        assert len(during["previews"][training]) >= (2 if path.name == SLOWEST else 1)
        if "DEFTCompareCheckpoints" in types.values():  # previews are scored, too: what the dashed lines are
            assert re.search(r"DINO \d\.\d{3}\s+CLIP-T \d\.\d{3}", seen["shown"][training]["text"])
        if MODES[mode]:
            assert any(0 < width < 100 for width in during["bars"][training])
    shown_pictures = 0
    for node_id, output in seen["outputs"].items():
        if ":" in node_id:
            continue  # inside a node on top
        shown = seen["shown"][node_id]
        if output.get("images"):
            assert len(shown["pictures"]) == len(output["images"]), (node_id, shown)
            assert all(shown["pictures"])
            shown_pictures += 1
        elif output.get("text"):
            assert_texts_shown(shown["text"], output["text"], types[node_id])
    assert shown_pictures or not any("Image" in kind or "Grid" in kind for kind in types.values())


def assert_compared(shown: dict[str, Any], texts: list[str]) -> None:
    """The checkpoints' grid and the recommended one are shown at the node."""
    (width,) = shown["pictures"]
    assert width > 4 * 64  # two prompts, two seeds
    (text,) = texts
    assert re.match(rf"Recommended: step ({STEPS // 2}|{STEPS})\. ", text)
    place = r"output/choose_a_checkpoint/training_\w+/adapter_\d+\.safetensors"
    assert re.search(rf"^The file: {place}, strength 1\.$", text, re.MULTILINE)
    assert_texts_shown(shown["text"], texts, "DEFTCompareCheckpoints")


def assert_texts_shown(shown: str, texts: list[str], kind: str) -> None:
    """A text at the node: the trainers keep their last step, all others what they have made."""
    if kind not in TRAINERS:
        assert "".join("".join(texts).split()) in "".join(shown.split()), (kind, shown)


def dynamic_combos(server: Any) -> list[dict[str, Any]]:
    """All dynamic choices of the pack's nodes, with the widgets that the server names for each."""
    combos = []
    for name, node in server.get("/object_info").items():
        if node["python_module"] != f"custom_nodes.{server.pack_name}":
            continue
        for inputs in node["input"].values():
            for key, (kind, *rest) in inputs.items():
                if kind == "COMFY_DYNAMICCOMBO_V3":
                    options = {
                        option["key"]: {**option["inputs"].get("required", {}), **option["inputs"].get("optional", {})}
                        for option in rest[0]["options"]
                    }
                    combos.append({"type": name, "name": key, "own": options, "node": node["input"]})
    return combos


def widgets_behind(node: dict[str, Any], name: str) -> dict[str, bool]:
    """Names of a node's ordinary widgets, and whether each is an advanced one."""
    widgets = {}
    for inputs in node.values():
        for key, (kind, *rest) in inputs.items():
            settings = rest[0] if rest else {}
            widget = isinstance(kind, list) or kind in ("INT", "FLOAT", "BOOLEAN", "STRING", "COMBO")
            if widget and key != name and not settings.get("forceInput"):
                widgets[key] = bool(settings.get("advanced"))
    return widgets


def test_no_choice_has_a_single_widget(server: Any) -> None:
    """Front ends lose a value of a node where an option has as many widgets as the node has sockets of force_input:
    they take the saved values for those of before these were sockets."""
    for combo in dynamic_combos(server):
        inputs = [rest[0] for part in combo["node"].values() for _, *rest in part.values() if rest]
        sockets = sum(bool(more.get("forceInput")) for more in inputs)
        lost = [option for option, own in combo["own"].items() if own and len(own) in (1, sockets)]
        assert lost == [], (combo["type"], sockets)


def choices(server: Any) -> dict[str, Any]:
    """The dynamic choices, with values for the widgets of their nodes, and what is ready by the answer of the route."""
    combos = dynamic_combos(server)
    assert {(combo["type"], combo["name"]) for combo in combos} >= {
        ("DEFTTrainAdapter", "method"),
        ("DEFTLoadScorer", "protocol"),
    }
    values = {
        "DEFTTrainAdapter": {"steps": 123, "layers": "all linear", "seed": 77},
        "DEFTLoadScorer": {"download": True},
    }
    jobs = [{**combo, "options": list(combo["own"]), "values": values[combo["type"]]} for combo in combos]
    last = list(next(combo["own"] for combo in combos if combo["name"] == "protocol"))[-1]
    return {"combos": jobs, "answer": [last]}


@pytest.mark.parametrize("mode", MODES)
def test_widgets_appear_where_they_apply(server: Any, in_page: Seen, mode: str) -> None:
    """Each choice shows its own widgets and no other's; the node's keep their values, saved and opened too."""
    jobs, (last,) = choices(server).values()
    seen = in_page(mode, "widgets")
    assert seen["errors"] == []
    # Without an answer the page warns once; it asks again for the next node.
    (warning,) = seen["failing"]["warnings"]
    assert "/deft/v1/protocols" in warning
    assert [text for text in seen["failing"]["listed"] if "(" in text] == [f"{last} (ready)"]
    ready = server.get("/deft/v1/protocols")["ready"]
    for combo, chosen in zip(jobs, seen["offered"], strict=True):
        assert [choice["option"] for choice in chosen] == [*combo["options"], combo["options"][0]]
        behind = widgets_behind(combo["node"], combo["name"])
        for choice in chosen:
            own = combo["own"][choice["option"]]
            advanced = {name: bool(rest[0].get("advanced")) if rest else False for name, (_, *rest) in own.items()}
            if MODES[mode]:
                everything = {combo["name"]: False, **advanced, **behind}
                assert sorted(choice["shown"]["all"]) == sorted(everything)
                assert set(choice["shown"]["first"]) == {key for key, hidden in everything.items() if not hidden}
            else:
                added = {CONTROL} if "seed" in behind else set()
                named_own = {f"{combo['name']}.{key}" for key in own}
                assert set(choice["shown"]) == {combo["name"], *named_own, *behind, *added}
            assert set(choice["listed"]) == {f"{name} (ready)" if name in ready else name for name in combo["own"]}
            assert combo["values"].items() <= choice["values"].items()
            if "seed" in behind:  # run again, it is the same training, which goes on or is found
                assert choice["values"][CONTROL] == "fixed"
            assert choice["opened"] == choice["values"]
            assert choice["shownAgain"] == choice["shown"]


@pytest.mark.parametrize("mode", REFUSED)
def test_page_tells_what_failed(in_page: Seen, mode: str) -> None:
    """Our sentence is in the page, the node is marked, and the next run works and takes both away."""
    kind, _, sentence = REFUSED[mode]
    seen = in_page(mode, "fail")
    failed, again = seen["failed"], seen["again"]
    assert failed["end"]["kind"] == "execution_error"
    assert named(FAILING)[failed["marked"][0]] == kind
    assert len(failed["marked"]) == 1
    assert sentence in failed["panel"]
    assert len(failed["complaints"]) == 1
    assert "failed" in failed["complaints"][0]
    assert again["end"]["kind"] == "execution_success"
    assert again["complaints"] == []
    assert again["marked"] == []
    # The panel looks nodes up in the registry, which a server for tests has no way to.
    assert [text for text in seen["errors"] if "https://api.comfy.org/" not in text] == []


@pytest.mark.parametrize("language", OWN_TITLES)
def test_search_finds_what_people_type(server: Any, in_language: Seen, language: str) -> None:
    """The right node is first or second of all nodes, or of those that are not ComfyUI's own where its titles win."""
    seen = in_language(language, "search")
    assert seen["errors"] == []
    own = {
        name
        for name, node in server.get("/object_info").items()
        if node["python_module"] == f"custom_nodes.{server.pack_name}"
    }
    missed = {}
    for (query, right), hits in zip(WORDS.items(), seen["hits"], strict=True):
        considered = [name for name in hits if name in own or query not in OWN_TITLES[language]]
        if not set(right) & set(considered[:2]):
            missed[query] = hits
    assert missed == {}
