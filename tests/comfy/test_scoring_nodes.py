"""The scoring nodes in a real ComfyUI: loaded, validated and executed by it."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from deft_pack.workflow_sources.scorers import WEIGHTS

from . import models
from .scorers import make_files, scoring

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module", autouse=True)
def files(comfyui_session) -> None:
    make_files(comfyui_session.base)


def test_scores_come_out_as_numbers_and_text(comfyui):
    run = comfyui.run(scoring(), want=["score"])
    values = [run.output("score", slot) for slot in range(1, 5)]
    assert all(-1 <= value <= 1 for value in values[:3])
    assert math.isnan(values[3])
    scores = run.output("score")
    assert [row.metric for row in scores.rows] == ["CLIP-I", "CLIP-T", "DINO"]
    assert [row.references for row in scores.rows] == [2, 1, 2]
    assert scores.rows[0].images == 2
    assert "DEFT r4 of dog: DINO" in run.output("score", 5)


def test_same_pictures_score_one(comfyui):
    prompt = scoring(references=["generated", 0])
    prompt["generated"]["inputs"]["length"] = 1
    run = comfyui.run(prompt, want=["score"])
    assert run.output("score", 1) == pytest.approx(1, abs=1e-5)
    assert run.output("score", 3) == pytest.approx(1, abs=1e-5)


def test_text_lines_and_references_can_be_left_out(comfyui):
    prompt = scoring("a dog\na cat")
    del prompt["score"]["inputs"]["references"]
    run = comfyui.run(prompt, want=["score"])
    assert math.isnan(run.output("score", 1))
    assert not math.isnan(run.output("score", 2))
    failed = comfyui.fail(scoring("a\nb\nc"), want=["score"])
    assert failed.node_type == "DEFTScoreImages"
    assert "text: 3 lines for 2 images" in failed.message


def test_a_list_is_scored_as_one_batch(comfyui):
    prompt = scoring("one\ntwo\nthree\nfour", images=["list", 0])
    prompt["list"] = {"class_type": "RebatchImages", "inputs": {"images": ["batch", 0], "batch_size": 1}}
    rows = comfyui.run(prompt, want=["score"]).output("score").rows
    assert {row.images for row in rows} == {4}
    assert rows[1].texts == ("one", "two", "three", "four")


def test_a_line_of_text_serves_a_batch_of_a_list_and_the_token_is_left_out(comfyui):
    prompt = scoring("a sks dog\na cat", images=["list", 0])
    prompt["list"] = {"class_type": "RebatchImages", "inputs": {"images": ["batch", 0], "batch_size": 2}}
    rows = comfyui.run(prompt, want=["score"]).output("score").rows
    assert {row.texts for row in rows} == {("a dog", "a dog", "a cat", "a cat")}
    prompt["score"]["inputs"]["token"] = ""
    assert comfyui.run(prompt, want=["score"]).output("score").rows[0].texts[0] == "a sks dog"


def drift(**inputs) -> dict:
    """A prompt that compares two pictures with two others as the base's."""
    prompt = scoring()
    prompt["score"] = {
        "class_type": "DEFTScoreDrift",
        "inputs": {
            "scorer": ["scorer", 0],
            "images": ["generated", 0],
            "base_images": ["real", 0],
            "references": ["real", 0],
            "text": "a cat\na car",
            "label": "DEFT r4",
        }
        | inputs,
    }
    return prompt


