"""The ready plans and the workflows that they vary: made by their script, true to the tables, run with a small model.

Plans are applied here by a few lines of their own, so that these tests say what the plans mean.
"""

from __future__ import annotations

import csv
import functools
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from deft_pack.sweeps.ready.peft_benchmark import prepare
from deft_pack.workflow_sources import plans

from .. import peft_files
from .conftest import BASE, ROOT
from .test_tables import of_kind, prompt_of, small

FOLDER = ROOT / "sweeps" / "plans"
PLANS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
WORKFLOWS = ("sweep_demo", "sweep_flux2_klein", "sweep_sd15", "sweep_sdxl")
DATA = ROOT.parent / "shared" / "data" / "dreambooth"
PASSED_ON = {"Apply": "model", "Replace": "string"}  # what goes through a bypassed node
# What a choice of method has where the plan says nothing.
DEFAULTS: dict[str, dict[str, Any]] = {
    "deft": {"method.rank": 4, "method.alpha": 0.0, "method.projector": "qr", "method.start": "identity"},
    "para": {"method.rank": 4, "method.rank_cap": 0.0},
    "lora": {"method.rank": 4, "method.alpha": 0.0},
    "dora": {"method.rank": 4, "method.alpha": 0.0},
    "lokr": {"method.rank": 4, "method.alpha": 0.0, "method.factor": -1},
    "oft": {"method.block_size": 32, "method.constraint": 0.0},
}

SWITCHES = ("mute", "bypass", "without")  # what is no input among the things that a value sets
Prompt = dict[str, dict[str, Any]]


def plan_of(name: str) -> dict[str, Any]:
    """A plan as YAML has it."""
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def workflow_of(plan: Mapping[str, Any]) -> Prompt:
    """The workflow that a plan names."""
    return json.loads((FOLDER / plan["workflow"]).read_text())


def csv_rows(name: str) -> list[dict[str, str]]:
    if name == peft_files.PROMPTS:
        return peft_rows()
    with open(FOLDER / name, newline="") as file:
        return list(csv.DictReader(file))


@functools.cache
def peft_rows() -> list[dict[str, str]]:
    """The list that `python -m sweeps peft` makes, of the demo's photos."""
    with tempfile.TemporaryDirectory() as folder:
        photos, parameters = peft_files.peft_files(Path(folder))
        prepare(photos, parameters, Path(folder) / "input", Path(folder) / "made.csv")
        with open(Path(folder) / "made.csv", newline="") as file:
            return list(csv.DictReader(file))


def titled(prompt: Prompt) -> dict[str, str]:
    """Ids by title."""
    return {node["_meta"]["title"]: node_id for node_id, node in prompt.items()}


