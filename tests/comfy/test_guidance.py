"""Guidance as an input of networks: what is seen of it in a training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .bases import BASES
from .pack import Pack

# What ComfyUI gives where nobody says otherwise.
NETWORKS = [("Flux", 3.5), ("Flux2", 3.5), ("HunyuanVideo", 6.0), ("Chroma", 0.0)]


def seen(pack: Pack, name: str, captions: list[list], empty: list | None = None, **chosen: Any) -> list[float]:
    """The guidance that the network is shown with each caption, and with the stand-in if there is one."""
    base = next(item for item in BASES if item.name == name)
    model = base.model()
    settings = pack.settings.Settings("lora", 4, 1, 1e-4).changed(layers="all linear", precision="fp32", **chosen)
    settings.check()
    with torch.inference_mode(False), torch.enable_grad():
        material = pack.material.Material([base.latents(len(captions))], captions, empty=[empty] if empty else ())
        data = pack.material.Dataset(model.model, material, settings)
        trainer = pack.trainer.Trainer(model, settings, data)
        shape = tuple(data.examples[0].latent.shape)
        conds = [trainer.captions.conds(place, shape) for place in range(len(data.entries))]
    return [float(cond["guidance"].cond) for cond in conds]


def caption(name: str, seed: int = 1, **extras: Any) -> list:
    """A caption without a guidance, or with one."""
    base = next(item for item in BASES if item.name == name)
    (entry,) = base.conditioning(seed)
    values = {key: value for key, value in entry[1].items() if key != "guidance"}
    return [[entry[0], values | extras]]


@pytest.mark.parametrize(("name", "own"), NETWORKS)
def test_the_guidance_of_the_settings(pack: Pack, name: str, own: float) -> None:
    assert seen(pack, name, [caption(name)]) == [own]
    assert seen(pack, name, [caption(name)], guidance=1.0) == [1.0]
    assert seen(pack, name, [caption(name)], guidance=0.0) == [0.0]


def test_a_caption_s_own_guidance_goes_before(pack: Pack) -> None:
    captions = [caption("Flux", guidance=2.5), caption("Flux", 2)]
    assert seen(pack, "Flux", captions, caption("Flux", 3), guidance=1.0, caption_dropout=0.5) == [2.5, 1.0, 1.0]


def test_the_report_has_the_guidance(pack: Pack) -> None:
    base = next(item for item in BASES if item.name == "Flux")
    settings = pack.settings.Settings("lora", 4, 1, 1e-4).changed(guidance=1.0)
    material = pack.material.Material([base.latents(1)], [caption("Flux")])
    assert "guidance of caption 1: 1" in pack.material.Dataset(base.model().model, material, settings).notes


def test_a_guidance_below_that_of_none_is_refused(pack: Pack) -> None:
    with pytest.raises(ValueError, match="guidance must be from -1"):
        pack.settings.Settings("lora", 4, 1, 1e-4).changed(guidance=-2.0).check()
