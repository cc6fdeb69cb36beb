"""What a plan fills in a workflow: which axes a node depends on, which inputs it has, what is muted and bypassed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from .sweep_nodes import (
    INFO,
    METHOD,
    TRIVIAL,
    Workflow,
    compiled,
    described,
    inputs,
    keys,
    kinds,
    labels,
    node,
    training,
)

# ------------------------------------------------------------------------------------------------------------ switches


@pytest.mark.parametrize("switch", ["mute: Look", "bypass: Invert"])
def test_a_switch_of_one_kind_is_one(tmp_path: Path, switch: str) -> None:
    """The switch acts in the cells of its value alone, which need not be the first one."""
    workflow = TRIVIAL | {
        "3": node("ImageInvert", "Invert", image=["1", 0]),
        "4": node("PreviewImage", "Look", images=["3", 0]),
    }
    compiler, cells = compiled(tmp_path, workflow, f"axes: {{s: {{values: {{off: {{}}, on: {{{switch}}}}}}}}}\n")
    off, on = (kinds(compiler.prompt_of(cell)) for cell in cells.pictures)
    assert off == ["EmptyImage", "ImageInvert", "PreviewImage", "SaveImage"]
    assert on == ["EmptyImage", *(["PreviewImage"] if "bypass" in switch else []), "SaveImage"]
    assert len(set(keys(cells))) == 2


def order_of(folder: Path, workflow: Workflow, text: str) -> list[str]:
    """The names of the axes, the slowest first."""
    compiler, _ = compiled(folder, workflow, text)
    return [compiler.plan.axes[index].name for index in compiler.axis_order()]


def test_an_axis_of_nodes_that_the_first_cell_lacks_is_as_slow_as_elsewhere(tmp_path: Path) -> None:
    """The first value mutes the nodes of a second model, or bypasses the adapter."""
    workflow = training() | {
        "21": node("UNETLoader", "Other model", unet_name="other", weight_dtype="default"),
        "22": node("KSampler", "Sample other", **(training()["8"]["inputs"] | {"model": ["21", 0]})),
        "23": node("SaveImage", "Save other", images=["22", 0], filename_prefix="sweep/other"),
    }
    text = """
axes:
  other: {values: {without: {mute: Other model}, with: {}}}
  weights: {into: Other model.weight_dtype, values: [default, fp8]}
"""
    assert order_of(tmp_path, workflow, text) == ["weights", "other"]
    text = """
axes:
  prompt: {into: Prompt.text, values: [a cat, a dog]}
  strength: {into: Apply.strength_model, values: [0.5, 1]}
  adapter: {values: {without: {bypass: Apply}, with: {}}}
"""
    assert order_of(tmp_path, training(), text) == ["adapter", "strength", "prompt"]


def test_only_what_loads_a_model_is_a_model(tmp_path: Path) -> None:
    """Neither a node that changes a model counts, nor one that takes nothing from other nodes."""
    workflow = training() | {
        "15": node("EmptyImage", "Paint", width=8, height=8, color=0),
        "16": node("SaveImage", "Save painted", images=["15", 0], filename_prefix="x"),
    }
    text = """
axes:
  color: {into: Paint.color, values: [1, 2]}
  strength: {into: Apply.strength_model, values: [0.5, 1]}
  model: {into: Model.unet_name, values: [base, other]}
"""
    assert order_of(tmp_path, workflow, text) == ["model", "strength", "color"]
    compiler, cells = compiled(tmp_path, workflow, text)
    models: dict[str, set[bytes]] = {"base": set(), "other": set()}
    for cell, of_cell in zip(cells.pictures, labels(compiler, cells), strict=True):
        models[of_cell["model"]].add(cell.models)
    assert [len(each) for each in models.values()] == [1, 1]
    assert models["base"] != models["other"]


# ------------------------------------------------------------------------------------------------ inputs of a node


NESTED: dict[str, Any] = INFO | {
    "Nested": described(
        {
            "image": ["IMAGE"],
            "outer": [
                METHOD[0],
                {
                    "options": [
                        {"key": "plain", "inputs": {"required": {}}},
                        {"key": "deep", "inputs": {"required": {"method": METHOD, "power": ["INT", {"default": 2}]}}},
                    ]
                },
            ],
        },
        saves=True,
    )
}


def test_inputs_of_every_option_are_targets(tmp_path: Path) -> None:
    """Options that the workflow has not chosen count, and so do the combos below those."""
    text = """
axes:
  method:
    values:
      DEFT: {Train.method: deft, Train.method.projector: relu}
      LoRA: {Train.method: lora, Train.method.alpha: 2}
      SVDiff: {Train.method: svdiff, Train.method.scale: 0.5}
