"""The scoring nodes in a real ComfyUI: loaded, validated and executed by it."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module", autouse=True)
def files(comfyui_session) -> None:
    """Pictures in the input folder, and small random scorers where the demo's would be found first."""
    from open_clip.model import CLIP
    from timm.models.vision_transformer import VisionTransformer

    rng = np.random.default_rng(0)
    base = comfyui_session.base
    for index in range(4):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(base / "input" / f"score{index}.png")
    Image.fromarray(rng.integers(0, 256, (32, 64, 3), dtype=np.uint8)).save(base / "input" / "wide.png")
    folder = base / "models" / "scorers"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    clip = {"embed_dim": 32, "vision_cfg": {"image_size": 64, "patch_size": 16, "layers": 1, "width": 64},
            "text_cfg": {"context_length": 16, "vocab_size": 514, "width": 64, "heads": 2, "layers": 1}}
    dino = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 1, "num_heads": 3, "num_classes": 0}
    (folder / "merges.txt").write_text("#version: 0.2\n")
    preprocess = {"resize": 64, "crop": 64, "mean": [0.5] * 3, "std": [0.25] * 3}
    for name, module, own in (("clip", CLIP(**clip), {"open_clip": clip, "merges": "merges.txt"}),
                              ("dino", VisionTransformer(**dino), {"timm": dino})):
        save_file(module.state_dict(), folder / f"deft_demo_{name}.safetensors")
        (folder / f"deft_demo_{name}.json").write_text(json.dumps(own | {"preprocess": preprocess}))


def images(*names: str) -> dict:
    """LoadImage nodes, and batches of them."""
    prompt = {f"load {name}": {"class_type": "LoadImage", "inputs": {"image": f"{name}.png"}} for name in names}
    batch = {f"images.image{i}": [f"load {name}", 0] for i, name in enumerate(names)}
    return prompt | {"batch": {"class_type": "BatchImagesNode", "inputs": batch}}


def scoring(text: str = "a dog", **inputs) -> dict:
    """A prompt that scores two pictures against two others."""
    prompt = images("score0", "score1", "score2", "score3")
    for name, start in (("generated", 0), ("real", 2)):
        prompt[name] = {"class_type": "ImageFromBatch",
                        "inputs": {"image": ["batch", 0], "batch_index": start, "length": 2}}
    return prompt | {
        "scorer": {"class_type": "DEFTLoadScorer", "inputs": {"protocol": "demo"} | inputs.pop("scorer", {})},
        "score": {"class_type": "DEFTScoreImages", "inputs": {
            "scorer": ["scorer", 0], "images": ["generated", 0], "references": ["real", 0], "text": text,
            "label": "DEFT r4", "subject": "dog"} | inputs}}


def test_scores_come_out_as_numbers_and_text(comfyui):
    run = comfyui.run(scoring(), want=["score"])
    values = [run.output("score", slot) for slot in range(1, 5)]
    assert all(-1 <= value <= 1 for value in values[:3]) and math.isnan(values[3])
    scores = run.output("score")
    assert [row.metric for row in scores.rows] == ["CLIP-I", "CLIP-T", "DINO"]
    assert [row.references for row in scores.rows] == [2, 1, 2] and scores.rows[0].images == 2
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
    assert math.isnan(run.output("score", 1)) and not math.isnan(run.output("score", 2))
    failed = comfyui.fail(scoring("a\nb\nc"), want=["score"])
    assert failed.node_type == "DEFTScoreImages" and "text: 3 lines for 2 images" in failed.message


def test_a_list_is_scored_as_one_batch(comfyui):
    prompt = scoring("one\ntwo\nthree\nfour", images=["list", 0])
    prompt["list"] = {"class_type": "RebatchImages", "inputs": {"images": ["batch", 0], "batch_size": 1}}
    rows = comfyui.run(prompt, want=["score"]).output("score").rows
    assert {row.images for row in rows} == {4} and rows[1].text == "one\ntwo\nthree\nfour"


def test_missing_weights_are_named(comfyui):
    failed = comfyui.fail(scoring(scorer={"protocol": "dreambooth"}), want=["score"])
    assert failed.node_type == "DEFTLoadScorer"
    for part in ("CLIP ViT-B/32", "clip-vit-base-patch32.safetensors", "scorers", "605 MB",
                 "openai/clip-vit-base-patch32"):
        assert part in failed.message


def test_an_unknown_override_does_not_pass(comfyui):
    failed = comfyui.fail(scoring(scorer={"dino_weights": "../../secret.safetensors"}), want=["score"])
    assert failed.stage == "validation" and "dino_weights" in failed.message