def test_masks_of_the_subject(comfyui):
    """The formula is tested in tests/unit/test_scoring_judges.py; here what the node takes and refuses."""
    whole = comfyui.run(scoring(), want=["score"]).output("score").rows

    def prompt(width: int = 64, value: float = 1.0, **inputs) -> dict:
        mask = {"class_type": "SolidMask", "inputs": {"value": value, "width": width, "height": 64}}
        return scoring(**inputs) | {"mask": mask}

    rows = comfyui.run(prompt(masks=["mask", 0], reference_masks=["mask", 0]), want=["score"]).output("score").rows
    for row, before in zip(rows, whole, strict=True):
        assert row.values == pytest.approx(before.values, abs=1e-6)
        assert ("without background" in row.preprocessing) == (row.metric != "CLIP-T")
    rows = comfyui.run(prompt(value=0.5, masks=["mask", 0]), want=["score"]).output("score").rows
    assert rows[0].values != pytest.approx(whole[0].values, abs=1e-4)
    assert rows[1].values == pytest.approx(whole[1].values, abs=1e-6)
    no_references = prompt(reference_masks=["mask", 0])
    del no_references["score"]["inputs"]["references"]
    for wrong, words in (
        (prompt(value=0.0, masks=["mask", 0]), "masks: mask 0 is empty"),
        (prompt(32, masks=["mask", 0]), "masks: mask 0 is 32 x 64, picture 0 is 64 x 64"),
        (prompt(32, reference_masks=["mask", 0]), "reference_masks: mask 0 is 32 x 64, picture 0 is 64 x 64"),
        (no_references, "reference_masks: there are no references"),
    ):
        failed = comfyui.fail(wrong, want=["score"])
        assert failed.node_type == "DEFTScoreImages"
        assert words in failed.message


def test_drift_and_prior_preservation(comfyui):
    run = comfyui.run(drift(), want=["score"])
    scores = run.output("score")
    assert [row.metric for row in scores.rows] == ["drift", "PRES"]
    assert scores.rows[0].texts == ("a cat", "a car")
    assert run.output("score", 1) == pytest.approx(scores.value("drift"))
    assert 0 < run.output("score", 1) < 1
    assert "DEFT r4: PRES" in run.output("score", 3)
    same = comfyui.run(drift(base_images=["generated", 0]), want=["score"])
    assert same.output("score", 1) == pytest.approx(0, abs=1e-6)
    alone = drift()
    del alone["score"]["inputs"]["references"]
    assert math.isnan(comfyui.run(alone, want=["score"]).output("score", 2))
    failed = comfyui.fail(drift(base_images=["batch", 0]), want=["score"])
    assert failed.node_type == "DEFTScoreDrift"
    assert "there are 2 and 4; sample both" in failed.message


def test_diversity_over_the_pictures_of_a_prompt(comfyui):
    prompt = scoring()
    prompt["score"] = {
        "class_type": "DEFTScoreDiversity",
        "inputs": {"scorer": ["scorer", 0], "images": ["batch", 0], "text": "a\nb\na\na", "label": "DEFT r4"},
    }
    run = comfyui.run(prompt, want=["score"])
    scores = run.output("score")
    assert [(row.metric, len(row.values)) for row in scores.rows] == [("diversity", 3)]
    assert run.output("score", 1) == pytest.approx(scores.value("diversity"))
    assert math.isnan(run.output("score", 2))
    prompt["score"]["inputs"]["text"] = "a\nb\nc\nd"
    assert "no prompt has two" in comfyui.fail(prompt, want=["score"]).message


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("DEFTScoreImages", {"images": ["generated", 0], "references": ["real", 0]}),
        ("DEFTScoreDrift", {"images": ["generated", 0], "base_images": ["real", 0]}),
        ("DEFTScoreDiversity", {"images": ["batch", 0]}),
    ],
)
def test_every_scoring_node_hands_the_adapters_costs_on(comfyui, kind, inputs):
    tensors = {
        "diffusion_model.a.deft_Q": torch.eye(8, 2),
        "diffusion_model.a.deft_R": torch.zeros(2, 6),
        "diffusion_model.a.alpha": torch.tensor(1.0),
    }
    save_file(tensors, comfyui.base / "models" / "loras" / "costs.safetensors")
    prompt = scoring()
    prompt["adapter"] = {
        "class_type": "DEFTLoadAdapterFile",
        "inputs": {"file": "costs.safetensors", "projector": "auto"},
    }
    prompt["score"] = {
        "class_type": kind,
        "inputs": {"scorer": ["scorer", 0], "label": "DEFT r2", "subject": "dog", "adapter": ["adapter", 0]} | inputs,
    }
    prompt["table"] = {"class_type": "DEFTScoreTable", "inputs": {"scores.scores0": ["score", 0]}}
    run = comfyui.run(prompt, want=["score", "table"])
    (cost,) = run.output("score").costs
    assert (cost.label, cost.method, cost.rank, cost.subject) == ("DEFT r2", "deft", 2, "dog")
    assert (cost.training_seconds, cost.values, cost.bytes) == (None, 28, 116)  # the alpha is 4 bytes and no value
    header, _, line = run.output("table", 1).splitlines()[:3]
    assert header.endswith("| training s | trained parameters | file MiB |")
    assert line.endswith("|  | 28 | 0.000 |")
    # As the trainer writes it: 4 numbers were trained for 28 in the file.
    entry = {"seconds": 8, "seconds_a_step": 0.5, "peak_bytes": 2**30, "memory": "GPU", "values": 4, "bytes": 116}
    written = {"training_cost": json.dumps(entry)}
    save_file(tensors, comfyui.base / "models" / "loras" / "costs.safetensors", written)
    run = comfyui.run(prompt, want=["score", "table"])
    (cost,) = run.output("score").costs
    assert (cost.training_seconds, cost.seconds_a_step, cost.peak_bytes, cost.memory) == (8, 0.5, 2**30, "GPU")
    header, _, line = run.output("table", 1).splitlines()[:3]
    assert header.endswith("| training s | trained parameters | file MiB | s a step | peak MiB |")
    assert line.endswith("| 8 | 4 | 0.000 | 0.5 | 1,024 |")
    del prompt["score"]["inputs"]["adapter"], prompt["table"]
    assert comfyui.run(prompt, want=["score"]).output("score").costs == ()


