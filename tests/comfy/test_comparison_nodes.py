"""Comparison Grid and Fidelity Plot in a real ComfyUI."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from .scorers import images, make_files, scoring


@pytest.fixture(scope="module", autouse=True)
def files(comfyui_session) -> None:
    make_files(comfyui_session.base)


def grid(prompt: dict, **inputs) -> dict:
    """The prompt with a grid; names of growing inputs have __ for their dot."""
    node = {
        "class_type": "DEFTComparisonGrid",
        "inputs": {name.replace("__", "."): value for name, value in inputs.items()},
    }
    return prompt | {"grid": node}


def saved(comfyui, folder: str) -> dict[str, Image.Image]:
    """The pictures in a folder of the output folder."""
    return {path.name: Image.open(path) for path in sorted((comfyui.base / "output" / folder).iterdir())}


def original(comfyui, name: str) -> np.ndarray:
    return np.array(Image.open(comfyui.base / "input" / f"{name}.png"))


def test_grid_with_labels_scores_and_subject(comfyui):
    prompt = grid(
        scoring(),
        images__images0=["generated", 0],
        images__images1=["real", 0],
        column_labels="seed 1\nseed 2",
        subject=["batch", 0],
        scores__scores0=["score", 0],
        scores__scores1=["score", 0],
    )
    run = comfyui.run(prompt, want=["grid"])
    height, width = run.output("grid").shape[1:3]
    assert height > 2 * 192
    assert width > 3 * 192
    del prompt["grid"]["inputs"]["scores.scores1"]
    assert "1 connected for 2 rows" in comfyui.fail(prompt).message


def test_grid_without_scores_and_with_other_sizes(comfyui):
    prompt = images("score0", "score1") | {"wide": {"class_type": "LoadImage", "inputs": {"image": "wide.png"}}}
    prompt = grid(prompt, images__images0=["load score0", 0], images__images1=["wide", 0], row_labels="a\nb")
    assert "different sizes (64 x 64 and 64 x 32)" in comfyui.fail(prompt).message
    prompt["grid"]["inputs"]["sizes"] = "fit"
    run = comfyui.run(prompt)
    assert len(run.ui["grid"]["images"]) == 1
    assert run.files("grid") == []
    prompt["grid"]["inputs"]["row_labels"] = "a"
    assert "1 row labels for 2 rows" in comfyui.fail(prompt).message


def test_letters_that_no_font_has_are_named_at_the_node(comfyui):
    prompt = grid(
        images("score0"), images__images0=["load score0", 0], row_labels="caf\u00e9 \u043c\u0438\u0448\u043a\u0430"
    )
    assert "text" not in comfyui.run(prompt, want=["grid"]).ui["grid"]
    prompt["grid"]["inputs"]["column_labels"] = "a dog \U00010330"
    assert "drawn as boxes: \U00010330. Install a font" in comfyui.run(prompt).text("grid")


def test_rows_stay_in_order_beyond_ten(comfyui):
    prompt = grid(images("score0", "score1"), **{f"images__images{i}": ["load score0", 0] for i in range(12)})
    first = comfyui.run(prompt, want=["grid"]).output("grid")
    prompt["grid"]["inputs"]["images.images11"] = ["load score1", 0]
    last = comfyui.run(prompt, want=["grid"]).output("grid")
    changed = (first != last).any(dim=3).any(dim=2)[0].nonzero()
    assert changed.min() > 0.9 * first.shape[1]


def test_scores_under_pictures_can_be_left_out(comfyui):
    prompt = grid(scoring(), images__images0=["generated", 0], scores__scores0=["score", 0])
    printed = comfyui.run(prompt, want=["grid"]).output("grid")
    prompt["grid"]["inputs"]["scores_under_pictures"] = False
    plain = comfyui.run(prompt, want=["grid"]).output("grid")
    assert printed.shape[1] > plain.shape[1]
    assert printed.shape[2] == plain.shape[2]  # the means are beside both
    # Four pictures have no score each among those of two.
    prompt["grid"]["inputs"] |= {"scores_under_pictures": True, "images.images0": ["batch", 0]}
    assert comfyui.run(prompt, want=["grid"]).output("grid").shape[1] == plain.shape[1]


def test_pictures_go_to_the_columns_of_their_prompts(comfyui):
    prompt = grid(
        scoring("on the moon\na dog"),
        images__images0=["generated", 0],
        images__images1=["batch", 0],
        scores__scores0=["score", 0],
        scores__scores1=["score", 0],
        save_pictures="columns/dog",
        column_labels="a dog\na cat\non the moon\nin a hat",
    )
    comfyui.run(prompt)
    pictures = saved(comfyui, "columns")
    # The two scored pictures are placed; four with two texts fill their row from the left.
    expected = {"dog_DEFT_r4_01_00001_.png": 1, "dog_DEFT_r4_03_00001_.png": 0} | {
        f"dog_DEFT_r4_2_{i + 1:02}_00001_.png": i for i in range(4)
    }
    assert set(pictures) == set(expected)
    for name, index in expected.items():
        assert np.array_equal(np.array(pictures[name]), original(comfyui, f"score{index}"))


def test_extra_labels_are_missing_rows_and_columns(comfyui):
    prompt = grid(images("score0", "score1"), images__images0=["batch", 0], row_labels="a", column_labels="x\ny")
    one = comfyui.run(prompt, want=["grid"]).output("grid")
    prompt["grid"]["inputs"] |= {"row_labels": "a\na", "column_labels": "x\ny\nz"}
    more = comfyui.run(prompt, want=["grid"]).output("grid")
    assert more.shape[1] - one.shape[1] == more.shape[2] - one.shape[2] == 202
    prompt["grid"]["inputs"]["column_labels"] = "x"
    assert "1 column labels for 2 columns" in comfyui.fail(prompt).message


def test_saved_pictures_carry_the_workflow(comfyui, monkeypatch):
    prompt = grid(
        images("score0", "score1"),
        images__images0=["batch", 0],
        row_labels="../DEFT r4: best?",
        save_pictures="single/run",
    )
    execute, workflow = comfyui.executor.execute, {"workflow": {"nodes": [1, 2, 3]}}
    monkeypatch.setattr(
        comfyui.executor,
        "execute",
        lambda prompt, number, data, outputs: execute(prompt, number, data | {"extra_pnginfo": workflow}, outputs),
    )
    comfyui.run(prompt)
    pictures = saved(comfyui, "single")
    assert set(pictures) == {f"run_DEFT_r4_best_{column:02}_00001_.png" for column in (1, 2)}
    for index, picture in enumerate(pictures.values()):
        assert np.array_equal(np.array(picture), original(comfyui, f"score{index}"))
        assert json.loads(picture.info["prompt"])["grid"] == prompt["grid"]
        assert json.loads(picture.info["workflow"]) == workflow["workflow"]

    from comfy.cli_args import args

    monkeypatch.setattr(args, "disable_metadata", True)
    prompt["grid"]["inputs"]["row_labels"] = "LoRA"
    comfyui.run(prompt)
    added = {name: picture for name, picture in saved(comfyui, "single").items() if name not in pictures}
    # One counter for all pictures of a run.
    assert set(added) == {"run_LoRA_01_00002_.png", "run_LoRA_02_00002_.png"}
    assert not any(picture.info.keys() & {"prompt", "workflow"} for picture in added.values())


def test_saved_pictures_stay_in_the_output_folder(comfyui):
    prompt = grid(images("score0", "score1"), images__images0=["batch", 0], save_pictures="../../escaped")
    assert "outside the output folder" in comfyui.fail(prompt).message


def test_rows_of_one_label_are_saved_under_names_of_their_own(comfyui):
    prompt = grid(
        images("score0", "score1"),
        images__images0=["load score0", 0],
        images__images1=["load score1", 0],
        images__images2=["load score0", 0],
        row_labels="LoRA\nlora\n???",
        save_pictures="twice/x",
    )
    listed = comfyui.run(prompt).files("grid")
    assert listed == [f"twice/{name}" for name in saved(comfyui, "twice")]
    assert list(saved(comfyui, "twice")) == ["x_LoRA_01_00001_.png", "x_lora_2_01_00001_.png", "x_row3_01_00001_.png"]


def test_a_large_grid_is_shrunk(comfyui):
    prompt = grid(
        images("score0", "score1", "score2", "score3"),
        **{f"images__images{i}": ["batch", 0] for i in range(12)},
        max_megapixels=1.0,
    )
    shape = comfyui.run(prompt, want=["grid"]).output("grid").shape
    assert 500_000 < shape[1] * shape[2] <= 1_000_000


def plot(prompt: dict, **inputs) -> dict:
    """The prompt with a plot of its scores."""
    return prompt | {"plot": {"class_type": "DEFTFidelityPlot", "inputs": {"scores.scores0": ["score", 0]} | inputs}}


def test_fidelity_plot(comfyui):
    prompt = plot(scoring(), title="Dog", filename_prefix="plots/dog")
    prompt["score2"] = {
        "class_type": "DEFTScoreImages",
        "inputs": prompt["score"]["inputs"] | {"images": ["real", 0], "label": "upper bound"},
    }
    one = comfyui.run(prompt, want=["plot"])
    prompt["plot"]["inputs"]["scores.scores1"] = ["score2", 0]
    two = comfyui.run(prompt, want=["plot"])
    assert len(two.ui["plot"]["images"]) == 1
    image = two.output("plot")
    assert image.shape[2] == one.output("plot").shape[2]
    assert not image.equal(one.output("plot"))
    plots = saved(comfyui, "plots")
    assert list(plots) == ["dog_00001_.png", "dog_00002_.png"]
    assert [run.files("plot") for run in (one, two)] == [[f"plots/{name}"] for name in plots]
    assert np.array_equal(np.array(plots["dog_00002_.png"]), (image[0] * 255).round().byte().numpy())


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"y": "DINOv2"}, "no DINOv2 among the scores, only CLIP-I, CLIP-T, DINO"),
        ({"x": "beauty"}, "Value not in list"),
    ],
)
def test_a_metric_that_is_not_there_is_named(comfyui, axes, message):
    assert message in comfyui.fail(plot(scoring(), **axes)).message


def test_a_label_serves_all_pictures_of_its_batch(comfyui):
    prompt = images("score0", "score1", "score2", "score3")
    prompt["list"] = {"class_type": "RebatchImages", "inputs": {"images": ["batch", 0], "batch_size": 2}}
    prompt = grid(prompt, images__images0=["list", 0], column_labels="a\nb")
    short = comfyui.run(prompt, want=["grid"]).output("grid")
    prompt["grid"]["inputs"]["column_labels"] = "a\na\nb\nb"
    assert torch.equal(comfyui.run(prompt, want=["grid"]).output("grid"), short)
    prompt["grid"]["inputs"]["column_labels"] = "a\nb\nc"
    assert "3 column labels for 4 columns" in comfyui.fail(prompt).message
