"""Plans against the nodes of a real server: keys, dynamic combos, cutting, and what is refused before anything runs."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
import urllib.error
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from deft_pack.sweeps.cells import Compiler
from deft_pack.sweeps.files import Files, LocalFiles, ServerFiles
from deft_pack.sweeps.plan import read_plan
from deft_pack.sweeps.planned import Cells
from deft_pack.sweeps.schema import growing, inputs_of
from deft_pack.sweeps.workflow import read_workflow

from .example_files import with_own_ids
from .sweep_tools import ROOT, TRIVIAL, trained, write_plan


@pytest.fixture(scope="module")
def info(server: Any) -> dict[str, Any]:
    """The server's /object_info."""
    node_info: dict[str, Any] = server.get("/object_info")
    return node_info


def compile_(
    folder: Path, workflow: dict[str, Any], text: str, info: dict[str, Any], files: Files | None = None
) -> tuple[Compiler, Cells]:
    plan = read_plan(write_plan(folder, workflow, text))
    compiler = Compiler(plan, read_workflow(plan.workflow, info), info, files or Files())
    return compiler, compiler.cells()


COLORS = "axes: {color: {into: Paint.color, values: [1, 2, 3]}}\n"


def test_a_key_is_what_is_run(tmp_path: Path, info: dict[str, Any]) -> None:
    """Ids, titles and the order of nodes are nothing; every value that reaches an output is something."""
    _, first = compile_(tmp_path / "a", TRIVIAL, COLORS, info)
    renamed = {
        "x": copy.deepcopy(TRIVIAL["2"]),
        "y": {**TRIVIAL["1"], "_meta": {"title": "Paint"}},
        "unused": {"class_type": "EmptyImage", "inputs": {}, "_meta": {"title": "not connected"}},
    }
    renamed["x"]["inputs"]["images"] = ["y", 0]
    _, second = compile_(tmp_path / "b", renamed, COLORS, info)
    keys = [cell.key for cell in first.pictures]
    assert [cell.key for cell in second.pictures] == keys
    assert len(set(keys)) == 3
    wider = copy.deepcopy(TRIVIAL)
    wider["1"]["inputs"]["width"] = 33
    _, third = compile_(tmp_path / "c", wider, COLORS, info)
    assert not {cell.key for cell in third.pictures} & set(keys)
    # The same cell by another plan: the value is fixed here.
    _, fixed = compile_(tmp_path / "d", TRIVIAL, "set: {Paint.color: 2}\n", info)
    assert [cell.key for cell in fixed.pictures] == keys[1:2]


def test_incremental_keys_are_those_of_single_cells(tmp_path: Path, info: dict[str, Any]) -> None:
    """Only nodes behind an axis that moved are hashed again: each cell has to come out as if it stood alone."""
    text = """
axes:
  seed: {into: Sample.seed, seeds: 2}
  method: {values: {Base: {mute: Train, bypass: Apply}, DEFT: {Train.method: deft}, PaRa: {Train.method: para}}}
  prompt: {into: [Prompt.text, Score.text], values: [a cat, "a %thing%"]}
  thing: [dog, teapot]
  rank: {into: Train.method.rank, values: [2, 4]}
"""
    compiler, cells = compile_(tmp_path, trained(), text, info)
    assert len(cells.pictures) == 2 * 3 * 2 * 2 * 2
    assert len(cells.trainings) == 4
    for cell in cells.pictures:
        alone = Compiler(compiler.plan, compiler.prompt, info, Files())
        fresh = alone.compiled(cell.choice)
        key, models, trainings = fresh.keys(cell.choice, 0, {axis: axis for axis in range(5)})
        needs = tuple(each.key for node, each in trainings.items() if node in fresh.used)
        assert (key, models, needs) == (cell.key, cell.models, cell.needs)
    # "a cat" does not change with the thing, and the base model has no rank: equal cells have equal keys.
    labels = {json.dumps(compiler.labels(cell.choice)): cell.key for cell in cells.pictures}
    assert len(labels) == len(cells.pictures)
    assert len(set(labels.values())) == 2 * 3 * (1 + 2 * 2)