def test_seeds_files_and_the_adapters_method_are_written_down(comfyui):
    whole = json.loads((ROOT / "example_workflows" / "api" / "compare_all_methods.json").read_text())
    score = next(
        key for key, node in whole.items() if node["class_type"] == "DEFTScoreImages" and "adapter" in node["inputs"]
    )
    prompt, waiting = {}, [score]
    while waiting:
        key = waiting.pop()
        prompt[key] = whole[key]
        waiting += [value[0] for value in prompt[key]["inputs"].values() if isinstance(value, list)]
    for node in prompt.values():
        if node["class_type"] == "DEFTTrainAdapter":
            node["inputs"]["steps"] = 1
        if node["class_type"] == "KSampler":
            node["inputs"]["steps"] = 1
    prompt["seed"] = {"class_type": "PrimitiveInt", "inputs": {"value": 77}}
    images = prompt[prompt[score]["inputs"]["images"][0]]
    prompt[images["inputs"]["samples"][0]]["inputs"]["seed"] = ["seed", 0]
    scores = comfyui.run(prompt, want=[score]).output(score)
    made = scores.rows[0].provenance
    train = prompt[prompt[score]["inputs"]["adapter"][0]]["inputs"]
    assert made["seeds"] == [77]
    assert made["training_seeds"] == [train["seed"]]
    assert made["files"] == ["deft_demo_denoiser.safetensors", "deft_demo_vae.safetensors"]
    assert scores.rows[0].method == train["method"]
    assert scores.rows[0].rank == train["method.rank"]
    assert (scores.costs[0].method, scores.costs[0].rank) == (train["method"], train["method.rank"])
    json.loads(scores.jsonl().splitlines()[0])


def test_a_second_score_of_the_same_pictures_needs_no_forward(comfyui, monkeypatch):
    base = comfyui.module("scoring.backbones.base").Backbone
    calls = []
    original = base.encode_pixels
    monkeypatch.setattr(base, "encode_pixels", lambda self, pixels: calls.append(len(pixels)) or original(self, pixels))
    comfyui.module("scoring.embeddings").STORE.clear()
    first = comfyui.run(scoring(label="one"), want=["score"]).output("score")
    assert sum(calls) == 2 + 8  # two backbones, each tried once when it was loaded; four pictures
    second = comfyui.run(scoring(label="two"), want=["score"]).output("score")
    assert sum(calls) == 2 + 8
    assert [row.values for row in second.rows] == [row.values for row in first.rows]


