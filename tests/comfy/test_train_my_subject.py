"""The examples for who is new: that of the demo's model is run, those of other bases are what ComfyUI's nodes take."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import pytest

from deft_pack.workflow_sources import files
from deft_pack.workflow_sources.bases import BASE_FILES, BASES

from .pack import Pack

LARGE = [name for name in BASES if name != "demo"]
# By their titles.
RECIPES = {name: name for name in LARGE} | {"Flux.2 klein": "Flux.2 klein 4B"}


def workflow(base: str) -> dict[str, Any]:
    return copy.deepcopy(dict(files.prompt_of(f"1 Train my subject ({base})")))


@pytest.mark.parametrize("base", LARGE)
def test_only_the_models_are_missing(comfyui: Any, base: str) -> None:
    """Every node, input and value is known to this ComfyUI, but for the files, which are in the folders named."""
    validated = comfyui.execution.validate_prompt("id", workflow(base), None)
    valid, _, _, errors = comfyui.loop.run_until_complete(validated)
    assert not valid
    problems = [error for node in errors.values() for error in node["errors"]]
    assert {error["type"] for error in problems} == {"value_not_in_list"}, problems
    missing = {error["extra_info"]["received_value"] for error in problems}
    named = {value for _, inputs in BASES[base].loaders for value in inputs.values() if value in BASE_FILES}
    assert missing == named


@pytest.mark.parametrize("base", LARGE)
def test_with_the_files_there_comfyui_takes_it(comfyui: Any, base: str) -> None:
    """Each file lies where the page is told to put it."""
    made = []
    for _, inputs in BASES[base].loaders:
        for value in inputs.values():
            if value in BASE_FILES:
                made.append(comfyui.base / "models" / BASE_FILES[value][0] / value)
                made[-1].write_bytes(b"")
    try:
        validated = comfyui.execution.validate_prompt("id", workflow(base), None)
        valid, error, _, errors = comfyui.loop.run_until_complete(validated)
    finally:
        for path in made:
            path.unlink()
    assert valid, (error, errors)


@pytest.mark.parametrize("base", LARGE)
def test_the_training_node_shows_what_the_recipe_sets(pack: Pack, base: str) -> None:
    """Nobody reads one number and gets another."""
    prompt = workflow(base)
    node, (recipe,) = prompt["20"]["inputs"], [one for one in pack.recipes.RECIPES if one.title == RECIPES[base]]
    kinds = {"steps": node["steps"], "learning_rate": node["learning_rate"], "layers": node["layers"]}
    settings = pack.settings.Settings(method="lora", rank=node["method.rank"], **kinds)
    wishes = pack.by_recipe.Wishes(**prompt["22"]["inputs"])
    chosen = pack.by_recipe.with_recipe(settings, recipe, wishes, empty=False)
    assert (chosen.steps, chosen.rank) == (node["steps"], node["method.rank"])
    assert (chosen.learning_rate, chosen.layers) == (node["learning_rate"], node["layers"])
    assert chosen.timesteps != settings.timesteps or base in ("SD 1.5", "SDXL")


def test_the_demo_s_runs(comfyui: Any) -> None:
    prompt = workflow("demo")
    prompt["20"]["inputs"]["steps"] = 2
    prompt["21"]["inputs"]["filename_prefix"] = "first_steps/my_subject"
    prompt["44"]["inputs"]["steps"] = 2
    try:
        run = comfyui.run(prompt, want=["30", "21"])
        assert list((comfyui.base / "models" / "loras" / "first_steps").glob("my_subject_*.safetensors"))
    finally:
        shutil.rmtree(comfyui.base / "models" / "loras" / "first_steps", ignore_errors=True)
        shutil.rmtree(comfyui.base / "user" / "deft_nodes" / "latents", ignore_errors=True)
        shutil.rmtree(comfyui.base / "output" / "1 Train my subject (demo)", ignore_errors=True)
    assert run.output("30").patches
    assert run.text("4").startswith("5 of 5 files")
    assert run.ui["70"]["images"]
