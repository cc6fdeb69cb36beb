"""The demo's recipe at a tiny size: every stage goes on where it was interrupted, and ComfyUI reads what it writes."""

from __future__ import annotations

import dataclasses
import math
import random
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from deft_pack.demo.recipe import prepare, train_autoencoder, train_denoiser, train_scorers, training, vocabulary
from deft_pack.demo.recipe.training import Limits, Setup

SOME = vocabulary.TRAINED_NAMES[:20]


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Renders named like those of the package: discs of several colours."""
    folder = tmp_path_factory.mktemp("assets")
    for number, name in enumerate((*SOME, *vocabulary.HELD_OUT)):
        rng = random.Random(number)
        picture = Image.new("RGBA", (48, 48))
        ImageDraw.Draw(picture).ellipse((4, 4, 40, 30 + number % 16), fill=(*rng.choices(range(256), k=3), 255))
        point = ord(unicodedata.lookup(vocabulary.UNICODE_NAMES.get(name, name)))
        picture.save(folder / f"{point:x}.webp", lossless=True)
    return folder


@pytest.fixture
def setup(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    """Pictures of 32 px, four in a step, a checkpoint after every step, one CPU thread."""
    for module in (prepare, train_denoiser):
        monkeypatch.setattr(module, "TRAINED_NAMES", SOME)
    monkeypatch.setattr(train_scorers, "JUDGED", (*SOME, *vocabulary.HELD_OUT))
    monkeypatch.setattr(train_denoiser, "STEPS", 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    batches = dict.fromkeys(("autoencoder", "denoiser", "dino", "clip"), 4)
    yield Setup(assets, tmp_path / "work", torch.device("cpu"), 32, 2, 1, checks=4, save_every=0.0, batches=batches)
    torch.set_num_threads(threads)


STAGES: dict[str, Callable[[Setup, Limits], None]] = {
    "autoencoder": lambda setup, limits: train_autoencoder.train(setup, limits, None, full=False),
    "denoiser": lambda setup, limits: train_denoiser.train(setup, limits, None),
    "dino": train_scorers.train_dino,
    "clip": train_scorers.train_clip,
}


def autoencoder_for(setup: Setup) -> None:
    """An untrained autoencoder, for the denoiser's latents."""
    training.save_half(train_autoencoder.new_autoencoder(setup.device), setup.models / train_autoencoder.FILE)


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """End the training as Ctrl+C would, before the step."""
    seeded = training.seeded

    def broken(device: torch.device, seed: int, step: int) -> torch.Generator:
        if step == at:
            raise KeyboardInterrupt
        return seeded(device, seed, step)

    monkeypatch.setattr(training, "seeded", broken)