def values_of(axis: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What each value of an axis sets, by its label. Seeds: the first only."""
    if "csv" in axis:
        values = {}
        for row in csv_rows(axis["csv"]):
            sets: dict[str, Any] = {}
            for column, targets in axis["into"].items():
                sets |= dict.fromkeys([targets] if isinstance(targets, str) else targets, row[column])
            if all(row[column] in allowed for column, allowed in axis.get("only", {}).items()):
                assert row[axis["label"]] not in values  # a label names one value
                values[row[axis["label"]]] = sets
        return values
    if isinstance(axis.get("values"), dict):
        return axis["values"]
    targets = [axis["into"]] if isinstance(axis["into"], str) else axis["into"]
    return {str(value): dict.fromkeys(targets, value) for value in axis.get("values", [axis.get("first")])}


def targets_of(plan: Mapping[str, Any]) -> set[str]:
    """All inputs that a plan sets."""
    sets = [plan["set"], *(one for axis in plan["axes"].values() for one in values_of(axis).values())]
    return {name for one in sets for name in one if name not in SWITCHES and not name.startswith("%")}


def cell(name: str, **labels: str) -> Prompt:
    """The workflow of one cell of a plan: the named values of its axes, and the first of the others."""
    plan = plan_of(name)
    prompt, ids = workflow_of(plan), titled(workflow_of(plan))
    sets = dict(plan["set"])
    for axis_name, axis in plan["axes"].items():
        values = values_of(axis)
        sets |= values[labels.get(axis_name, next(iter(values)))]
    words = {name: str(value) for name, value in sets.items() if name.startswith("%")}
    train = prompt[ids["Train"]]["inputs"]
    if sets.get("Train.method", train["method"]) != train["method"]:
        kept = {key: train.pop(key) for key in list(train) if key.startswith("method.")}
        own = DEFAULTS.get(sets["Train.method"], {})
        train |= {key: kept.get(key, value) for key, value in own.items()}
    for target, value in sets.items():
        title, _, key = target.partition(".")
        if target not in words and target not in SWITCHES:
            prompt[ids[title]]["inputs"][key] = value
    for title in sets.get("bypass", []):
        through = prompt.pop(ids[title])["inputs"][PASSED_ON[title]]
        for node in prompt.values():
            node["inputs"] |= {
                key: through
                for key, value in node["inputs"].items()
                if isinstance(value, list) and value[0] == ids[title]
            }
    for title in sets.get("mute", []):
        del prompt[ids[title]]
    for node in prompt.values():
        for key, value in list(node["inputs"].items()):
            if isinstance(value, list) and value[0] not in prompt:
                del node["inputs"][key]
            while isinstance(value, str) and any(word in value for word in words):
                value = node["inputs"][key] = re.sub("%[a-z]+%", lambda match: words[match[0]], value)
    return prompt


# ---------------------------------------------------------------------------------------------------------- the files


def test_the_csv_files_are_those_of_dreambooth() -> None:
    """DreamBooth's own list has classes and prompts; which subjects are alive is told by their classes."""
    if not DATA.is_dir():
        pytest.skip(f"DreamBooth's data is not in {DATA}")
    text = (DATA / "prompts_and_classes.txt").read_text()
    classes = dict(line.split(",") for line in text.split("Prompts")[0].splitlines() if "," in line)
    assert classes.pop("subject_name") == "class"
    rows = csv_rows("dreambooth_subjects.csv")
    assert {row["name"]: row["class"] for row in rows} == classes
    assert len(rows) == 30
    assert {row["name"] for row in rows} == {path.name for path in DATA.iterdir() if path.is_dir()}
    assert {row["class"] for row in rows if row["kind"] == "live"} == {"cat", "dog"}
    assert {row["kind"] for row in rows if row["class"] not in ("cat", "dog")} == {"object"}
    assert all(row["folder"] == f"dreambooth/{row['name']}" for row in rows)
    prompts = csv_rows("dreambooth_prompts.csv")
    objects, live = (re.findall(r"'(.*?)'\.format", part) for part in text.split("prompt_list")[1:])
    for kind, lines in (("object", objects), ("live", live)):
        assert [row["prompt"] for row in prompts if row["kind"] == kind] == [
            line.format("%token%", "%class%") for line in lines
        ]
    assert len(prompts) == 50


@pytest.mark.parametrize("name", WORKFLOWS)
def test_titles_are_unique_and_no_node_is_on_another(name: str) -> None:
    prompt = prompt_of(name)
    assert len(titled(prompt)) == len(prompt)
    assert not any(set(title) & set(".%") for title in titled(prompt))
    assert "%" not in json.dumps(prompt)  # it runs as it is
    graph = json.loads((ROOT / "example_workflows" / f"{name}.json").read_text())
    boxes = [
        (*node["pos"], node["pos"][0] + node["size"][0], node["pos"][1] + node["size"][1]) for node in graph["nodes"]
    ]
    for place, (left, top, right, bottom) in enumerate(boxes):
        assert not [
            other
            for other in boxes[:place]
            if left < other[2] and other[0] < right and top < other[3] and other[1] < bottom
        ]


@pytest.mark.parametrize("name", PLANS)
def test_plans_name_nodes_and_inputs_that_are_there(comfyui: Any, name: str) -> None:
    plan = plan_of(name)
    prompt = workflow_of(plan)
    ids = titled(prompt)
    for target in targets_of(plan):
        title, _, key = target.partition(".")
        if not key.startswith("method."):  # those of a dynamic choice: the runs below
            assert key in prompt[ids[title]]["inputs"], target
    for axis in plan["axes"].values():
        for value in values_of(axis).values():
            assert {*value.get("mute", []), *value.get("bypass", [])} <= set(ids)
    assert set(plan["outputs"]["only"]) | {plan["report"]["picture"]} <= set(ids)
    named = [axis for key, axes in plan["report"].items() if key not in ("picture", "published") for axis in axes]
    assert named
    assert set(named) <= set(plan["axes"])
    assert plan["name"] == name


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("table1", "deft_table1"),
        ("table1_one_prompt", "deft_table1_one_prompt"),
        ("table2", "deft_table2"),
        ("dreambooth", "deft_table1"),
    ],
)
def test_cells_are_the_lines_of_the_tables(name: str, table: str) -> None:
    """Every training, sampling and scoring of the example of the table, with the same values."""
    made, whole = plans.TABLES[table], prompt_of(table)
    methods = values_of(plan_of(name)["axes"]["method"])
    assert list(methods) == [row.label for row in made.methods]
    for number, subject in enumerate(made.subjects, 1):
        kind = next((row["kind"] for row in csv_rows("dreambooth_subjects.csv") if row["name"] == subject.name), None)
        for line, row in enumerate(made.methods, 1):
            here = cell(name, method=row.label, subject=subject.name)
            node = whole[str(1000 * number + 10 * line)]["inputs"]
            ours = here[titled(here)["Train token" if row.inversion else "Train"]]["inputs"]
            settings = here[ours.pop("settings")[0]]["inputs"] | {"run_name": ""}
            assert settings == whole[node["settings"][0]]["inputs"] | {"run_name": ""}
            fixed = {key: value for key, value in node.items() if not isinstance(value, list)} | (
                {"token": f"deft-{name}-{subject.name}"} if row.inversion else {}
            )
            assert {key: value for key, value in ours.items() if not isinstance(value, list)} == fixed
            assert ("prior_latents" in ours, "prior_positive" in ours) == (row.prior, row.prior)
            ids = titled(here)
            assert here[ids["Photos"]]["inputs"]["folder"] == subject.folder
            assert here[ids["Caption"]]["inputs"]["text"] == whole[str(1000 * number + 3)]["inputs"]["text"]
            first = whole[str(1000 * number + 4)]["inputs"]["prompts"].splitlines()
            if kind != "live":
                assert here[ids["Prompt"]]["inputs"]["value"] == first[0]
            for place, title in ((3, "Sample"), (5, "Score")):
                theirs = whole[str(1000 * number + 10 * line + place)]["inputs"]
                own = here[ids[title]]["inputs"]
                assert {key: value for key, value in own.items() if not isinstance(value, list)} == {
                    key: value for key, value in theirs.items() if not isinstance(value, list)
                }
            assert here[ids["Scorer"]]["inputs"]["protocol"] == (
                "dreambooth" if name == "dreambooth" else made.protocol
            )
    if name.startswith("table1"):
        assert here[ids["Size"]]["inputs"]["batch_size"] == made.batch