def test_slow_axes_come_first(tmp_path: Path, info: dict[str, Any]) -> None:
    text = """
axes:
  seed: {into: Sample.seed, seeds: 2}
  prompt: {into: Prompt.text, values: [a cat, a dog]}
  rank: {into: Train.method.rank, values: [2, 4]}
  model: {into: Model.weight_dtype, values: [default, fp8_e4m3fn]}
  method: {values: {Base: {mute: Train, bypass: Apply}, DEFT: {}}}
"""
    compiler, cells = compile_(tmp_path, trained(), text, info)
    assert [compiler.plan.axes[index].name for index in compiler.axis_order()] == [
        "model",
        "method",
        "rank",
        "prompt",
        "seed",
    ]
    groups = [(cell.models, cell.needs) for cell in cells.pictures]
    assert len(set(groups)) == 2 * (1 + 2)
    assert sum(one != other for one, other in zip(groups, groups[1:])) == len(set(groups)) - 1  # no coming back


def test_training_is_cut_out(tmp_path: Path, info: dict[str, Any]) -> None:
    compiler, cells = compile_(tmp_path, trained(), "axes: {seed: {into: Sample.seed, seeds: 2}}\n", info)
    (training,), (picture, other) = cells.trainings.values(), cells.pictures
    assert picture.needs == other.needs == (training.key,)
    prompt = compiler.prompt_of(training)
    kinds = sorted(node["class_type"] for node in prompt.values())
    assert {"DEFTTrainAdapter", "DEFTSaveAdapter", "PreviewImage"} <= set(kinds)
    assert not {"KSampler", "SaveImage", "DEFTApplyAdapter"} & set(kinds)
    prompt = compiler.prompt_of(picture)
    kinds = [node["class_type"] for node in prompt.values()]
    assert "DEFTTrainAdapter" not in kinds
    assert "PreviewImage" not in kinds
    assert kinds.count("DEFTLoadAdapterFile") == 1
    loader = next(node for node in prompt.values() if node["class_type"] == "DEFTLoadAdapterFile")
    assert loader["inputs"]["file"] == f"deft_sweeps/{training.key}.safetensors"
    assert compiler.labels_of(training) == {}
    assert compiler.labels_of(picture) == {"seed": "0"}


def test_training_stays_where_more_of_it_is_needed(tmp_path: Path, info: dict[str, Any]) -> None:
    """A score whose label comes from the trainer's report and whose picture from its adapter: both in one cell."""
    workflow = trained()
    ids = {node["_meta"]["title"]: node_id for node_id, node in workflow.items()}
    workflow[ids["Score"]]["inputs"]["label"] = [ids["Train"], 2]
    _, cells = compile_(tmp_path, workflow, "", info)
    assert cells.trainings == {}
    assert "Train trains in every cell that needs it: Save scores" in cells.remarks[0]


def test_a_trainer_on_top_of_another(tmp_path: Path, info: dict[str, Any]) -> None:
    workflow = trained()
    ids = {node["_meta"]["title"]: node_id for node_id, node in workflow.items()}
    second = copy.deepcopy(workflow[ids["Train"]])
    second["_meta"]["title"] = "Train more"
    second["inputs"]["model"] = [ids["Apply"], 0]
    second["inputs"]["seed"] = 99
    again = copy.deepcopy(workflow[ids["Apply"]])
    again["_meta"]["title"] = "Apply more"
    again["inputs"] |= {"model": [ids["Apply"], 0], "adapter": ["t2", 0]}
    workflow |= {"t2": second, "a2": again}
    workflow[ids["Sample"]]["inputs"]["model"] = ["a2", 0]
    compiler, cells = compile_(tmp_path, workflow, "", info)
    first, more = cells.trainings.values()
    assert more.needs == (first.key,)
    assert set(cells.pictures[0].needs) == {first.key, more.key}
    prompt = compiler.prompt_of(more)
    assert [node["_meta"]["title"] for node in prompt.values() if node["class_type"] == "DEFTTrainAdapter"] == [
        "Train more"
    ]


