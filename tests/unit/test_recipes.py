"""The recipes: one for every base or the reason why not, values that exist, and the page that shows them."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from deft_pack.trainers.settings import recipes
from deft_pack.trainers.settings.formulas import SHIFTS, TIMESTEPS
from deft_pack.trainers.settings.schedules import SCHEDULES
from deft_pack.trainers.step import bases

from ..scripts import load_script

TITLES = {recipe.title: recipe for recipe in recipes.RECIPES}


def model_of(name: str, **config: Any) -> Any:
    """What is asked of a ComfyUI model: a configuration of this class of comfy.supported_models."""
    kind = type(name, (), {"__module__": "comfy.supported_models", "unet_config": config})
    return SimpleNamespace(model_config=kind())


def test_every_base_has_a_recipe_or_says_why_not() -> None:
    with_recipe = {name for recipe in recipes.RECIPES for name in recipe.classes}
    assert with_recipe | set(recipes.LACKING) == bases.TRAINED | bases.UNTRIED
    assert not with_recipe & set(recipes.LACKING)


@pytest.mark.parametrize("title", TITLES)
def test_a_recipe_names_what_there_is(title: str) -> None:
    recipe = TITLES[title]
    assert recipe.noise.distribution in set(TIMESTEPS) - {"auto", "recipe"}
    assert recipe.noise.by_size in {"", *SHIFTS}
    assert recipe.schedule in SCHEDULES
    assert all(side % recipe.multiple == 0 for side in recipe.sides) or title == "Wan 2.1"  # whose 632 is an area
    assert bool(recipe.warning) == bool(recipe.distilled)
    for pattern in (recipe.file, recipe.distilled):
        re.compile(pattern)


def test_a_value_without_a_source_is_refused() -> None:
    values = {name: value for name, value in vars(TITLES["Flux.1 dev"]).items() if name != "sources"}
    sources = dict(TITLES["Flux.1 dev"].sources)
    recipes.Recipe(**values, sources=sources)
    del sources["guidance"]
    with pytest.raises(AssertionError, match="guidance"):
        recipes.Recipe(**values, sources=sources)


@pytest.mark.parametrize(
    ("name", "config", "file", "title"),
    [
        ("SD15", {}, "", "SD 1.5"),
        ("SSD1B", {}, "", "SDXL"),
        ("Flux", {"guidance_embed": True}, "flux1-dev.safetensors", "Flux.1 dev"),
        ("Flux", {"guidance_embed": True}, "flux1-dev-KONTEXT_fp8_scaled.safetensors", "Flux.1 Kontext"),
        ("FluxInpaint", {}, "", "Flux.1 Fill"),
        ("Flux2", {"hidden_size": 6144}, "", "Flux.2 dev"),
        ("Flux2", {"hidden_size": 4096}, "", "Flux.2 klein 9B"),
        ("Flux2", {"hidden_size": 3072}, "", "Flux.2 klein 4B"),
        ("QwenImage", {}, "", "Qwen-Image"),
        ("QwenImage", {"default_ref_method": "index_timestep_zero"}, "", "Qwen-Image Edit"),
        ("QwenImage", {}, "qwen_image_edit_2509_fp8_e4m3fn.safetensors", "Qwen-Image Edit"),
        ("QwenImage", {}, "qwen_image_fp8_e4m3fn.safetensors", "Qwen-Image"),
        ("ZImage", {}, "z_image_bf16.safetensors", "Z-Image"),
        ("ZImage", {}, "z_image_turbo_bf16.safetensors", "Z-Image Turbo"),
        ("ZImage", {}, "z_image_de_turbo_v1_bf16.safetensors", "Z-Image"),
        ("WAN21_T2V", {}, "wan2.1_t2v_14B_fp16.safetensors", "Wan 2.1"),
        ("WAN21_T2V", {}, "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors", "Wan 2.2 14B, low noise"),
        ("WAN21_I2V", {}, "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors", "Wan 2.2 14B, high noise"),
        ("Krea2", {}, "krea2_raw.safetensors", "Krea 2 RAW"),
        ("Krea2", {}, "krea2_turbo.safetensors", "Krea 2 Turbo"),
    ],
)
def test_a_recipe_is_found_from_the_model(name: str, config: dict[str, Any], file: str, title: str) -> None:
    recipe = recipes.recipe_of(model_of(name, **config), file)
    assert recipe is not None
    assert recipe.title == title


def test_a_base_without_a_recipe_has_none() -> None:
    assert recipes.recipe_of(model_of("GenmoMochi")) is None
    assert recipes.recipe_of(model_of("OfAnotherPack")) is None


def test_the_user_says_which_base_it_is() -> None:
    recipe = recipes.recipe_of(model_of("Flux"), "mine.safetensors", "Flux.1 Kontext")
    assert recipe is not None
    assert recipe.title == "Flux.1 Kontext"
    with pytest.raises(ValueError, match=r"is for SDXL, but the model is Flux\.1: choose auto, Flux\.1 Kontext, "):
        recipes.recipe_of(model_of("Flux"), "", "SDXL")
    with pytest.raises(ValueError, match="no recipe for 'Flux.3': choose one of auto, SD 1.5"):
        recipes.recipe_of(model_of("Flux"), "", "Flux.3")


@pytest.mark.parametrize(
    ("title", "file", "distilled"),
    [
        ("Flux.1 schnell", "", True),
        ("Z-Image Turbo", "", True),
        ("Z-Image", "z_image_bf16.safetensors", False),
        ("Flux.2 klein 4B", "flux-2-klein-4b.safetensors", True),
        ("Flux.2 klein 4B", "flux-2-klein-base-4b.safetensors", False),
        ("Flux.2 klein 4B", "", False),  # nothing says so
        ("SDXL", "sdxl_lightning_4step.safetensors", True),
        ("SDXL", "sd_xl_base_1.0.safetensors", False),
        ("HiDream I1 Full", "hidream_i1_dev_bf16.safetensors", True),
        ("HiDream I1 Full", "hidream_i1_full_fp16.safetensors", False),
        ("SD 1.5", "turbo", False),
    ],
)
def test_distilled_bases_are_warned_of(title: str, file: str, distilled: bool) -> None:
    assert bool(recipes.warning_of(TITLES[title], file)) == distilled


def test_the_page_shows_the_recipes() -> None:
    """docs/recipes.md is what the script makes of them."""
    script = load_script("make_recipes")
    text = script.RECIPES_PAGE.read_text(encoding="utf-8")
    assert script.page(text, recipes, SHIFTS) == text, "make generated PARTS=recipes"
    for recipe in recipes.RECIPES:
        assert text.count(f"\n### {recipe.title}\n") == 1
    assert "{" not in text


def test_the_script_reads_the_recipes_without_comfyui() -> None:
    script = load_script("make_recipes")
    made, shifts = script.load()
    assert [recipe.title for recipe in made.RECIPES] == list(TITLES)
    assert list(shifts) == list(SHIFTS)