def test_a_scorer_that_lacks_memory_takes_other_models_away(comfyui, monkeypatch):
    import comfy.model_management as management

    management.unload_all_models()
    other = models.unet()
    management.load_models_gpu([other])
    scorer = comfyui.run(scoring(), want=["scorer"]).output("scorer")
    backbone = scorer.backbones["dino"]
    pixels = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected, encode, seen = backbone.encode_pixels(pixels), backbone._encode_image, []

    def short(given):
        seen.append([loaded.model is other for loaded in management.current_loaded_models])
        if any(seen[-1]):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return encode(given)

    monkeypatch.setattr(backbone, "_encode_image", short)
    assert torch.equal(backbone.encode_pixels(pixels), expected)
    assert [any(loaded) for loaded in seen] == [True, False]
    assert seen[1] == [False], "the scorer itself is not loaded"
    management.unload_all_models()


def test_verification_of_the_demos_scorers(comfyui):
    """The scorers are those of the pack itself, not the random ones that stand in for them here."""
    models = ROOT / "demo" / "models"
    verify = comfyui.module("scoring.verify")
    assert verify.verify(verify.load_file(models / "deft_demo_clip.safetensors")).passed is True
    prompt = {
        "scorer": {"class_type": "DEFTLoadScorer", "inputs": {"protocol": "demo"}},
        "verify": {"class_type": "DEFTVerifyScorer", "inputs": {"scorer": ["scorer", 0]}},
    }
    run = comfyui.run(prompt, want=["verify"])
    assert run.output("verify", 1) is True
    assert run.text("verify") == run.output("verify")
    assert "demo DINO (64 px)" in run.output("verify")
    assert "nobody has published" in run.output("verify")


def test_a_custom_protocol_of_timms_and_open_clips_models(comfyui):
    import timm

    folder = comfyui.base / "models" / "scorers"
    model = timm.create_model("test_vit.r160_in1k", pretrained=False)
    save_file(model.state_dict(), folder / "test_vit.r160_in1k.safetensors")
    own = {
        "protocol": "custom",
        "protocol.clip_model": "",
        "protocol.image_model": "test_vit.r160_in1k",
        "protocol.image_weights": "auto",
        "protocol.pairing": "matched",
        "protocol.scale": 100.0,
    }
    rows = comfyui.run(scoring(scorer=own), want=["score"]).output("score").rows
    assert [(row.metric, row.pairing, row.scale) for row in rows] == [("likeness (test_vit.r160_in1k)", "matched", 100)]
    failed = comfyui.fail(scoring(scorer=own | {"protocol.image_model": "no_such_model"}), want=["score"])
    assert failed.node_type == "DEFTLoadScorer"
    assert "timm has no model 'no_such_model'" in failed.message
    # What an API caller leaves out is not there; of another choice ComfyUI leaves nothing.
    for inputs in (own | {"protocol.image_model": ""}, {"protocol": "custom"}):
        failed = comfyui.fail(scoring(scorer=inputs), want=["score"])
        assert "custom protocol needs a model" in failed.message or failed.stage == "validation"
    with pytest.raises(ValueError, match="custom protocol needs a model"):
        comfyui.module("nodes.scorers").chosen_protocol({"protocol": "custom"})
    failed = comfyui.fail(scoring(scorer={"protocol": "no_such"}), want=["score"])
    assert "Unknown protocol: choose one of" in failed.message or failed.stage == "validation"
    with pytest.raises(ValueError, match=r"Unknown protocol: choose one of .*, custom\."):
        comfyui.module("nodes.scorers").chosen_protocol(None)