def test_a_replaced_weight_file_is_loaded_again(comfyui):
    prompt = scoring()
    first = comfyui.run(prompt, want=["score"]).output("score", 3)
    path = comfyui.base / "models" / "scorers" / "deft_demo_dino.safetensors"
    before = path.read_bytes()
    from safetensors.torch import load_file

    state = load_file(path)
    state["cls_token"] = state["cls_token"] + torch.linspace(-3, 3, state["cls_token"].shape[-1])
    save_file(state, path)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10 ** 9))
    assert comfyui.run(prompt, want=["score"]).output("score", 3) != first
    path.write_bytes(before)


def test_table_in_all_its_forms(comfyui):
    prompt = scoring()
    prompt["score2"] = {"class_type": "DEFTScoreImages",
                        "inputs": prompt["score"]["inputs"] | {"images": ["real", 0], "label": "upper bound"}}
    prompt["table"] = {"class_type": "DEFTScoreTable", "inputs": {
        "scores.scores0": ["score", 0], "scores.scores1": ["score2", 0], "title": "Dog",
        "filename_prefix": "tables/dog"}}
    run = comfyui.run(prompt, want=["table"])
    markdown, csv, jsonl = (run.output("table", slot) for slot in (1, 2, 3))
    assert run.text("table") == markdown and "| upper bound | 2 | **" in markdown
    assert csv.splitlines()[0] == "method,images,CLIP-I,CLIP-T,DINO"
    assert [json.loads(line)["label"] for line in jsonl.splitlines()] == ["DEFT r4"] * 3 + ["upper bound"] * 3
    assert run.output("table").shape[0] == 1 and run.output("table").shape[3] == 3
    assert len(run.ui["table"]["images"]) == 1
    folder = comfyui.base / "output" / "tables"
    assert {path.name for path in folder.iterdir()} == {f"dog_00001_.{end}" for end in ("png", "md", "csv", "jsonl")}
    assert (folder / "dog_00001_.csv").read_text() == csv
    prompt["table"]["inputs"]["title"] = "Dog again"
    comfyui.run(prompt)
    assert (folder / "dog_00002_.md").read_text().startswith("### Dog again")


def test_files_stay_in_the_output_folder(comfyui):
    prompt = scoring()
    prompt["table"] = {"class_type": "DEFTScoreTable",
                       "inputs": {"scores.scores0": ["score", 0], "filename_prefix": "../../escaped"}}
    assert "outside the output folder" in comfyui.fail(prompt).message


def test_grid_with_labels_scores_and_subject(comfyui):
    prompt = scoring()
    prompt["grid"] = {"class_type": "DEFTComparisonGrid", "inputs": {
        "images.images0": ["generated", 0], "images.images1": ["real", 0], "column_labels": "seed 1\nseed 2",
        "subject": ["batch", 0], "scores.scores0": ["score", 0], "scores.scores1": ["score", 0]}}
    run = comfyui.run(prompt, want=["grid"])
    height, width = run.output("grid").shape[1:3]
    assert height > 2 * 192 and width > 3 * 192
    del prompt["grid"]["inputs"]["scores.scores1"]
    assert "1 connected for 2 rows" in comfyui.fail(prompt).message


def test_grid_without_scores_and_with_other_sizes(comfyui):
    prompt = images("score0", "score1") | {"wide": {"class_type": "LoadImage", "inputs": {"image": "wide.png"}}}
    prompt["grid"] = {"class_type": "DEFTComparisonGrid", "inputs": {
        "images.images0": ["load score0", 0], "images.images1": ["wide", 0], "row_labels": "a\nb"}}
    assert "different sizes (64 x 64 and 64 x 32)" in comfyui.fail(prompt).message
    prompt["grid"]["inputs"]["sizes"] = "fit"
    assert len(comfyui.run(prompt).ui["grid"]["images"]) == 1
    prompt["grid"]["inputs"]["row_labels"] = "a\nb\nc"
    assert "3 row labels for 2 rows" in comfyui.fail(prompt).message


def test_rows_stay_in_order_beyond_ten(comfyui):
    prompt = images("score0", "score1")
    inputs = {f"images.images{i}": ["load score0", 0] for i in range(12)}
    prompt["grid"] = {"class_type": "DEFTComparisonGrid", "inputs": inputs}
    first = comfyui.run(prompt, want=["grid"]).output("grid")
    inputs["images.images11"] = ["load score1", 0]
    last = comfyui.run(prompt, want=["grid"]).output("grid")
    changed = (first != last).any(dim=3).any(dim=2)[0].nonzero()
    assert changed.min() > 0.9 * first.shape[1]