def weights(folder: Path) -> dict[str, Any]:
    """The bytes of every file of weights."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.safetensors"))}


@pytest.mark.parametrize(  # of four steps the first two have the full rate
    ("stage", "at"), [("autoencoder", 1), ("autoencoder", 3), ("denoiser", 3), ("dino", 1), ("clip", 3)]
)
def test_an_interrupted_stage_ends_with_the_weights_of_an_uninterrupted_one(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, stage: str, at: int
) -> None:
    other = dataclasses.replace(setup, work=setup.work.with_name("interrupted"))
    limits = Limits(hours=9, steps=4, cooldown=0.5)
    for each in (setup, other):
        if stage == "denoiser":
            autoencoder_for(each)
    STAGES[stage](dataclasses.replace(setup, save_every=math.inf), limits)  # one checkpoint, at the end
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, at)
        STAGES[stage](other, limits)
    assert torch.load(other.work / f"{stage}.checkpoint", weights_only=True)["step"] == at
    STAGES[stage](other, limits)
    assert weights(other.models) == weights(setup.models)
    files = weights(setup.models)
    STAGES[stage](setup, limits)  # finished: nothing to do
    assert weights(setup.models) == files
    if stage == "autoencoder":
        fresh = train_autoencoder.new_autoencoder(setup.device).state_dict()
        learnt = load_file(setup.models / train_autoencoder.FILE)
        assert not torch.equal(learnt["taesd_decoder.19.weight"].float(), fresh["taesd_decoder.19.weight"])


def test_latents_go_on_where_they_were_interrupted(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    autoencoder_for(setup)
    whole = np.array(train_denoiser.latents(setup))
    assert whole.shape == (20 * 12, 16, 4, 4)
    (file,) = setup.work.glob("latents*.npy")
    file.unlink()
    monkeypatch.setattr(train_denoiser, "ROWS_IN_A_PART", 3)
    rows: list[int] = []
    seeded = train_denoiser.seeded

    def broken(device: torch.device, seed: int, step: int) -> torch.Generator:
        rows.append(step)
        if len(rows) == 8:
            raise KeyboardInterrupt
        return seeded(device, seed, step)

    monkeypatch.setattr(train_denoiser, "seeded", broken)
    with pytest.raises(KeyboardInterrupt):
        train_denoiser.latents(setup)
    assert not list(setup.work.glob("latents*.npy"))
    again = np.array(train_denoiser.latents(setup))
    assert rows[8] == 6  # behind the second whole part of three
    assert np.array_equal(again, whole)


def test_comfyui_reads_the_models(setup: Setup) -> None:
    import comfy.sd
    import comfy.utils

    limits = Limits(hours=9, steps=2)
    STAGES["autoencoder"](setup, limits)
    STAGES["denoiser"](setup, limits)
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(setup.models / train_autoencoder.FILE)))
    pictures = next(train_autoencoder.check_pictures(setup)).permute(0, 2, 3, 1)
    model = comfy.sd.load_diffusion_model(str(setup.models / train_denoiser.DENOISER))
    with torch.no_grad():
        latents = vae.encode(pictures)
        assert latents.shape == (8, 16, 4, 4)
        assert vae.decode(latents).shape == pictures.shape
        seen = model.model.process_latent_in(latents)  # what the denoiser learnt from
    assert abs(float(seen.mean())) < 0.05
    assert float(seen.std()) == pytest.approx(1, abs=0.05)
    assert model.model.model_config.unet_config["depth"] == train_denoiser.DEPTH


def test_held_out_objects_are_not_learnt_from(assets: Path) -> None:
    every = prepare.every_name(assets)
    assert set(vocabulary.HELD_OUT) <= set(every)
    assert {every[row] for row in prepare.seen_names(assets)} == set(SOME)


def test_layers_on_a_colour_are_what_pillow_composes(setup: Setup) -> None:
    layer = torch.from_numpy(np.array(prepare.trained_layers(setup)[3, :1]))
    colour = torch.tensor([[214.0, 48.0, 49.0]])
    ours = prepare.on_colours(layer, colour, torch.Generator().manual_seed(1))[0].permute(1, 2, 0) * 255
    background = tuple(int(value) for value in ours[layer[0, 3] == 0][0])
    canvas = Image.new("RGBA", (32, 32), (*background, 255))
    alpha = layer[0, 3:].float()
    straight = torch.where(alpha > 0, layer[0, :3].float() * 255 / alpha.clamp(min=1), 0)
    rgba = torch.cat([straight, alpha]).round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
    canvas.alpha_composite(Image.fromarray(rgba, "RGBA"))
    assert np.abs(np.asarray(canvas.convert("RGB")).astype(float) - ours.numpy()).max() < 2.5


@pytest.mark.parametrize("reached", [True, False])
def test_the_target_ends_the_steady_part_early(setup: Setup, reached: bool) -> None:
    model, steps = torch.nn.Linear(1, 1), []

    def loss_of(generator: torch.Generator, cooling: bool) -> torch.Tensor:
        steps.append(cooling)
        return model(torch.rand(4, 1, generator=generator)).square().mean()

    training.fit(
        "tiny",
        model,
        loss_of,
        setup,
        Limits(hours=9, steps=20, target=10.0 if reached else 99.0, cooldown=0.5),
        learning_rate=1e-2,
        weight_decay=0.0,
        seed=1,
        measure=lambda average: float(len(steps)) * 2,
        measure_every=0.0,
    )
    assert steps == ([False] * 5 + [True] * 5 if reached else [False] * 10 + [True] * 10)


def test_the_rate_rises_stays_and_falls_to_nothing() -> None:
    assert training.rate(0, None, 1) == pytest.approx(1 / 200)
    assert training.rate(5000, None, 1) == 1
    assert training.rate(5000, 5000, 1000) == 1
    assert training.rate(5250, 5000, 1000) == pytest.approx(0.5)
    assert training.rate(6000, 5000, 1000) == 0