def test_prompts_of_table_2_are_those_of_its_example() -> None:
    prompts = values_of(plan_of("table2")["axes"]["prompt"])
    assert [line.replace("%class%", "stork") for line in prompts] == of_kind(prompt_of("deft_table2"), "DEFTPrompts")[
        1
    ]["prompts"].splitlines()


def test_the_demo_plan_sets_each_method_and_the_base_once() -> None:
    base, deft = cell("demo", method="Base"), cell("demo", method="DEFT", rank="2")
    assert not of_kind(base, "DEFTTrainAdapter", "DEFTApplyAdapter")
    assert of_kind(base, "DEFTScoreImages")[0]["label"] == "Base"
    assert "adapter" not in of_kind(base, "DEFTScoreImages")[0]
    assert of_kind(deft, "DEFTTrainAdapter")[0]["method.rank"] == 2
    assert of_kind(deft, "DEFTScoreImages")[0]["label"] == "DEFT r2"
    plan = plan_of("demo")
    assert plan["axes"]["method"]["values"]["Base"]["without"] == ["rank"]
    # The demo's text encoder has learnt colours of backgrounds; a prompt of other words would mean nothing to it.
    vocabulary = (ROOT / "demo" / "recipe" / "vocabulary.py").read_text()
    assert all(
        f'"{re.findall("on an? (.*) background", line)[0]}"' in vocabulary for line in plan["axes"]["prompt"]["values"]
    )


# ------------------------------------------------------------------------------------------------------------ running


