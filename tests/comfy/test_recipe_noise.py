"""Noise levels of a training as each base's reference trainer draws them, and as they were before there were recipes.

The references are diffusers' own functions, and quantiles by hand: of s u / (1 + (s - 1) u) with u of a closed form.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import pytest
import torch
from torch import Tensor

from . import models
from .bases import BASES
from .pack import Pack
from .test_adapter_nodes import settings as settings_node
from .test_adapter_nodes import training_prompt

COUNT = 20_000
SHARES = (0.1, 0.5, 0.9)


def base(name: str) -> Any:
    """A small model of this class."""
    return next(item for item in BASES if item.name == name).model()


def drawn(pack: Pack, model: Any, side: int, file: str = "", **changed: Any) -> Tensor:
    """Shares of noise that are trained on square pictures of this side, by the recipe."""
    inner = model.model
    channels, pixels = inner.latent_format.latent_channels, inner.latent_format.spacial_downscale_ratio
    axes = [1] * (inner.latent_format.latent_dimensions - 2)
    latent = torch.zeros(1, channels, *axes, side // pixels, side // pixels)
    node_settings = pack.settings.Settings("lora", 4, 1, 1e-4).changed(**{"timesteps": "recipe"} | changed)
    chosen = pack.by_recipe.with_noise(node_settings, pack.recipes.recipe_of(inner, file))
    example = pack.batches.Example(latent, None, 0)
    sigma = pack.batches.noise_levels(inner, [example] * COUNT, models.generator(3), chosen)
    return pack.objective.share_of_noise(inner.model_sampling, sigma)


def logit_normal(share: float) -> float:
    """A quantile of the logit-normal distribution."""
    return 1 / (1 + math.exp(-NormalDist().inv_cdf(share)))


def uniform(share: float) -> float:
    """A quantile of the uniform distribution."""
    return share


def parabola(share: float) -> float:
    """A quantile of the density 2 - 7.7 (u - 0.5)^2, by summing it up."""
    steps = 20_000
    density = [2 - 7.7 * ((place + 0.5) / steps - 0.5) ** 2 for place in range(steps)]
    left = share * sum(density)
    for place, value in enumerate(density):
        left -= value
        if left <= 0:
            return (place + 1) / steps
    raise AssertionError


# The class, the side, the quantiles of u and the shift: by hand from the formulas of docs/recipes.md's sources.
REFERENCES: list[tuple[str, int, Callable[[float], float], float]] = [
    ("Flux", 1024, logit_normal, math.exp(1.15)),
    ("Flux", 512, logit_normal, math.exp(0.5 + 0.65 * (1024 - 256) / 3840)),
    ("Flux2", 1024, logit_normal, math.exp(1.15)),
    ("Flux2", 512, logit_normal, math.exp(0.5 + 0.65 * (1024 - 256) / 3840)),
    ("FluxSchnell", 1024, logit_normal, 1.0),
    ("Chroma", 1024, parabola, 1.0),
    ("SD3", 1024, logit_normal, 1.0),
    ("QwenImage", 1328, logit_normal, 2.2957),  # musubi-tuner's document says about 2.2
    ("QwenImage", 1024, logit_normal, math.exp(0.5 + 0.4 * (4096 - 256) / 7936)),
    ("ZImage", 1024, logit_normal, 2.0),
    ("Krea2", 1024, logit_normal, math.exp(0.5 + 0.65 * (4096 - 256) / 6144)),
    ("Lumina2", 1024, logit_normal, math.exp(1.15)),
    ("HiDream", 1024, logit_normal, 3.0),
    ("AuraFlow", 1024, logit_normal, 1.73),
    ("HunyuanImage21", 2048, uniform, 5.0),
    ("Omnigen2", 1024, logit_normal, math.exp(1.15)),
    ("WAN21_T2V", 1024, logit_normal, 3.0),
    ("HunyuanVideo", 512, logit_normal, 3.0),
    ("LTXV", 1024, logit_normal, math.exp(0.95)),
    ("Kandinsky5", 512, logit_normal, 5.0),
    ("Kandinsky5Image", 1024, logit_normal, 2.0),
    ("Anima", 1024, logit_normal, 1.0),
    ("CosmosT2IPredict2", 1024, logit_normal, 1.0),
]


@pytest.mark.parametrize(("name", "side", "quantile", "shift"), REFERENCES)
def test_noise_levels_are_the_references(
    pack: Pack, name: str, side: int, quantile: Callable[[float], float], shift: float
) -> None:
    levels = drawn(pack, base(name), side)
    for share in SHARES:
        u = quantile(share)
        assert float(torch.quantile(levels, share)) == pytest.approx(shift * u / (1 + (shift - 1) * u), abs=0.012)


@pytest.mark.parametrize(
    ("name", "side", "below"),
    [("Flux2", 1024, 0.125), ("WAN21_T2V", 1024, 0.136), ("LTXV", 1024, 0.171), ("Flux", 1024, 0.125)],
)
def test_details_are_trained(pack: Pack, name: str, side: int, below: float) -> None:
    """The share of steps below a noise of 0.5, which is 1 to 2 % with the shift for sampling."""
    assert float((drawn(pack, base(name), side) < 0.5).float().mean()) == pytest.approx(below, abs=0.01)


@pytest.mark.parametrize(("name", "tokens"), [("Flux", 16), ("QwenImage", 16)])
@pytest.mark.parametrize("side", [512, 1024, 1328])
def test_shifts_by_size_are_diffusers(pack: Pack, name: str, tokens: int, side: int) -> None:
    """The time shift of diffusers with the constants of the schedulers' configurations, on its logit-normal numbers."""
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.training_utils import compute_density_for_timestep_sampling

    constants = {"Flux": (4096, 0.5, 1.15), "QwenImage": (8192, 0.5, 0.9)}[name]
    most, base_shift, max_shift = constants
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="exponential")
    slope = (max_shift - base_shift) / (most - 256)
    mu = (side // tokens) ** 2 * slope + base_shift - slope * 256  # calculate_shift of its pipelines
    u = compute_density_for_timestep_sampling("logit_normal", COUNT, 0.0, 1.0, generator=models.generator(3))
    reference = scheduler.time_shift(mu, 1.0, u)
    assert torch.allclose(drawn(pack, base(name), side), reference, atol=1e-6)


def test_each_picture_has_the_shift_of_its_size(pack: Pack) -> None:
    """All are in one batch; the whole picture counts where a caption has a part of it."""
    inner = base("Flux").model
    chosen = pack.settings.Settings("lora", 4, 1, 1e-4).changed(timesteps="logit-normal", shift_by_size="Flux")
    small = pack.batches.Example(torch.zeros(1, 16, 64, 64), None, 0)
    large = pack.batches.Example(torch.zeros(1, 16, 128, 128), None, 0)
    part = pack.batches.Example(
        torch.zeros(1, 16, 64, 64), None, 0, origin=pack.batches.Origin(whole=(1, 16, 128, 128), area=(64, 64, 0, 0))
    )
    levels = pack.batches.noise_levels(inner, [small, large, part] * 500, models.generator(4), chosen)
    u = torch.sigmoid(torch.randn(1500, generator=models.generator(4)))
    shifts = torch.tensor([math.exp(0.63), math.exp(1.15), math.exp(1.15)] * 500)
    assert torch.allclose(levels, shifts * u / (1 + (shifts - 1) * u), atol=1e-5)


@pytest.mark.parametrize(
    ("file", "low", "high"), [("wan2.2_t2v_low_noise.safetensors", 0, 0.875), ("high_noise", 0.875, 1)]
)
def test_the_experts_of_wan_2_2_learn_their_noise_levels(pack: Pack, file: str, low: float, high: float) -> None:
    levels, whole = drawn(pack, base("WAN21_T2V"), 512, file), drawn(pack, base("WAN21_T2V"), 512)
    assert low <= float(levels.min()) < float(levels.max()) <= high
    inside = whole[(whole >= low) & (whole <= high)]
    assert float(levels.mean()) == pytest.approx(float(inside.mean()), abs=0.01)


@pytest.mark.parametrize("name", ["sd3", "unet"])
def test_a_range_is_in_shares_of_noise(pack: Pack, name: str) -> None:
    """The shares are of the time of a flow model, of the steps of others; together with that of a caption."""
    inner = getattr(models, name)().model
    chosen = pack.settings.Settings("lora", 4, 1, 1e-4).changed(
        timesteps="uniform", lowest_noise=0.25, highest_noise=0.75
    )
    chosen = chosen.changed(shift=1.0)
    example = pack.batches.Example(torch.zeros(1, 4, 8, 8), None, 0)
    levels = pack.batches.noise_levels(inner, [example] * 2000, models.generator(4), chosen)
    share = levels if name == "sd3" else torch.searchsorted(inner.model_sampling.sigmas, levels) / 1000
    assert torch.allclose(
        torch.quantile(share, torch.tensor([0.0, 0.5, 1.0])), torch.tensor([0.25, 0.5, 0.75]), atol=0.02
    )
    halved = pack.batches.Example(torch.zeros(1, 4, 8, 8), None, 0, levels=(0.5, 1.0))
    ranged = pack.batches.noise_levels(inner, [halved] * 200, models.generator(4), chosen)
    assert float(ranged.min()) >= float(levels.min())
    assert float(ranged.max()) <= min(float(inner.model_sampling.percent_to_sigma(0.5)), float(levels.max())) + 1e-6
    with pytest.raises(ValueError, match="lowest_noise must be below highest_noise, not 0.5 and 0.5"):
        chosen.changed(lowest_noise=0.5, highest_noise=0.5).check()


def test_what_the_user_sets_stays(pack: Pack) -> None:
    recipe = next(item for item in pack.recipes.RECIPES if item.title == "Wan 2.2 14B, low noise")
    node_settings = pack.settings.Settings("lora", 4, 1, 1e-4).changed(timesteps="recipe")
    chosen = pack.by_recipe.with_noise(node_settings.changed(shift=5.0, lowest_noise=0.5), recipe)
    assert (chosen.timesteps, chosen.shift, chosen.lowest_noise, chosen.highest_noise) == ("logit-normal", 5, 0.5, 1)
    chosen = pack.by_recipe.with_noise(node_settings.changed(shift_by_size="Flux"), recipe)
    assert (chosen.shift, chosen.shift_by_size, chosen.highest_noise) == (0, "Flux", 0.875)
    assert pack.by_recipe.with_noise(node_settings, None) == node_settings.changed(timesteps="auto")
    assert "there is no recipe for Mochi" in pack.by_recipe.noise_note(node_settings, None, "Mochi")


# ------------------------------------------------------------------------------------- workflows from before recipes


@pytest.mark.parametrize(
    ("kind", "timesteps", "shift", "expected"),
    [
        ("sd3", "auto", 0.0, [0.6483584642410278, 0.6212343573570251, 0.6319324374198914]),
        ("sd3", "auto", 2.0, [0.5514093041419983, 0.522316575050354, 0.5337115526199341]),
        ("sd3", "uniform", 0.0, [0.9361969828605652, 0.30212917923927307, 0.9671288728713989]),
        ("sd3", "mode", 3.0, [0.5615163445472717, 0.9053134918212891, 0.404843807220459]),
        ("unet", "auto", 0.0, [1.2071337699890137, 5.451791763305664, 4.411076545715332]),
        ("unet", "auto", 2.0, [8.661534309387207, 0.6274455189704895, 11.02833080291748]),
        ("unet", "uniform", 0.0, [5.87837028503418, 0.4022177457809448, 8.661534309387207]),
    ],
)
def test_auto_draws_what_it_drew(pack: Pack, kind: str, timesteps: str, shift: float, expected: list[float]) -> None:
    """The numbers of version 0.1.0 for this seed."""
    inner = getattr(models, kind)().model
    chosen = pack.settings.Settings("lora", 4, 1, 1e-4).changed(timesteps=timesteps, shift=shift)
    assert pack.by_recipe.with_noise(chosen, pack.recipes.recipe_of(inner)) is chosen
    example = pack.batches.Example(torch.zeros(1, 4, 8, 8), None, 0)
    levels = pack.batches.noise_levels(inner, [example] * 3, models.generator(5), chosen)
    assert levels.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("method", "plain", "falling"),
    [
        ("deft", "646a9542fe", "cbcb6f859f"),
        ("lora", "53e446ce55", "626228660b"),
        ("svdiff", "d5a7d35ad8", "2b93a3f852"),
    ],
)
def test_a_saved_run_is_found_again(pack: Pack, method: str, plain: str, falling: str) -> None:
    """The marks are those that version 0.1.0 gave these settings."""
    chosen = pack.settings.Settings(method, 4, 10, 1e-4)
    assert pack.trainers.settings.run.digest(chosen.identity()) == plain
    chosen = pack.settings.Settings.of(method, 4, 10, 1e-4, schedule="cosine", timesteps="auto", shift=0.0)
    assert pack.trainers.settings.run.digest(chosen.identity()) == falling


# ------------------------------------------------------------------------------------------------------ through ComfyUI


def test_a_workflow_asks_for_the_recipe(comfyui: Any) -> None:
    """What is trained is recorded as it was, and the node says whose noise levels they are."""
    prompt = training_prompt(steps=2, seed=41)
    run = comfyui.run(prompt, want=["train", "model"])
    model, before = run.output("model"), json.loads(run.output("train").metadata["training"])
    assert comfyui.module("models.source_file").name_of_file(model) == "deft_demo_denoiser.safetensors"
    assert comfyui.module("models.source_file").name_of_file(object()) == ""
    prompt["settings"] = settings_node(timesteps="recipe")
    run = comfyui.run(prompt, want=["train"])
    after = json.loads(run.output("train").metadata["training"])
    assert {name: (before[name], after[name]) for name in before if before[name] != after[name]}.keys() >= {
        "timesteps",
        "shift",
    }
    assert (before["timesteps"], before["shift"]) == ("auto", 0)
    assert (after["timesteps"], after["shift"], after["shift_by_size"]) == ("logit-normal", 1, "none")
    assert "noise levels of the recipe SD3 and 3.5: logit-normal" in run.text("train")