def test_missing_weights_are_downloaded_only_when_asked(comfyui, hub):
    import timm
    from safetensors.torch import save

    hub.offer(save(timm.create_model("test_vit2.r160_in1k", pretrained=False).state_dict()))
    own = {
        "protocol": "custom",
        "protocol.clip_model": "",
        "protocol.image_model": "test_vit2.r160_in1k",
        "protocol.image_weights": "auto",
        "protocol.pairing": "all",
        "protocol.scale": 1.0,
    }
    failed = comfyui.fail(scoring(scorer=own), want=["score"])
    assert failed.message.startswith("Switch download on at this node")
    assert "weights of timm test_vit2.r160_in1k are missing" in failed.message
    assert re.search(r"Protocols that are ready on this machine: (\S+, )*demo\.$", failed.message)
    assert hub.asked == []
    rows = comfyui.run(scoring(scorer=own | {"download": True}), want=["score"]).output("score").rows
    assert hub.asked == ["/timm/test_vit2.r160_in1k/resolve/main/model.safetensors"]
    path = comfyui.base / "models" / "scorers" / "test_vit2.r160_in1k.safetensors"
    assert path.read_bytes() == hub.content
    assert rows[0].provenance["weights_sha256"] == hub.promised
    path.unlink()
    hub.promised = "0" * 64
    failed = comfyui.fail(scoring(scorer=own | {"download": True, "protocol.scale": 2.0}), want=["score"])
    assert failed.node_type == "DEFTLoadScorer"
    assert "is not the expected file" in failed.message
    assert not path.exists()


def test_optional_weights_that_are_nowhere_for_download_do_not_stop_it(comfyui, hub):
    """DreamSim's and SSCD's, of the protocol 2026."""
    nodes = comfyui.module("nodes.scorer_files")
    protocol = nodes.get_protocol("2026")
    optional = [measure for measure in protocol.measures if measure.metric in ("DreamSim", "copy")]
    asyncio.run(nodes.fetch_missing(replace(protocol, measures=tuple(optional)), {}))
    assert hub.asked == []
    needed = tuple(replace(measure, optional=False) for measure in optional)
    with pytest.raises(ValueError, match=r"There is no download for DreamSim \(ensemble\): get dreamsim_ensemble"):
        asyncio.run(nodes.fetch_missing(replace(protocol, measures=needed), {}))


def test_missing_weights_can_be_left_out(comfyui):
    folder = comfyui.base / "models" / "scorers"
    from timm import create_model

    save_file(create_model("vit_small_patch16_224", num_classes=0).state_dict(), folder / "dino_vits16.safetensors")
    prompt = scoring(scorer={"protocol": "dreambooth", "missing": "leave out"})
    run = comfyui.run(prompt, want=["score", "scorer"])
    assert [row.metric for row in run.output("score").rows] == ["DINO"]
    report = run.output("scorer", 1)
    assert "DINO, PRES, diversity: DINO ViT-S/16 from dino_vits16.safetensors (SHA-256 " in report
    assert "CLIP-I and CLIP-T skipped: The weights of CLIP ViT-B/32" in report
    (ready,) = [line for line in report.splitlines() if line.startswith("Protocols that are ready on this machine: ")]
    assert "demo" in ready
    assert "dreambooth" not in ready  # its CLIP is not here
    assert "CLIP-I and CLIP-T skipped" in run.output("score", 5)
    (folder / "dino_vits16.safetensors").unlink()
    assert "no weights to measure with" in comfyui.fail(prompt, want=["score"]).message