@pytest.fixture
def photos() -> Iterator[None]:
    """The folders that the workflows name, with the demo's pictures."""
    teddy = sorted((ROOT / "demo" / "subjects" / "teddy_bear").glob("*.png"))
    for folder, count in (
        ("dreambooth/bear_plushie", 2),
        ("dreambooth/dog8", 2),
        ("dreambench_plus/live_subject_animal_00_kitten", 1),
    ):
        (BASE / "input" / folder).mkdir(parents=True)
        for file in teddy[:count]:
            shutil.copy(file, BASE / "input" / folder)
    yield
    for name in ("input/dreambooth", "input/dreambench_plus", *(f"output/{name}" for name in (*WORKFLOWS, *PLANS))):
        shutil.rmtree(BASE / name, ignore_errors=True)
    for pattern in ("sweep-sd15-*", "deft-table1-*"):
        for file in (BASE / "models" / "embeddings").glob(pattern):
            file.unlink()


def run_cell(comfyui: Any, prompt: Prompt) -> list[dict[str, Any]]:
    """Run a line with the small model; the scores and costs that Save Scores has written."""
    prompt = small(prompt)
    ids = titled({key: node for key, node in prompt.items() if "_meta" in node})
    run = comfyui.run(prompt)
    (file,) = run.files(ids["Save scores"])
    assert len(run.ui[ids["Save picture"]]["images"]) == prompt[ids["Size"]]["inputs"]["batch_size"]
    lines = (BASE / "output" / file).read_text().splitlines()
    return [record for record in map(json.loads, lines) if "remark" not in record]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["sweep_sd15", "sweep_sdxl"])
def test_the_workflows_run_as_they_are(comfyui: Any, photos: None, name: str) -> None:
    records = run_cell(comfyui, prompt_of(name))
    label = {"sweep_sd15": "SVDiff", "sweep_sdxl": "DEFT r4"}[name]
    assert {record["label"] for record in records} == {label}
    assert [record["metric"] for record in records if "metric" in record] == ["CLIP-I", "CLIP-T", "DINO"]
    assert "training_seconds" in records[-1]
    learnt = list((BASE / "models" / "embeddings").glob("*.safetensors"))
    assert [path.name for path in learnt] == (["sweep-sd15-dog8.safetensors"] if name == "sweep_sd15" else [])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["table1", "table2"])
def test_every_row_of_a_plan_runs(comfyui: Any, photos: None, name: str) -> None:
    """Each row gives other pictures, so each is of its own method."""
    table, seen = plans.TABLES[f"deft_{name}"], {}
    subject, count = {"table1": ("bear_plushie", 2), "table2": ("kitten", 1)}[name]
    for row in table.methods:
        records = run_cell(comfyui, cell(name, method=row.label, subject=subject))
        scores = [record for record in records if "metric" in record]
        assert {(record["label"], record["subject"], record["images"]) for record in scores} == {
            (row.label, subject, count)
        }
        assert scores[0]["provenance"]["seeds"] == [42]
        texts = {text for record in scores if record["metric"] == "CLIP-T" for text in record["texts"]}
        assert texts == {
            "a stuffed animal in the jungle" if name == "table1" else "a photo of a kitten in a meadow at sunrise"
        }
        if " r" in row.label:
            assert {f"{record['method']} r{record['rank']}" for record in scores} == {row.label.lower()}
        seen[row.label] = tuple(scores[-1]["values"])
    assert len(set(seen.values())) == len(table.methods)
    learnt = [path.name for path in (BASE / "models" / "embeddings").glob("*.safetensors")]
    assert learnt == (["deft-table1-bear_plushie.safetensors"] if name == "table1" else [])


@pytest.mark.timeout(600)
def test_the_demo_plan_runs(comfyui: Any) -> None:
    """Whole cells but short trainings."""
    seen = set()
    for labels in (
        {"method": "Base"},
        *({"method": kind, "rank": rank} for kind in ("DEFT", "PaRa", "LoRA") for rank in ("2", "4")),
    ):
        prompt = cell("demo", **labels)
        for inputs in of_kind(prompt, "DEFTTrainAdapter"):
            inputs["steps"] = 2
        run = comfyui.run(prompt)
        (file,) = run.files(titled(prompt)["Save scores"])
        records = [json.loads(line) for line in (BASE / "output" / file).read_text().splitlines()]
        assert records[0]["label"] == f"{labels['method']} r{labels['rank']}" if "rank" in labels else "Base"
        assert records[0]["rank"] == (int(labels["rank"]) if "rank" in labels else None)
        seen.add(tuple(record["value"] for record in records if "metric" in record))
    assert len(seen) == 7
    shutil.rmtree(BASE / "output" / "sweep_demo")