def test_another_option_of_a_dynamic_combo(tmp_path: Path, info: dict[str, Any]) -> None:
    """What the old option has alone goes, what the new one needs comes with its default, the common stays."""
    text = "axes: {method: {into: Train.method, values: [deft, para, svdiff]}}\nset: {Train.method.rank: 7}\n"
    compiler, cells = compile_(tmp_path, trained(), text, info)
    inputs = [
        next(
            node["inputs"] for node in compiler.whole(cell.choice).values() if node["class_type"] == "DEFTTrainAdapter"
        )
        for cell in cells.pictures
    ]
    below = [{name: value for name, value in each.items() if name.startswith("method.")} for each in inputs]
    assert set(below[0]) == {"method.rank", "method.alpha", "method.projector", "method.start"}
    assert below[1] == {"method.rank": 7, "method.rank_cap": 0.0}
    options = info["DEFTTrainAdapter"]["input"]["required"]["method"][1]["options"]
    settings = next(option for option in options if option["key"] == "svdiff")["inputs"]["required"]
    assert below[2] == {f"method.{name}": spec[1]["default"] for name, spec in settings.items()}


def test_rows_match_and_rules_exclude(tmp_path: Path, info: dict[str, Any]) -> None:
    (tmp_path / "s.csv").write_text("name,kind\ncat,live\nvase,object\ndog,live\n")
    (tmp_path / "p.csv").write_text("prompt,kind\na running %name%,live\na broken %name%,object\na red %name%,object\n")
    text = """
axes:
  subject: {csv: s.csv, into: {name: "%name%"}}
  prompt: {csv: p.csv, into: {prompt: [Prompt.text, Score.text]}, match: kind}
  seed: {into: Sample.seed, seeds: [7, 8]}
exclude:
  - {subject: dog, seed: 8}
  - {prompt: "a red %name%"}
"""
    compiler, cells = compile_(tmp_path, trained(), text, info)
    texts = [
        next(
            node["inputs"]["text"]
            for node in compiler.whole(cell.choice).values()
            if node.get("_meta", {}).get("title") == "Prompt"
        )
        for cell in cells.pictures
    ]
    assert sorted(texts) == sorted(["a running cat"] * 2 + ["a broken vase"] * 2 + ["a running dog"])


def test_files_are_told_apart_by_content(tmp_path: Path, info: dict[str, Any]) -> None:
    """A picture by all of its content, a model by its size and header; both under the name that the workflow has."""
    (tmp_path / "input").mkdir()
    (tmp_path / "models").mkdir()
    picture, model = tmp_path / "input" / "cat.png", tmp_path / "models" / "base.safetensors"
    workflow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
        "2": {"class_type": "UNETLoader", "inputs": {"unet_name": "base.safetensors", "weight_dtype": "default"}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        "4": {"class_type": "ModelSave", "inputs": {"model": ["2", 0], "filename_prefix": "x"}},
    }

    def key() -> str:
        files = LocalFiles([tmp_path / "models"], {"input": tmp_path / "input"})
        return compile_(tmp_path, workflow, "", info, files)[1].pictures[0].key

    import numpy

    picture.write_bytes(b"one")
    save_file({"w": numpy.zeros(4, dtype="float32")}, model, {"name": "a"})
    first = key()
    picture.write_bytes(b"two")
    assert key() != first
    picture.write_bytes(b"one")
    assert key() == first
    save_file({"w": numpy.zeros(4, dtype="float32")}, model, {"name": "b"})
    assert key() != first


def test_files_of_a_server_elsewhere(server: Any) -> None:
    """Pictures of its input folder by their content, models by size and metadata, over HTTP alone."""

    def get(path: str, query: Any) -> bytes | None:
        try:
            body: bytes = server.get_bytes(f"{path}?{urllib.parse.urlencode(query)}")
            return body
        except urllib.error.HTTPError:
            return None

    picture = server.base / "input" / "elsewhere" / "cat.png"
    picture.parent.mkdir(parents=True)
    digests = []
    for content in (b"one", b"two"):
        picture.write_bytes(content)
        digests.append(ServerFiles(get).digest("elsewhere/cat.png", combo=True))
    assert digests == [hashlib.sha256(content).hexdigest() for content in (b"one", b"two")]
    files = ServerFiles(get)
    model = files.digest("deft_demo_denoiser.safetensors", combo=True)
    assert len(model) == 64
    assert model != files.digest("deft_demo_vae.safetensors", combo=True)
    assert files.digest("euler", combo=True) == files.digest("none.png", combo=True) == ""