def small_clip_vision(comfyui_clip_vision):
    """ComfyUI's CLIP_VISION with two layers, and transformers' model with the same random weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
        "projection_dim": 48,
        "hidden_act": "quick_gelu",
        "num_channels": 3,
        "layer_norm_eps": 1e-5,
    }
    theirs = CLIPVisionModelWithProjection(CLIPVisionConfig(**config)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_((0.1 * torch.randn(parameter.shape, generator=generator)).half())  # ComfyUI keeps halves
    ours = comfyui_clip_vision.ClipVisionModel(config | {"model_type": "clip_vision_model"})
    state = {key: value for key, value in theirs.state_dict().items() if not key.endswith("position_ids")}
    ours.load_sd(
        {
            key if key.startswith(("vision_model", "visual")) else f"vision_model.{key}": value
            for key, value in state.items()
        }
    )
    return ours, theirs


def test_a_clip_vision_measures_clip_i(comfyui):
    import comfy.clip_vision
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    ours, theirs = small_clip_vision(comfy.clip_vision)
    encoder = comfyui.module("nodes.scorers").clip_vision_encoder(ours)
    assert encoder.kind == "clip_vision"
    assert "the CLIP_VISION, float16" in encoder.name
    pictures = [Image.open(comfyui.base / "input" / f"{name}.png").convert("RGB") for name in ("score0", "wide")]
    processor = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    with torch.no_grad():
        expected = theirs(torch.as_tensor(np.stack(processor(pictures)["pixel_values"])).float()).image_embeds
    features = encoder.encode_images(pictures)
    assert (features - torch.nn.functional.normalize(expected, dim=-1)).abs().max() <= 1e-5
    ours.model_type = "siglip_vision_model"
    with pytest.raises(ValueError, match="not the image encoder of a CLIP with its projection"):
        comfyui.module("nodes.scorers").clip_vision_encoder(ours)


def test_missing_weights_are_named(comfyui):
    failed = comfyui.fail(scoring(scorer={"protocol": "dreambooth"}), want=["score"])
    assert failed.node_type == "DEFTLoadScorer"
    for part in (
        "CLIP ViT-B/32",
        "clip-vit-base-patch32.safetensors",
        "scorers",
        "605 MB",
        "openai/clip-vit-base-patch32",
    ):
        assert part in failed.message


@pytest.mark.parametrize("protocol", WEIGHTS)
def test_a_file_that_an_example_names_may_be_missing(comfyui, protocol):
    """ComfyUI takes the node, which says the same as with auto: what is missing, and what download does."""
    failed = comfyui.fail(scoring(scorer={"protocol": protocol, **WEIGHTS[protocol]}), want=["score"])
    assert failed.node_type == "DEFTLoadScorer"
    assert failed.message.startswith("Switch download on at this node")
    assert failed.message == comfyui.fail(scoring(scorer={"protocol": protocol}), want=["score"]).message


def test_a_usual_file_that_is_missing_is_found_under_another_name(comfyui):
    """The demo's scorers, and names that those of other protocols have."""
    named = {"clip_weights": "ViT-B-32.pt", "dino_weights": "dino_vits16.safetensors"}
    rows = comfyui.run(scoring(scorer=named), want=["score"]).output("score").rows
    assert rows == comfyui.run(scoring(), want=["score"]).output("score").rows
    failed = comfyui.fail(scoring(scorer={"dino_weights": "ViT-B-32.pt"}), want=["score"])  # a CLIP's name
    assert "dino_weights: there is no weight file 'ViT-B-32.pt' in models/clip_vision" in failed.message


def test_an_unknown_override_does_not_pass(comfyui):
    failed = comfyui.fail(scoring(scorer={"dino_weights": "../../secret.safetensors"}), want=["score"])
    assert failed.stage == "validation"
    assert "dino_weights" in failed.message


def test_a_replaced_weight_file_is_loaded_again(comfyui):
    prompt = scoring()
    first = comfyui.run(prompt, want=["score"]).output("score", 3)
    path = comfyui.base / "models" / "scorers" / "deft_demo_dino.safetensors"
    before = path.read_bytes()
    from safetensors.torch import load_file

    state = load_file(path)
    state["cls_token"] = state["cls_token"] + torch.linspace(-3, 3, state["cls_token"].shape[-1])
    try:
        save_file(state, path)
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))
        assert comfyui.run(prompt, want=["score"]).output("score", 3) != first
    finally:
        path.write_bytes(before)


def test_comfyuis_memory_management_has_the_encoders(comfyui):
    import comfy.model_management

    comfy.model_management.unload_all_models()
    comfyui.module("scoring.embeddings").STORE.clear()
    run = comfyui.run(scoring(label="managed"), want=["scorer", "score"])
    modules = [backbone.module for backbone in run.output("scorer").backbones.values()]
    loaded = [entry.model.model for entry in comfy.model_management.current_loaded_models]
    assert len(modules) == 2
    assert all(any(module is one for one in loaded) for module in modules)
