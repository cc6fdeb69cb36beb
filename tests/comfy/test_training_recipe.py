"""Training Recipe: what a base's recipe decides, what goes before it, and what is said before the first step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ..tools import same
from . import models
from .pack import Pack
from .test_adapter_nodes import applied, node, sampling, trainer, training_prompt
from .test_adapter_nodes import settings as settings_node
from .test_textual_inversion import inversion
from .test_training_nodes import previews
from .test_training_runs import Vae, as_loaded, shown, train


def recipe_of(pack: Pack, title: str) -> Any:
    """The recipe of this title."""
    return next(recipe for recipe in pack.recipes.RECIPES if recipe.title == title)


def chosen(pack: Pack, title: str, method: str = "lora", empty: bool = False, **wishes: Any) -> Any:
    """Train Adapter's settings as the recipe has them; `own` are settings that are not at their defaults."""
    own = wishes.pop("own", {})
    start = pack.settings.Settings.of(method, 4, 500, 1e-4, **own)
    made = pack.by_recipe.with_recipe(start, recipe_of(pack, title), pack.by_recipe.Wishes(**wishes), empty)
    made.check()
    return made


@pytest.mark.parametrize(
    ("method", "title", "rate"),
    [
        ("lora", "SDXL", 1e-4),
        ("deft", "SDXL", 1e-4),
        ("para", "SDXL", 1e-4),
        ("dreambooth", "SDXL", 2.5e-6),
        ("svdiff", "SDXL", 1e-3),
        ("dora", "SDXL", 3e-4),
        ("lora", "Anima", 2e-5),
        ("dreambooth", "Anima", 5e-7),
        ("lora", "HiDream I1 Full", 2e-4),
    ],
)
def test_the_rate_follows_the_method_and_the_base(pack: Pack, method: str, title: str, rate: float) -> None:
    assert chosen(pack, title, method).learning_rate == pytest.approx(rate)


def test_the_rate_follows_the_optimizer(pack: Pack) -> None:
    assert chosen(pack, "SDXL", own={"optimizer": "Lion"}).learning_rate == pytest.approx(2e-5)
    assert chosen(pack, "SDXL", own={"optimizer": "Prodigy"}).learning_rate == 1
    assert chosen(pack, "SDXL", learning_rate=3e-4, own={"optimizer": "Lion"}).learning_rate == 3e-4


@pytest.mark.parametrize("name", ["lora", "deft", "para", "svdiff", "dreambooth", "dora", "oft", "lokr"])
@pytest.mark.parametrize("title", ["SDXL", "Anima", "Flux.1 dev", "HiDream I1 Full"])
def test_no_rate_is_one_that_is_warned_of(pack: Pack, name: str, title: str) -> None:
    assert pack.trainers.settings.usual_rates.far_from_usual(chosen(pack, title, name)) == ""