def test_local_files_are_named_by_their_content(tmp_path: Path, info: dict[str, Any]) -> None:
    for name, text in (("a", b"one"), ("b", b"two")):
        (tmp_path / f"{name}.png").write_bytes(text)
    workflow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}, "_meta": {"title": "Load"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    compiler, cells = compile_(tmp_path, workflow, "axes: {photo: {into: Load.image, files: '*.png'}}\n", info)
    names = [compiler.whole(cell.choice)["1"]["inputs"]["image"] for cell in cells.pictures]
    assert names[0] != names[1]
    assert all(name.startswith("deft_sweeps/") for name in names)
    assert compiler.uploads(cells.pictures[0].choice) == {names[0]: tmp_path / "a.png"}


def test_ui_form_and_api_form_are_the_same_cells(tmp_path: Path, info: dict[str, Any]) -> None:
    for name in ("sweep_demo", "compare_methods", "train_with_everything"):
        path = ROOT / "example_workflows" / f"{name}.json"
        _, by_ui = compile_(tmp_path, json.loads(path.read_text()), "", info)
        from_ui, api = (read_workflow(each, info) for each in (path, path.parent / "api" / path.name))
        from_ui = with_own_ids(from_ui)
        for node_id, node in api.items():
            assert from_ui[node_id]["class_type"] == node["class_type"]
            for key, value in node["inputs"].items():
                assert from_ui[node_id]["inputs"][key] == value, (name, node_id, key)
            # Optional widgets, which the file leaves out.
            node["inputs"] = {**from_ui[node_id]["inputs"], **node["inputs"]}
        _, by_api = compile_(tmp_path, api, "", info)
        assert [cell.key for cell in by_api.pictures] == [cell.key for cell in by_ui.pictures]
        assert list(by_api.trainings) == list(by_ui.trainings)


@pytest.mark.parametrize(
    ("name", "trainings", "tokens", "pictures"),
    [("demo", 6, 0, 56), ("table1", 24, 3, 675), ("table2", 8, 0, 72), ("dreambooth", 240, 30, 27000)],
)
def test_ready_plans_are_what_they_say(server: Any, name: str, trainings: int, tokens: int, pictures: int) -> None:
    """The photos are in folders where the plans want them; their checkpoints are not looked for before a run."""
    with open(ROOT / "sweeps" / "plans" / "dreambooth_subjects.csv", newline="") as file:
        subjects = [row["folder"] for row in csv.DictReader(file)]
    subjects += [
        f"dreambench_plus/live_subject_animal_{animal}" for animal in ("00_kitten", "01_stork", "02_kitten", "03_horse")
    ]
    for folder in subjects:
        (server.base / "input" / folder).mkdir(parents=True, exist_ok=True)
    plan = read_plan(ROOT / "sweeps" / "plans" / f"{name}.yaml")
    info = server.get("/object_info")
    compiler = Compiler(plan, read_workflow(plan.workflow, info), info, Files(), embeddings=True)
    cells = compiler.cells()
    made = [compiler.is_embedding(training) for training in cells.trainings.values()]
    assert (made.count(False), made.count(True)) == (trainings, tokens)
    assert len(cells.pictures) == len({cell.key for cell in cells.pictures}) == pictures
    for cell in [*cells.pictures[:: max(1, pictures // 50)], *cells.trainings.values()]:
        prompt = compiler.prompt_of(cell)
        assert not [
            value
            for node in prompt.values()
            for value in node["inputs"].values()
            if isinstance(value, str) and "%" in value
        ], "a placeholder was left"
        for node in prompt.values():  # nothing that ComfyUI would refuse as missing
            inputs = inputs_of(info[node["class_type"]], node["inputs"])
            assert [
                item.name
                for item in inputs.values()
                if item.required and item.name not in node["inputs"] and not growing(item)
            ] == [], node


REFUSED = {
    "axes: {a: {into: Pant.color, values: [1]}}\n": "'Pant.color' names no node of the workflow; near: Paint",
    "axes: {a: {into: Paint.colour, values: [1]}}\n": "(EmptyImage) has no input 'colour'; near: color",
    "axes: {a: {into: 9.color, values: [1]}}\n": "'9.color' names no node",
    "axes: {a: {into: '%thing%', values: [1]}}\n": "the placeholder %thing% stands in no text of the workflow",
    "axes: {a: {into: Paint.width, values: [64, 99999]}}\n": "Paint (1): `width` is 99999, but the maximum is 16384",
    "axes: {a: {into: Paint.width, values: [0]}}\n": "`width` is 0, but the minimum is 1",
    "axes: {a: {into: Paint.width, values: [wide]}}\n": "`width` takes a whole number, not 'wide'",
    "axes: {a: {into: Paint.width, values: [1.5]}}\n": "`width` takes a whole number, not 1.5",
    "axes: {a: {into: Save picture.images, values: [1]}}\n": "a socket of type IMAGE takes a connection only",
    "axes: {a: {values: {x: {mute: Nothing}}}}\n": "the workflow has no node 'Nothing'",
    "axes: {a: {values: {x: {mute: Save picture}}}}\n": "no output node left to run",
    "outputs: {only: [Paint]}\n": "`outputs` names 'Paint', a node (EmptyImage) that is no output node; "
    "there are: Save picture",
    "outputs: {numbers: {n: {node: Paint}}}\n": "`outputs` names 'Paint'",
    "axes: {a: {into: Paint.color, values: [1]}}\nexclude: [{a: 1}]\n": "the plan has no cells",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: REFUSED[text][:40])
def test_what_cannot_run_is_said_before_anything_runs(tmp_path: Path, info: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as caught:
        compile_(tmp_path, TRIVIAL, text, info)
    assert REFUSED[text] in str(caught.value)


def test_a_choice_that_is_none(tmp_path: Path, info: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Sample \(\d+\): `sampler_name` is 'eular', which is not a choice; near"):
        compile_(tmp_path, trained(), "axes: {s: {into: Sample.sampler_name, values: [euler, eular]}}\n", info)
    with pytest.raises(ValueError, match="`method` is 'loraa', which is not a choice; near: lora"):
        compile_(tmp_path, trained(), "axes: {m: {into: Train.method, values: [loraa]}}\n", info)


def test_two_nodes_of_one_title(tmp_path: Path, info: dict[str, Any]) -> None:
    workflow = copy.deepcopy(TRIVIAL) | {"3": copy.deepcopy(TRIVIAL["1"])}
    with pytest.raises(ValueError, match=r"2 nodes are called 'Paint': write an id instead \(1, 3\)"):
        compile_(tmp_path, workflow, COLORS, info)
    compile_(tmp_path, workflow, COLORS.replace("Paint", "1"), info)


def test_workflows_that_cannot_be_read(tmp_path: Path, info: dict[str, Any]) -> None:
    def error_of(workflow: Any) -> str:
        path = tmp_path / "w.json"
        path.write_text(workflow if isinstance(workflow, str) else json.dumps(workflow))
        with pytest.raises(ValueError) as caught:
            read_workflow(path, info)
        assert str(path) in str(caught.value) or "circle" in str(caught.value)
        return str(caught.value)

    assert "cannot be read" in error_of("{")
    assert "is not a ComfyUI workflow" in error_of({"a": 1})
    assert "is not a ComfyUI workflow" in error_of([])
    unknown = {"1": {"class_type": "NoSuchNode", "inputs": {}}}
    assert "needs nodes that this ComfyUI does not have: NoSuchNode" in error_of(unknown)
    lost = copy.deepcopy(TRIVIAL)
    lost["2"]["inputs"]["images"] = ["7", 0]
    assert "takes `images` from the node 7, which is not in the workflow" in error_of(lost)
    circle = {
        "1": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    }
    assert "run in a circle" in error_of(circle)
    ui = json.loads((ROOT / "example_workflows" / "sweep_demo.json").read_text())
    foreign = copy.deepcopy(ui)
    foreign["nodes"][0]["type"] = "NoSuchNode"
    assert "does not have: NoSuchNode" in error_of(foreign)
    del ui["links"]
    assert "cannot be converted to the API form" in error_of(ui)
    for node in foreign["nodes"]:
        node["mode"] = 2
    assert "has no node that runs" in error_of(foreign)
    with pytest.raises(ValueError, match=r"none\.json does not exist"):
        read_workflow(tmp_path / "none.json", info)
