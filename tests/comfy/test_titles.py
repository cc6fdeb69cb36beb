"""The names of bases in messages and reports."""

from __future__ import annotations

from typing import Any

import pytest

from . import models
from .bases import BASES
from .pack import Pack


def test_every_base_has_a_name_that_people_know(pack: Pack) -> None:
    """Each class that this pack trains or refuses has an entry, and none is how code spells it."""
    own = pack.titles._CONFIGURATIONS
    assert set(own) == pack.bases.TRAINED | set(pack.bases.REFUSED) | pack.bases.UNTRIED
    assert [title for title in own.values() if "_" in title or "BaseModel" in title] == []


@pytest.mark.parametrize(
    "make, title",
    [
        (models.unet, "SD 1.5"),
        (lambda: models.unet("sdxl"), "SDXL"),
        (models.sd3, "SD3"),
        (lambda: next(base for base in BASES if base.name == "Flux").model(), "Flux.1"),
        (lambda: next(base for base in BASES if base.name == "WAN21_T2V").model(), "Wan"),
    ],
)
def test_titles_of_models(pack: Pack, make: Any, title: str) -> None:
    assert pack.titles.title_of(make().model) == title


@pytest.mark.parametrize(
    "header, title",
    [
        ({"base_model": "BaseModel"}, "SD 1.5 or SD 2"),
        ({"base_model": "BaseModel", "ss_base_model_version": "sd_v1"}, "SD 1.5"),
        ({"base_model": "BaseModel", "ss_base_model_version": "sd_v2_v"}, "SD 2"),
        ({"base_model": "Lumina2", "ss_base_model_version": "z_image"}, "Z-Image"),
        ({"base_model": "SDXL", "ss_base_model_version": "sd_v1"}, "SDXL"),  # what the pack has written itself counts
        ({"base_model": "Flux"}, "Flux.1"),
        ({"base_model": "my own model"}, "my own model"),
        ({}, ""),
    ],
)
def test_titles_of_headers(pack: Pack, header: dict[str, str], title: str) -> None:
    assert pack.titles.recorded_title(header) == title


def test_messages_do_not_name_comfyui_s_class(pack: Pack) -> None:
    """SD 1.5 is a BaseModel in ComfyUI's code, and in the headers of files, which stay as they are."""
    model = models.unet()
    name = next(name for name, module in model.model.diffusion_model.named_modules() if name.endswith("attn1.to_q"))
    weight = model.model.diffusion_model.get_submodule(name).weight
    base_hash = pack.fingerprint.fingerprint(models.unet(seed=1))
    header = {"base_hash": base_hash, "base_model": type(model.model).__name__}
    assert header["base_model"] == "BaseModel"
    adapter = pack.adapter(model, [], shapes={f"diffusion_model.{name}": tuple(weight.shape)}, metadata=header)
    note = pack.fingerprint.base_note(adapter, model)
    assert "another base (SD 1.5 or SD 2): the weights of the connected SD 1.5 are unrelated" in note
    inspected = pack.inspect(adapter, model).text()
    assert "weights of SD 1.5" in inspected
    assert "base_model: BaseModel" in inspected  # the record, as it stands in the file