"""
    compiler, cells = compiled(tmp_path, training(), text)
    below = [
        {name: value for name, value in inputs(compiler, cell, "Train").items() if name.startswith("method")}
        for cell in cells.pictures
    ]
    assert below == [
        {"method": "deft", "method.rank": 4, "method.projector": "relu"},
        {"method": "lora", "method.rank": 4, "method.alpha": 2.0},
        {"method": "svdiff", "method.scale": 0.5},
    ]
    workflow = {"1": copy.deepcopy(TRIVIAL["1"]), "2": node("Nested", "Nest", image=["1", 0], outer="plain")}
    text = "set: {Nest.outer: deep, Nest.outer.method: svdiff, Nest.outer.method.scale: 3, Nest.outer.power: 1}\n"
    compiler, cells = compiled(tmp_path, workflow, text, NESTED)
    assert inputs(compiler, cells.pictures[0], "Nest") == {
        "image": ["1", 0],
        "outer": "deep",
        "outer.method": "svdiff",
        "outer.method.scale": 3.0,
        "outer.power": 1,
    }
    with pytest.raises(ValueError, match=r"\(Nested\) has no input 'outer.method.alfa'; near: outer.method.alpha"):
        compiled(tmp_path, workflow, "set: {Nest.outer.method.alfa: 1}\n", NESTED)


def test_a_placeholder_whose_value_is_a_placeholder_has_its_value(tmp_path: Path) -> None:
    """The value is used as it is, not as text: a file of this machine goes to the server, and true is no word."""
    (tmp_path / "photo.png").write_bytes(b"x")
    workflow = {"1": node("LoadImage", "Load", image="x.png"), "2": node("PreviewAny", "Show", source=["1", 0])}
    text = "axes: {photo: {into: '%photo%', files: '*.png'}}\nset: {Load.image: '%picture%', '%picture%': '%photo%'}\n"
    compiler, cells = compiled(tmp_path, workflow, text)
    (cell,) = cells.pictures
    assert inputs(compiler, cell, "Load")["image"].startswith("deft_sweeps/")
    assert list(compiler.uploads(cell.choice)) == [inputs(compiler, cell, "Load")["image"]]
    text = "set: {Prompt.text: '%all%', '%all%': 'a %kind% box', '%kind%': '%size%', '%size%': large}\n"
    compiler, cells = compiled(tmp_path, training(), text)
    assert inputs(compiler, cells.pictures[0], "Prompt")["text"] == "a large box"


# --------------------------------------------------------------------------------------------------- {a|b} in texts


DRAWING: dict[str, Any] = INFO | {
    "CLIPTextEncode": described(
        {"text": ["STRING", {"multiline": True, "dynamicPrompts": True}], "clip": ["CLIP"]}, "CONDITIONING"
    )
}
SEEDS = "axes:\n  seed: {into: Sample.seed, seeds: 12}\n"


@pytest.mark.parametrize(
    ("axes", "text", "name"),
    [
        (SEEDS, "a {red|green} bear", "seed"),
        (SEEDS + "  colors: [red, 'red|green']\n", "a {%colors%} bear", "seed"),
        ("axes:\n  cfg: {into: Sample.cfg, range: {from: 1.05, to: 1.95, step: 0.1}}\n", "a {red|green} bear", "cfg"),
    ],
    ids=["written", "in one value of a placeholder", "by fractions"],
)
def test_a_drawn_text_is_an_axis_of_its_node(tmp_path: Path, axes: str, text: str, name: str) -> None:
    """One training for each text that is drawn."""
    plan = f"{axes}set: {{Caption.text: '{text}'}}\nchoice_seed: 1\n"
    compiler, cells = compiled(tmp_path, training(), plan, DRAWING, dynamic=frozenset())
    pairs = {(inputs(compiler, cell, "Caption")["text"], cell.needs) for cell in cells.pictures}
    assert {caption for caption, _ in pairs} == {"a red bear", "a green bear"}
    assert len(pairs) == len(cells.trainings) == 2
    assert all(name in compiler.labels_of(made) for made in cells.trainings.values())


def test_a_text_that_is_sent_as_it_is_depends_on_no_axis(tmp_path: Path) -> None:
    """A text is sent as it is without a `choice_seed`, and in inputs in which the page draws nothing."""
    for number, (info, dynamic) in enumerate(((DRAWING, None), (INFO, frozenset()))):
        text = SEEDS + "set: {Caption.text: '{red|green}'}\nchoice_seed: 1\n"
        compiler, cells = compiled(tmp_path / str(number), training(), text, info, dynamic=dynamic)
        (made,) = cells.trainings.values()
        assert compiler.labels_of(made) == {}
        assert inputs(compiler, made, "Caption")["text"] == "{red|green}"
