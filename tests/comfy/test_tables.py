"""The examples of the DEFT paper's two tables: made by their script, true to the presets, run with the demo's model."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from deft_pack.workflow_sources import plans, prompt, tables
from deft_pack.workflow_sources.examples.deft_table2.source import NINE

from .conftest import BASE, ROOT

NAMES = ("deft_table1", "deft_table1_one_prompt", "deft_table2", "deft_table2_repository")
REPOSITORY_PROMPTS = ("a photo of a teddy bear in a meadow. It is noon.", "a teddy bear in a space suit")


def prompt_of(name: str) -> dict[str, Any]:
    """The committed workflow."""
    return json.loads((ROOT / "example_workflows" / "api" / f"{name}.json").read_text())


def of_kind(prompt: dict[str, Any], *kinds: str) -> list[dict[str, Any]]:
    """The inputs of all nodes of some kinds, in order."""
    return [node["inputs"] for node in prompt.values() if node["class_type"] in kinds]


@pytest.mark.parametrize("name", NAMES)
def test_the_front_ends_form_has_no_node_on_another(name: str) -> None:
    graph = json.loads((ROOT / "example_workflows" / f"{name}.json").read_text())
    boxes = [
        (*node["pos"], node["pos"][0] + node["size"][0], node["pos"][1] + node["size"][1]) for node in graph["nodes"]
    ]
    groups = [(x, y, x + width, y + height) for x, y, width, height in (one["bounding"] for one in graph["groups"])]
    for place, (left, top, right, bottom) in enumerate(boxes):
        assert not [
            other
            for other in boxes[:place]
            if left < other[2] and other[0] < right and top < other[3] and other[1] < bottom
        ]
        assert len([g for g in groups if g[0] <= left and g[1] <= top and right <= g[2] and bottom <= g[3]]) == 1
    note = next(node for node in graph["nodes"] if node["type"] == "MarkdownNote")["widgets_values"][0]
    prompt = prompt_of(name)
    assert all(inputs["folder"] in note for inputs in of_kind(prompt, "LoadImageDataSetFromFolder"))
    assert of_kind(prompt, "CheckpointLoaderSimple")[0]["ckpt_name"] in note


@pytest.mark.parametrize("name", NAMES)
def test_nodes_show_what_their_preset_sets(comfyui: Any, name: str) -> None:
    """A preset overrides the widgets; here they say the same, so that nobody reads one number and gets another."""
    training, settings = comfyui.module("nodes.training"), comfyui.module("nodes.training_settings")
    prompt, seen = prompt_of(name), set()
    for node in of_kind(prompt, "DEFTTrainAdapter", "DEFTTrainTextualInversion"):
        given = prompt[node["settings"][0]]["inputs"]
        (connected,) = settings.DEFTTrainingSettings.execute(**given).result
        if "method" in node:
            chosen = {"method": node["method"]} | {
                key.partition(".")[2]: value for key, value in node.items() if key.startswith("method.")
            }
            own = training.chosen_method(chosen)
        else:
            own = {"method": "textual_inversion", "rank": 1}
        names = (
            "steps",
            "learning_rate",
            "batch_size",
            "layers",
            "pattern",
            "seed",
            "precision",
            "gradient_checkpointing",
        )
        own |= {key: node[key] for key in names if key in node}
        with_preset, _, _ = settings.gathered(connected, **own)
        without, _, _ = settings.gathered({**connected, "preset": "none"}, **own)
        assert with_preset == without
        seen.add(given["preset"])
    nine = {"none", "SVDiff (SD 1.5)", "DreamBooth (SD 1.5)", "Textual Inversion (SD 1.5)"}
    assert (
        seen
        == {
            "deft_table1": nine,
            "deft_table1_one_prompt": nine,
            "deft_table2": {"DEFT r4 (SDXL)", "LoRA r4 (SDXL)"},
            "deft_table2_repository": {"DEFT r8 (SDXL)", "LoRA r4 (SDXL)"},
        }[name]
    )


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_the_nodes_own(comfyui: Any, name: str) -> None:
    """What the script writes for Training Settings is what the node starts with, but for what the table wants. Widgets
    that came later are optional, and are left out."""
    settings = comfyui.module("nodes.training_settings")
    inputs = settings.DEFTTrainingSettings.define_schema().inputs
    defaults = {item.id: item.default for item in inputs if not item.optional}
    assert set(prompt.SETTINGS) == set(defaults)
    changed = {key for key, value in prompt.SETTINGS.items() if value != defaults[key]} - {"preset"}
    assert changed == {"run_name", "checkpoint_every", "keep"}


def test_the_prompts_are_those_of_dreambooth() -> None:
    objects, live = tables.PROMPTS["object"], tables.PROMPTS["live"]
    assert len(set(objects)) == len(set(live)) == 25
    assert len(set(objects) & set(live)) == 15
    assert len(set(NINE)) == 9
    nodes = of_kind(prompt_of("deft_table1"), "DEFTPrompts")
    first, second, third = (inputs["prompts"].splitlines() for inputs in nodes)
    assert first[0] == "a sks stuffed animal in the jungle"
    assert first[-1] == "a cube shaped sks stuffed animal"
    assert second[10] == "a sks cat wearing a red hat"
    assert third[24] == "a cube shaped sks dog"
    assert not any(
        "." in line
        for inputs in of_kind(prompt_of("deft_table2"), "DEFTPrompts")
        for line in inputs["prompts"].splitlines()
    )


def test_the_other_reading_of_table_1_differs_in_its_pictures_alone() -> None:
    first, other = prompt_of("deft_table1"), prompt_of("deft_table1_one_prompt")
    trainings = ("DEFTTrainAdapter", "DEFTTrainTextualInversion", "DEFTTrainingSettings", "DEFTSaveAdapter")
    assert of_kind(first, *trainings) == of_kind(other, *trainings)
    assert [inputs["prompts"] for inputs in of_kind(other, "DEFTPrompts")] == [
        "a photo of sks stuffed animal",
        "a photo of sks cat",
        "a photo of sks dog",
    ]
    (table,) = of_kind(other, "DEFTScoreTable")
    assert table["append_to"] == of_kind(first, "DEFTScoreTable")[0]["append_to"]  # one report of both
    labels = [{inputs["label"] for inputs in of_kind(prompt, "DEFTScoreImages")} for prompt in (first, other)]
    assert len(labels[0]) == len(labels[1]) == 9
    assert not labels[0] & labels[1]  # or a row would be the mean of both
    # As many pictures of a subject and method: 25 prompts x 4, and 100.
    assert other["3"]["inputs"]["batch_size"] == 25 * first["3"]["inputs"]["batch_size"] == 100


def test_table_2_as_in_the_authors_repository() -> None:
    prompt = prompt_of("deft_table2_repository")
    for deft, lora in zip(*[iter(of_kind(prompt, "DEFTTrainAdapter"))] * 2, strict=True):
        assert (deft["method"], deft["method.rank"], deft["method.projector"]) == ("deft", 8, "ppt")
        assert deft["method.start"] == "paper"
        assert (lora["method"], lora["method.rank"]) == ("lora", 4)
        assert prompt[lora["settings"][0]]["inputs"]["gaussian_start"]
        assert {(one["steps"], one["learning_rate"], one["batch_size"]) for one in (deft, lora)} == {(500, 5e-5, 1)}
    assert of_kind(prompt, "DEFTLoadScorer")[0]["protocol"] == "dreambench++-deft"
    files = [inputs["captions"] for inputs in of_kind(prompt, "DEFTLoadDreamBench")]
    assert files == [f"dreambench_plus/captions/live_subject/animal/0{number}.txt" for number in range(4)]
    # Kitten's nine pictures, then stork's, ...: each with the next noise of all.
    parts = [(inputs["batch_index"], inputs["length"]) for inputs in of_kind(prompt, "LatentFromBatch")]
    assert parts == [(0, 9), (9, 9), (18, 9), (27, 9)]
    assert prompt["3"]["inputs"]["batch_size"] == 36
    today, (table,) = prompt_of("deft_table2"), of_kind(prompt, "DEFTScoreTable")
    assert table["append_to"] == of_kind(today, "DEFTScoreTable")[0]["append_to"]  # one report of both
    labels = [{inputs["label"] for inputs in of_kind(one, "DEFTScoreImages")} for one in (today, prompt)]
    assert not labels[0] & labels[1]


def test_the_noise_is_drawn_one_after_the_other_by_one_generator(comfyui: Any) -> None:
    """The order is that of a loop over a diffusers pipeline that gets the same generator each time."""
    import comfy.sample
    from diffusers.utils.torch_utils import randn_tensor

    def compare(latents: list[dict[str, Any]], batch: int, generator: torch.Generator) -> None:
        for latent in latents:
            noise = comfy.sample.prepare_noise(latent["samples"], tables.SEED, latent["batch_index"])
            assert torch.equal(noise, randn_tensor((batch, 4, 8, 8), generator=generator))

    def part(place: int, ends: str) -> dict[str, Any]:
        """Three of the nine, singly."""
        inputs = {"samples": ["3", 0], "batch_index": place, "length": 3}
        return {
            f"8{ends}": {"class_type": "LatentFromBatch", "inputs": inputs},
            ends: {"class_type": "RebatchLatents", "inputs": {"latents": [f"8{ends}", 0], "batch_size": 1}},
        }

    run = comfyui.run(
        {
            "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 9}},
            "7": {"class_type": "RebatchLatents", "inputs": {"latents": ["3", 0], "batch_size": 3}},
            **part(0, "91"),
            **part(3, "92"),
            **part(6, "93"),
        },
        want=["7", "91", "92", "93"],
    )
    one_prompt, *subjects = (run.outputs[node][0] for node in ("7", "91", "92", "93"))
    assert [len(latents) for latents in (one_prompt, *subjects)] == [3, 3, 3, 3]
    compare(one_prompt, 3, torch.Generator().manual_seed(tables.SEED))
    through = torch.Generator().manual_seed(tables.SEED)
    for latents in subjects:
        compare(latents, 1, through)


# ------------------------------------------------------------------------------------------------------------ running


@pytest.fixture
def photos() -> Iterator[None]:
    """The folders of the examples in ComfyUI's input folder, with two of the demo's pictures, or one for table 2."""
    teddy = sorted((ROOT / "demo" / "subjects" / "teddy_bear").glob("*.png"))
    for name in NAMES:
        for inputs in of_kind(prompt_of(name), "LoadImageDataSetFromFolder"):
            folder = BASE / "input" / inputs["folder"]
            folder.mkdir(parents=True, exist_ok=True)
            for file in teddy[: 2 if "table1" in name else 1]:
                shutil.copy(file, folder)
    for inputs in of_kind(prompt_of("deft_table2_repository"), "DEFTLoadDreamBench"):
        captions = BASE / "input" / inputs["captions"]
        picture = Path(str(captions).replace("captions", "images")).with_suffix(".jpg")
        for path in (captions, picture):
            path.parent.mkdir(parents=True, exist_ok=True)
        captions.write_text("teddy bear\n" + "\n".join(REPOSITORY_PROMPTS))
        Image.open(teddy[0]).convert("RGB").save(picture)
    yield
    for folder in (
        "input/dreambooth",
        "input/dreambench_plus",
        *(f"{place}/{name}" for place in ("models/loras", "output") for name in NAMES),
    ):
        shutil.rmtree(BASE / folder, ignore_errors=True)
    for file in (BASE / "models" / "embeddings").glob("deft-table1-*"):
        file.unlink()


def small(prompt: dict[str, Any]) -> dict[str, Any]:
    """A workflow with the demo's model and scorers, small pictures and few steps, prompts and class pictures."""
    changed: dict[str, dict[str, Any]] = {
        "DEFTLoadScorer": {"protocol": "demo"},
        "ImageScale": {"width": 64, "height": 64},
        "EmptyLatentImage": {"width": 64, "height": 64},
        "RebatchLatents": {"batch_size": 1},
        "DEFTTrainingSettings": {"preset": "none", "checkpoint_every": 2},
        "DEFTTrainAdapter": {"steps": 2},
        "DEFTTrainTextualInversion": {"steps": 2},
        "KSampler": {"steps": 2},
        "ImageScaleBy": {"scale_by": 1.0},
    }
    for node in prompt.values():
        inputs = node["inputs"]
        inputs |= changed.get(node["class_type"], {})
        if node["class_type"] == "EmptyLatentImage":
            inputs["batch_size"] = 8 if "1008" in prompt else min(2, inputs["batch_size"])
        if node["class_type"] == "LatentFromBatch":
            inputs |= {"batch_index": inputs["batch_index"] // 9 * 2, "length": 2}
        if node["class_type"] == "DEFTPrompts" and isinstance(inputs["prompts"], str):
            inputs["prompts"] = "\n".join(inputs["prompts"].splitlines()[:2])
        for key, value in inputs.items():
            if value in (["1", 1], ["1", 2]):
                inputs[key] = ["clip" if value[1] == 1 else "vae", 0]
    prompt["1"] = {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "deft_demo_denoiser.safetensors", "weight_dtype": "default"},
    }
    prompt["clip"] = {"class_type": "DEFTDemoTextEncoder", "inputs": {}}
    prompt["vae"] = {"class_type": "VAELoader", "inputs": {"vae_name": "deft_demo_vae.safetensors"}}
    return prompt


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_the_examples_run(comfyui: Any, photos: None, name: str) -> None:
    table = plans.TABLES[name]
    end = str(1000 * (len(table.subjects) + 1))
    prompt = small(prompt_of(name))
    run = comfyui.run(prompt, want=[end])
    records = [json.loads(line) for line in run.output(end, 3).splitlines()]
    metrics = ("CLIP-I", "CLIP-T", "DINO")  # of the demo's protocol
    labels = [row.label + table.behind for row in table.methods]
    subjects = [subject.name for subject in table.subjects]
    expected = {(label, subject, metric) for label in labels for subject in subjects for metric in metrics}
    report = run.output(end, 5)
    assert "## Oddities of the published table" in report
    every = len(expected) // len(metrics)
    assert f"{every} of {every} published rows have a measured one." in report
    measured = [record for record in records if "metric" in record]
    scores = {(record["label"], record["subject"], record["metric"]): record for record in measured}
    assert scores.keys() == expected
    assert len(expected) == len(measured)
    for record in scores.values():
        assert math.isfinite(record["value"])
        assert record["images"] == (2 if table.noises else 2 * min(2, table.batch))
        assert record["provenance"]["seeds"] == [42]
        assert not any(table.token and table.token in text for text in record["texts"])
    costs = [(record["label"], record["subject"]) for record in records if "training_seconds" in record]
    assert set(costs) == {(label, subject) for label in labels for subject in subjects}
    # Rows are of their own methods: no two of a subject have the same values.
    for subject in subjects:
        of_subject = [tuple(scores[label, subject, "DINO"]["values"]) for label in labels]
        assert len(set(of_subject)) == len(of_subject)
    saved = [f"{subject.id}_{row.name}" for subject in table.subjects for row in table.methods if not row.inversion]
    loras = BASE / "models" / "loras" / table.trainings
    assert sorted(file.name for file in loras.iterdir()) == sorted(f"{one}_00001_.safetensors" for one in saved)
    written = {file.name for file in (BASE / "output" / name).iterdir() if file.is_file()}
    grids = {f"grid_{subject.id}_00001_.png" for subject in table.subjects}
    assert {*grids, *(f"scores_00001_.{suffix}" for suffix in ("png", "md", "csv", "jsonl"))} <= written
    # Trained once more after a restart: all runs with checkpoints are found.
    comfyui.reset()
    nodes = [key for key, node in prompt.items() if node["class_type"] == "DEFTTrainAdapter" and int(key) < 2000]
    kept = {key: node for key, node in prompt.items() if not key.isdigit() or int(key) < 2000}
    again = comfyui.run(
        {key: node for key, node in kept.items() if node["class_type"] not in ("SaveImage", "DEFTSaveAdapter")},
        want=nodes,
    )
    assert ["finished before, not trained again" in again.text(key) for key in nodes] == [
        row.settings.get("resume", True) for row in table.methods if not row.inversion
    ]