@pytest.mark.parametrize(
    ("what", "how", "steps", "rank"),
    [
        ("subject", "usual", 1500, 32),
        ("style", "usual", 3000, 32),
        ("subject", "quick", 750, 16),
        ("style", "thorough", 6000, 32),
    ],
)
def test_what_and_how(pack: Pack, what: str, how: str, steps: int, rank: int) -> None:
    made = chosen(pack, "Z-Image", what=what, how=how)
    assert (made.steps, made.rank, made.layers) == (steps, rank, "attention and feed-forward")
    assert made.warm_up == min(100, steps // 10)
    assert (made.timesteps, made.shift, made.shift_by_size) == ("logit-normal", 2, "none")


def test_steps_count_pictures(pack: Pack) -> None:
    assert chosen(pack, "SDXL", own={"batch_size": 4}).steps == 250
    assert chosen(pack, "SDXL", own={"batch_size": 2, "accumulation": 4}).steps == 125


def test_wishes_and_changed_settings_go_before(pack: Pack) -> None:
    made = chosen(pack, "Flux.1 dev", steps=7, rank=3, layers="all linear", learning_rate=2e-4)
    assert (made.steps, made.rank, made.layers, made.learning_rate) == (7, 3, "all linear", 2e-4)
    assert (made.timesteps, made.shift_by_size, made.guidance) == ("logit-normal", "Flux", 1)
    own = {"timesteps": "mode", "guidance": 3.5, "warm_up": 5, "caption_dropout": 0.2, "schedule": "cosine"}
    made = chosen(pack, "Flux.1 Kontext", own=own, empty=True)
    assert {name: getattr(made, name) for name in own} == own
    assert made.shift_by_size == "none"


def test_caption_dropout_needs_the_empty_caption(pack: Pack) -> None:
    assert chosen(pack, "Chroma").caption_dropout == 0
    assert chosen(pack, "Chroma", empty=True).caption_dropout == 0.1
    assert chosen(pack, "Chroma").guidance == 0


def test_methods_that_train_norms_have_everything(pack: Pack) -> None:
    for method in ("svdiff", "dreambooth"):
        assert chosen(pack, "SD 1.5", method).layers == "everything"
        assert chosen(pack, "SD 1.5", method).rank == 4  # which is not used
    assert chosen(pack, "SD 1.5", "svdiff", layers="attention").layers == "attention"


def test_a_textual_inversion_has_the_noise_levels_alone(pack: Pack) -> None:
    start = pack.settings.Settings.of("textual_inversion", 1, 3000, 5e-4, options={"token": "a", "vectors": 1})
    made = pack.by_recipe.with_recipe(start, recipe_of(pack, "HunyuanVideo"), pack.by_recipe.Wishes(), empty=False)
    assert made == replace(start, timesteps="logit-normal", shift=3.0, guidance=1.0)


def test_every_recipe_has_layers_that_there_are(pack: Pack) -> None:
    for recipe in pack.recipes.RECIPES:
        assert recipe.layers in pack.targets.CHOICES
        assert chosen(pack, recipe.title).schedule == recipe.schedule


def test_pictures_that_are_too_small_are_said(pack: Pack) -> None:
    recipe, wishes = recipe_of(pack, "Flux.1 dev"), pack.by_recipe.Wishes
    assert "512 x 512 pixels, but the recipe Flux.1 dev uses 1024" in pack.by_recipe.size_note(recipe, wishes(), 512**2)
    assert pack.by_recipe.size_note(recipe, wishes(), 1024 * 1000) == ""
    assert pack.by_recipe.size_note(recipe, wishes(how="quick"), 512**2) == ""


# ------------------------------------------------------------------------------------------------------ through ComfyUI


@pytest.fixture
def node_texts(comfyui: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts at the training node, in their order."""
    texts: list[str] = []
    monkeypatch.setattr(comfyui.module("nodes.training"), "show_text", texts.append)
    return texts


def recipe_node(**changed: Any) -> dict[str, Any]:
    """Training Recipe with its defaults, but two steps."""
    inputs = {"what": "subject", "how": "usual", "base": "auto", "steps": 2, "learning_rate": 0.0, "rank": 0}
    return node("DEFTTrainingRecipe", **(inputs | {"layers": "auto"} | changed))


def test_the_node_trains_by_the_recipe_and_says_so(comfyui: Any, node_texts: list[str]) -> None:
    """The demo's model is of the class of SD3. Its run name comes through from Training Settings."""
    prompt = training_prompt("dreambooth", steps=300, seed=51)
    prompt["recipe"] = recipe_node(settings=["settings", 0])
    prompt["train"]["inputs"]["settings"] = ["recipe", 0]
    run = comfyui.run(prompt, want=["train"])
    record = json.loads(run.output("train").metadata["training"])
    assert (record["steps"], record["learning_rate"], record["layers"]) == (2, 2.5e-6, "everything")
    assert (record["timesteps"], record["shift"]) == ("logit-normal", 1)
    line = (
        "recipe SD3 and 3.5, subject, usual: 2 steps, learning rate 2.5e-6, layers everything, noise levels "
        "logit-normal"
    )
    before, report = node_texts[0], run.text("train")
    assert line in before
    assert line in report
    assert "the pictures have the area of 64 x 64 pixels, but the recipe SD3 and 3.5 uses 1024" in before
    assert "memory: the training needs " in before
    assert " beside the loaded model, and " in before


@pytest.mark.parametrize(("method", "rate"), [("lora", 1e-4), ("dreambooth", 2.5e-6), ("svdiff", 1e-3)])
def test_a_new_node_s_rate_follows_the_method(comfyui: Any, node_texts: list[str], method: str, rate: float) -> None:
    """A new training node has 0 there: then what is open is the recipe's, and what the node has stays."""
    (widget,) = [
        item
        for item in comfyui.module("nodes.training").DEFTTrainAdapter.define_schema().inputs
        if item.id == "learning_rate"
    ]
    prompt = training_prompt(method, steps=2, seed=61, learning_rate=widget.default)
    run = comfyui.run(prompt, want=["train"])
    record = json.loads(run.output("train").metadata["training"])
    assert (record["learning_rate"], record["timesteps"], record["steps"]) == (rate, "logit-normal", 2)
    line = f"usual for {method} with AdamW on SD3 and 3.5; noise levels logit-normal"
    assert line in node_texts[0]
    assert line in run.text("train")
    assert "WARNING" not in run.text("train")
    prompt["train"]["inputs"]["learning_rate"] = 0.001
    record = json.loads(comfyui.run(prompt, want=["train"]).output("train").metadata["training"])
    assert (record["learning_rate"], record["timesteps"]) == (0.001, "auto")


def test_the_usual_rate_of_a_base_without_a_recipe(pack: Pack) -> None:
    start = pack.settings.Settings.of("svdiff", 1, 500, 0.0, optimizer="Lion")
    made = pack.by_recipe.with_usual_rate(start, None)
    assert (made.learning_rate, made.timesteps) == (pytest.approx(2e-4), "auto")
    made = pack.by_recipe.with_usual_rate(start.changed(timesteps="uniform"), recipe_of(pack, "Flux.1 dev"))
    assert (made.timesteps, made.guidance) == ("uniform", 1)


def test_a_saved_training_settings_node_trains_the_same(comfyui: Any) -> None:
    """One as version 0.1.0 wrote it, without what came later, and one with all of it at its defaults."""
    described, every = comfyui.module("deft_ops.settings"), comfyui.module("trainers.settings.settings")
    entries = every.training_settings() | described.described(comfyui.module("trainers.settings.run").Run)
    later = {name: default for name, (setting, default) in entries.items() if setting.later}
    assert {"guidance", "gaussian_start", "shift_by_size", "lowest_noise", "highest_noise"} <= later.keys()
    prompt = training_prompt("lora", seed=53)
    assert not later.keys() & prompt["settings"]["inputs"].keys()
    before = comfyui.run(prompt, want=["train"]).output("train")
    prompt["settings"]["inputs"] |= later
    after = comfyui.run(prompt, want=["train"]).output("train")
    assert same(before, after)
    assert before.metadata["training"] == after.metadata["training"]


def test_training_previews_have_a_model_of_their_own(comfyui: Any) -> None:
    """What Apply Adapter has put on the model is there while it is trained, and not in the previews."""
    prompt = training_prompt("lora", steps=2, seed=54, learning_rate=1e-9) | sampling(["model", 0], "final")
    prompt["first"] = trainer("lora", seed=55, steps=4, learning_rate=0.3)
    prompt["helped"] = applied(["first", 0])
    prompt["train"]["inputs"] |= {"model": ["helped", 0], "previews": ["previews", 0]}
    prompt["previews"] = previews(model=["model", 0], seed=3)
    prompt["sheet"] = node("PreviewImage", images=["train", 4])
    run = comfyui.run(prompt, want=["train"])
    assert "previewed without them: apply the adapter without them" in run.text("train")
    without = run.output("train", 4)
    del prompt["previews"]["inputs"]["model"]
    with_it = comfyui.run(prompt, want=["train"]).output("train", 4)
    prompt["train"]["inputs"]["model"] = ["model", 0]
    plain = comfyui.run(prompt, want=["train"]).output("train", 4)
    assert models.relative(without, plain) < 1e-3 < 1e-2 < models.relative(with_it, plain)


def test_a_textual_inversion_takes_the_noise_levels(comfyui: Any, embeddings: Path) -> None:
    prompt = training_prompt() | {"train": inversion(steps=2, settings=["recipe", 0]), "recipe": recipe_node()}
    run = comfyui.run(prompt, want=["train"])
    report = run.output("train", 2)
    assert "recipe SD3 and 3.5, subject, usual: noise levels logit-normal" in report
    assert len(run.output("train", 1)["loss"]) == 2


def test_a_preset_beside_a_recipe_is_refused(comfyui: Any) -> None:
    prompt = training_prompt("lora", steps=2)
    prompt["settings"] = settings_node(preset="LoRA r4 (SDXL)")
    prompt["recipe"] = recipe_node(settings=["settings", 0])
    prompt["train"]["inputs"]["settings"] = ["recipe", 0]
    assert "choose one of them" in comfyui.fail(prompt, want=["train"]).message


def test_another_bases_recipe_is_refused(comfyui: Any) -> None:
    prompt = training_prompt("lora", steps=2)
    prompt["recipe"] = recipe_node(base="SDXL")
    prompt["train"]["inputs"]["settings"] = ["recipe", 0]
    assert "The recipe is for SDXL, but the model is SD3" in comfyui.fail(prompt, want=["train"]).message


def test_a_base_without_a_recipe_has_the_nodes_values(
    comfyui: Any, node_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comfyui.module("trainers.settings.recipes"), "RECIPES", ())
    prompt = training_prompt("lora", steps=3, seed=52)
    prompt["recipe"] = recipe_node()
    prompt["train"]["inputs"]["settings"] = ["recipe", 0]
    record = json.loads(comfyui.run(prompt, want=["train"]).output("train").metadata["training"])
    assert (record["steps"], record["timesteps"]) == (3, "auto")
    assert "there is no recipe for SD3" in node_texts[0]
    assert ": all settings stay as set at the nodes" in node_texts[0]
    # A rate that was left open is the usual one, and nothing else follows a recipe.
    prompt["train"]["inputs"]["learning_rate"] = 0.0
    node_texts.clear()
    run = comfyui.run(prompt, want=["train"])
    record = json.loads(run.output("train").metadata["training"])
    assert (record["steps"], record["learning_rate"], record["timesteps"]) == (3, 1e-4, "auto")
    usual = "learning rate 1e-4: usual for lora with AdamW; this base has no recipe, so noise levels stay at auto"
    for text in (node_texts[0], run.text("train")):
        assert ": all settings but the learning rate stay as set at the nodes" in text
        assert usual in text
    del prompt["train"]["inputs"]["settings"]
    prompt["train"]["inputs"]["seed"] = 53
    node_texts.clear()
    assert usual in comfyui.run(prompt, want=["train"]).text("train")
    assert "no recipe for" not in node_texts[0]


# ------------------------------------------------------------------------------------------------------------- memory


def test_too_little_memory_is_said_before_the_first_step(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.model_management

    model, texts = as_loaded(models.sd3), []
    with torch.inference_mode():
        material = pack.material.Material([models.latents(model, 2)], [models.conditioning()])
        settings_of_run = pack.settings.Settings.of("lora", 2, 1, 1e-3, layers="all linear", precision="fp32")
        pack.loop.train(model, material, settings_of_run, lambda progress: None, on_start=texts.append)
        own = comfy.model_management.get_free_memory
        monkeypatch.setattr(
            comfy.model_management,
            "get_free_memory",
            lambda *args, **named: own(*args, **named) if args[1:] or named else 1,
        )
        monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda *args, **named: None)
        pack.loop.train(model, material, settings_of_run, lambda progress: None, on_start=texts.append)
    enough, short = texts
    assert "\nmemory: the training needs " in enough
    assert "WARNING" not in enough
    assert "\nWARNING: memory: the training needs " in short
    assert "and 0.0 MiB are free: switch gradient checkpointing on, or use precision bf16" in short


# ---------------------------------------------------------------------------------------------------- training adapters


def test_previews_are_without_the_training_adapter(pack: Pack) -> None:
    """The adapter is on the model that is trained, and comes off and back on for each preview."""
    plain = as_loaded(models.sd3)
    first = train(pack, plain, steps=4, seed=5).adapter
    patched = pack.apply(first, plain, strength_model=4.0)[0]
    vae = Vae()
    alone = train(pack, patched, steps=3)
    previews = replace(shown(pack, plain, vae), model=plain)
    result = train(pack, patched, steps=3, shown=replace(previews, every=1))
    assert result.losses == alone.losses
    assert same(result.adapter, alone.adapter)
    assert "previewed without them: apply the adapter without them" in result.report
    assert "apply the adapter after the same" in alone.report
    with torch.inference_mode():
        expected = pack.previews.sample(pack.apply(result.adapter, plain)[0], previews)
        patched_too = pack.previews.sample(pack.apply(result.adapter, patched)[0], previews)
    assert models.relative(result.pictures[-1][1], expected) < 1e-4 < 1e-3 < models.relative(patched_too, expected)


def test_a_preview_of_another_model_is_refused(pack: Pack) -> None:
    model = as_loaded(models.sd3)
    previews = replace(shown(pack, model, Vae()), model=models.sd3())
    with pytest.raises(
        ValueError, match=r"another model \(SD3\) than the one that is trained \(SD3\): connect the same loader"
    ):
        train(pack, model, steps=1, shown=previews)
