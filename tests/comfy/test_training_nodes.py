"""Training Settings, Training Previews and Train Adapter's other inputs through ComfyUI's executor, on the demo "
"model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from . import models
from .pack import Pack
from .test_adapter_nodes import Prompt, applied, latent, node, sampling, settings, training_prompt


def previews(**changed: Any) -> dict[str, Any]:
    """Training Previews of two steps, every second training step."""
    inputs: dict[str, Any] = {
        "vae": ["vae", 0],
        "positive": ["prompt", 0],
        "negative": ["prompt", 0],
        "latent": ["empty", 0],
        "every": 2,
        "steps": 2,
        "cfg": 3.0,
        "sampler": "euler",
        "scheduler": "simple",
        "seed": 3,
    }
    return node("DEFTTrainingPreviews", **(inputs | changed))


def without_settings(prompt: Prompt) -> Prompt:
    """Train Adapter alone."""
    del prompt["train"]["inputs"]["settings"], prompt["settings"]
    return prompt


def test_the_settings_start_where_train_adapter_is_without_them(comfyui: Any, pack: Pack) -> None:
    alone = comfyui.run(without_settings(training_prompt(seed=31)), want=["train"]).output("train")
    with_node = comfyui.run(training_prompt(seed=31), want=["train"]).output("train")
    assert all(torch.equal(alone[key], with_node[key]) for key in alone)
    spec = pack.settings.Settings("deft", 4, 1, 1e-4)
    widgets = comfyui.run({"settings": settings()}, want=["settings"]).output("settings")["settings"]
    record = spec.record()
    assert {name: record[name] for name in widgets} == widgets


def test_settings_reach_the_trainer(comfyui: Any, pack: Pack) -> None:
    prompt = training_prompt(steps=4)
    changed = {
        "schedule": "linear",
        "warm_up": 1,
        "ema": 0.9,
        "ranks": "qkv = 2",
        "exclude": "proj$",
        "p_rate": 0.1,
        "optimizer": "Adafactor",
        "weighting": "sigma_sqrt",
        "loss": "huber",
        "timesteps": "mode",
    }
    prompt["settings"] = settings(**changed)
    adapter = comfyui.run(prompt, want=["train"]).output("train")
    training = json.loads(adapter.metadata["training"])
    assert {name: training[name] for name in changed} == changed
    layers = pack.adapters.layers(adapter)
    assert layers
    assert all(name.endswith("qkv") and group["deft_Q"].shape[1] == 2 for name, group in layers.items())


def test_a_queue_that_is_run_again_goes_on(comfyui: Any) -> None:
    """The queue is run after a stop: the same workflow with the defaults, and then with more steps."""
    prompt = without_settings(training_prompt(seed=32))
    first = comfyui.run(prompt, want=["train"]).output("train")
    comfyui.reset()
    longer = comfyui.run(without_settings(training_prompt(seed=32, steps=5)), want=["train"])
    assert "resumed at step 3" in longer.text("train")
    assert len(longer.output("train", 1)["loss"]) == 5
    straight = comfyui.run(training_prompt(seed=32, steps=5), want=["train"]).output("train")
    assert all(torch.equal(longer.output("train")[key], straight[key]) for key in straight)
    runs = sorted((comfyui.base / "output" / "training").glob("adapter_*"))
    assert any((run / "checkpoint_00000005.pt").exists() and (run / "log.jsonl").exists() for run in runs)
    assert first.keys() == straight.keys()


def test_previews_are_shown_and_come_out_as_a_sheet(comfyui: Any) -> None:
    import comfy.utils

    prompt = training_prompt(steps=4, previews=["previews", 0]) | sampling(["train model", 0], "final")
    prompt |= {
        "previews": previews(),
        "train model": applied(["train", 0]),
        "decode": node("VAEDecode", samples=["final", 0], vae=["vae", 0]),
        "sheet": node("PreviewImage", images=["train", 4]),
        "loss": node("PreviewImage", images=["train", 3]),
    }
    hook, live = comfy.utils.PROGRESS_BAR_HOOK, []

    def watch(value: float, total: float, preview: Any, node_id: str | None = None) -> None:
        if total == 4:
            live.append(preview)
        hook(value, total, preview, node_id=node_id)

    comfy.utils.set_progress_bar_global_hook(watch)
    try:
        run = comfyui.run(prompt, want=["train", "decode"])
    finally:
        comfy.utils.set_progress_bar_global_hook(hook)
    sheet, plot = run.output("train", 4), run.output("train", 3)
    assert sheet.shape[0] == plot.shape[0] == 1
    assert sheet.shape[-1] == plot.shape[-1] == 3
    assert run.ui["sheet"]["images"]
    assert run.ui["loss"]["images"]
    live = [preview for preview in live if preview is not None]  # ComfyUI leaves out other reports that come too fast
    assert [(kind, picture.size) for kind, picture, _ in live] == 2 * [("JPEG", (64, 64))]
    # Steps 0, 2 and 4. The last picture is what a sampler makes with the adapter: enlarged threefold.
    picture = run.output("decode")[0]
    size = picture.shape[0] * 3
    assert sheet.shape[2] == 10 + 3 * (size + 10)
    cell = sheet[0, -size - 10 : -10, -size - 10 : -10][1::3, 1::3]
    assert (cell - picture.clamp(0, 1)).abs().mean() < 0.02


def test_without_previews_nothing_comes_out_of_the_sheet(comfyui: Any) -> None:
    prompt = training_prompt() | {
        "sheet": node("PreviewImage", images=["train", 4]),
        "loss": node("PreviewImage", images=["train", 3]),
    }
    run = comfyui.run(prompt, want=["train"])
    assert "sheet" not in run.ui
    assert run.ui["loss"]["images"]


def test_prior_pictures_masks_and_the_text_encoder(comfyui: Any) -> None:
    prompt = training_prompt(
        steps=6,
        latents=["masked", 0],
        prior_latents=["prior", 0],
        prior_positive=["kind", 0],
        empty_caption=["nothing", 0],
        clip=["clip", 0],
        captions=["subject", 1],
    )
    prompt["settings"] = settings(caption_dropout=0.3, prior_weight=0.5)
    prompt |= {
        "mask": node("SolidMask", value=1.0, width=64, height=64),
        "masked": node("SetLatentNoiseMask", samples=["latents", 0], mask=["mask", 0]),
        "kind": node("CLIPTextEncode", text="a teddy bear", clip=["clip", 0]),
        "nothing": node("CLIPTextEncode", text="", clip=["clip", 0]),
        **sampling(["model", 0], "prior"),
        "both": applied(["train", 0], clip=["clip", 0]),
    }
    run = comfyui.run(prompt, want=["train", "both", "prior"])
    report = run.text("train")
    assert "(8 of text encoders)" in report
    assert "5 pictures, 1 prior picture, 5 with a mask" in report
    matched = run.output("both", 2)
    assert "19 layers applied (19 deft)" in matched, matched


@pytest.mark.parametrize(
    ("changed", "chosen", "text"),
    [
        ({}, {"run_name": "../outside"}, "The run name '../outside' is not within the output folder"),
        ({}, {"caption_dropout": 0.5}, "Caption dropout needs the empty caption"),
        ({}, {"blocks": "joint_blocks.7-9"}, "No layer of .* and blocks 'joint_blocks.7-9'"),
        ({}, {"ranks": "attn"}, "The rank rule 'attn' is not understood"),
        ({"clip": ["clip", 0]}, {}, "connect the captions as text: there are 0 texts for 5 encoded captions"),
    ],
)
def test_bad_input_is_told_at_the_node_and_the_queue_goes_on(
    comfyui: Any, changed: dict, chosen: dict, text: str
) -> None:
    prompt = training_prompt(**changed)
    prompt["settings"] = settings(**chosen)
    failed = comfyui.fail(prompt, want=["train"])
    assert failed.node_type in ("DEFTTrainAdapter", "DEFTTrainingSettings")
    assert re.search(text, failed.message), failed.message
    assert comfyui.run(training_prompt(steps=1), want=["train"]).output("train")


def test_a_learning_rate_that_is_too_high_is_told(comfyui: Any) -> None:
    prompt = training_prompt(learning_rate=1.0, steps=20)
    assert "WARNING: the weights moved by" in comfyui.run(prompt, want=["train"]).text("train")
    lower = comfyui.run(training_prompt(learning_rate=5e-3, steps=20), want=["train"])
    assert "WARNING" not in lower.text("train")


def test_too_little_memory_through_the_executor(comfyui: Any, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator's own error in the midst of a step; then the same model samples and trains."""
    objective = pack.objective
    own, calls = objective.loss, []

    def greedy(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            torch.empty(2**55)
        return own(*args, **kwargs)

    base = latent(comfyui.run(training_prompt() | sampling(["model", 0], "base"), want=["base"]), "base")
    with monkeypatch.context() as patch:
        patch.setattr(objective, "loss", greedy)
        failed = comfyui.fail(training_prompt(steps=5, seed=33), want=["train"])
    assert "There is not enough memory for this training: switch gradient checkpointing on" in failed.message
    run = comfyui.run(training_prompt(steps=5, seed=33) | sampling(["model", 0], "base"), want=["train", "base"])
    assert models.relative(latent(run, "base"), base) == 0
    assert run.output("train")


def test_a_run_s_log_is_json_lines(comfyui: Any) -> None:
    prompt = training_prompt(seed=34)
    prompt["settings"] = settings(run_name="training/log_test", checkpoint_every=2)
    comfyui.run(prompt, want=["train"])
    (run,) = (comfyui.base / "output" / "training").glob("log_test_*")
    lines = [json.loads(line) for line in Path(run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(set(line) == {"step", "loss", "rate", "grad_norm", "seconds", "peak_bytes"} for line in lines)


@pytest.fixture
def photo_folder(comfyui: Any) -> Any:
    """Five pictures of two sizes with captions in ComfyUI's input folder."""
    import shutil

    from PIL import Image

    folder = comfyui.base / "input" / "photos"
    folder.mkdir()
    for index, size in enumerate([(64, 64), (64, 64), (96, 64), (64, 64), (96, 64)]):
        pixels = models.random(size[1], size[0], 3, seed=index).sigmoid().mul(255).byte().numpy()
        Image.fromarray(pixels).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"a sks cat, number {index}")
    yield folder
    shutil.rmtree(folder)
    shutil.rmtree(comfyui.base / "output" / "photos_set", ignore_errors=True)


def test_a_folder_of_photos_in_buckets_and_as_a_saved_dataset(comfyui: Any, photo_folder: Path) -> None:
    """ComfyUI's own data set nodes: the list, its buckets, and the list from disk give the same training."""
    photos: Prompt = {
        "photos": node("LoadImageTextDataSetFromFolder", folder="photos"),
        "set": node("MakeTrainingDataset", images=["photos", 0], vae=["vae", 0], clip=["clip", 0], texts=["photos", 1]),
    }
    listed = training_prompt(latents=["set", 0], positive=["set", 1], steps=6) | photos
    run = comfyui.run(listed, want=["train"])
    assert "5 pictures, 2 sizes" in run.text("train")

    bucketed = training_prompt(latents=["bucket", 0], positive=["bucket", 1], steps=6) | photos
    bucketed["bucket"] = node("ResolutionBucket", latents=["set", 0], conditioning=["set", 1])
    assert "5 pictures, 2 sizes" in comfyui.run(bucketed, want=["train"]).text("train")

    saved = {key: value for key, value in listed.items() if key in ("vae", "clip")} | photos
    saved["save"] = node(
        "SaveTrainingDataset", latents=["set", 0], conditioning=["set", 1], folder_name="photos_set", shard_size=1000
    )
    comfyui.run(saved)
    loaded = training_prompt(latents=["load", 0], positive=["load", 1], steps=6)
    loaded["load"] = node("LoadTrainingDataset", folder_name="photos_set")
    again = comfyui.run(loaded, want=["train"])
    assert again.output("train", 1)["loss"] == pytest.approx(run.output("train", 1)["loss"], rel=1e-5)


def test_the_seed_of_a_training_is_not_that_of_a_picture(pack: Pack) -> None:
    """Scores say how pictures were made: a training's seed is apart there, for every training node of the table."""
    upstream = pack.nodes.provenance.upstream
    for kind in pack.sweeps.training_nodes.TRAINERS:
        prompt = {
            "1": node(kind, seed=3),
            "2": node("KSampler", model=["1", 0], seed=5),
            "3": node("DEFTScoreImages", images=["2", 0]),
        }
        assert upstream(prompt, "3", "images") == {"seeds": [5], "training_seeds": [3]}
