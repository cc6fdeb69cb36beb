"""What captions and latents carry beside texts and pictures: used as ComfyUI's sampler uses it, or refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from . import models
from .pack import Pack
from .test_training import as_loaded, settings, train

SDXL_SIZES = ("width", "height", "crop_w", "crop_h", "target_width", "target_height")


def inpaint() -> Any:
    """A small UNet that also sees a mask and the picture without what the mask covers."""
    own = dict(models.SD15_CONFIG)
    models.SD15_CONFIG["in_channels"] = 9
    try:
        model = models.unet()
    finally:
        models.SD15_CONFIG.update(own)
    model.model.set_inpaint()
    return model


MAKE: dict[str, Callable[[], Any]] = {
    "sd15": models.unet,
    "sdxl": lambda: models.unet("sdxl"),
    "sd3": models.sd3,
    "inpaint": inpaint,
}


def caption(seed: int = 2, **extras: Any) -> list:
    """A CONDITIONING of one caption with these extras."""
    ((text, own),) = models.conditioning(seed)
    return [[text, own | extras]]


def rows(*captions: list) -> list:
    """A CONDITIONING of one entry, whose tensors are batches: a row for each caption."""
    entries = [entry for conditioning in captions for entry in conditioning]
    extras = {key: torch.cat([own[key] for _, own in entries]) for key in entries[0][1]}
    return [[torch.cat([text for text, _ in entries]), extras]]


def losses(pack: Pack, kind: str, latents: list, captions: list, steps: int = 4, **chosen: Any) -> list[float]:
    """The losses of a training on a new model of this kind."""
    return train(pack, as_loaded(MAKE[kind]), latents, captions, steps=steps, **chosen).losses


def trained(pack: Pack, model: Any, latents: list, captions: list, steps: int = 4, **others: Any) -> Any:
    """The result of a training with other material beside, from a node's inference mode."""
    chosen = {key: others.pop(key) for key in ("caption_dropout", "batch_size", "layers") if key in others}
    with torch.inference_mode():
        material = pack.material.Material(latents, captions, **others)
        return pack.loop.train(model, material, settings(pack, steps=steps, **chosen), lambda progress: None)


def dataset(pack: Pack, model: Any, latents: list, captions: list, dropout: float = 0.0, **others: Any) -> Any:
    material = pack.material.Material(latents, captions, **others)
    return pack.material.Dataset(model.model, material, settings(pack, caption_dropout=dropout))


def resolved(model: Any, conditioning: list, latent: Tensor) -> list[dict[str, Any]]:
    """A CONDITIONING as ComfyUI's sampler prepares it for latents [n, c, ...]."""
    import comfy.sampler_helpers
    import comfy.samplers

    conds = {"positive": comfy.sampler_helpers.convert_cond(conditioning)}
    return comfy.samplers.process_conds(model.model, latent, conds, models.CPU, latent_image=latent)["positive"]


def shown(cond: dict[str, Any], latent: Tensor, sigma: float) -> Any:
    """What ComfyUI's sampler shows the network of a caption at a noise level; None if nothing."""
    import comfy.samplers

    return comfy.samplers.get_area_and_mult(cond, latent, torch.full((len(latent),), sigma))


# ------------------------------------------------------------------------------------------------------ rows of a batch


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3"])
def test_rows_of_a_batch_are_captions_one_a_picture(pack: Pack, kind: str) -> None:
    model = MAKE[kind]()
    latents = [models.latents(model, 3)]
    one, two, three, four = (caption(seed) for seed in (20, 30, 40, 50))
    batched = losses(pack, kind, latents, [rows(one, two, three)], batch_size=2)
    assert batched == losses(pack, kind, latents, [one, two, three], batch_size=2)
    assert batched != losses(pack, kind, latents, [rows(one, two, four)], batch_size=2)


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "inpaint"])
def test_row_i_is_what_the_sampler_gives_to_picture_i(pack: Pack, kind: str) -> None:
    model = MAKE[kind]()
    latents = models.latents(model, 3)
    extras = (
        {
            "concat_latent_image": models.random(3, 4, 8, 8, seed=9),
            "concat_mask": torch.rand(3, 1, 64, 64, generator=models.generator(4)),
        }
        if kind == "inpaint"
        else {}
    )
    given = rows(*(caption(seed) for seed in (20, 30, 40)))
    given[0][1].update(extras)
    (cond,) = resolved(model, given, latents["samples"])
    sampled = shown(cond, latents["samples"], 0.5).conditioning
    made = dataset(pack, model, [latents], [given])
    captions = pack.batches.Captions(model.model, made.entries, models.CPU)
    for place, example in enumerate(made.examples):
        conds = captions.conds(example.caption, tuple(example.latent.shape), example.origin)
        assert conds.keys() == sampled.keys()
        assert len(conds) > 1
        assert all(torch.equal(conds[name].cond[0], sampled[name].cond[place]) for name in conds)


def test_pictures_beside_one_text_are_rows_too(pack: Pack) -> None:
    """InpaintModelConditioning makes such captions of a batch of pictures."""
    latents = [models.latents(inpaint(), 2)]
    images = models.random(2, 4, 8, 8, seed=9)
    masks = torch.zeros(2, 1, 64, 64)
    masks[0, ..., :32], masks[1, ..., 20:] = 1, 1
    both = caption(concat_latent_image=images, concat_mask=masks)
    each = [caption(concat_latent_image=images[i : i + 1], concat_mask=masks[i : i + 1]) for i in range(2)]
    in_one = losses(pack, "inpaint", latents, [both])
    assert in_one == losses(pack, "inpaint", latents, each) != losses(pack, "inpaint", latents, [each[0]])


def test_lists_and_what_is_one_row_go_to_each_caption(pack: Pack) -> None:
    shared, own, ids = models.random(1, 4, 6, 6, seed=1), models.random(2, 4, 6, 6, seed=2), torch.arange(2)
    (entry,) = rows(caption(20), caption(30))
    entry[1] |= {"reference_latents": [shared, own], "guidance": 2.5, "ids": ids, "attention_mask": torch.eye(2)}
    first, second = pack.captions.gather_conditioning([[entry]])
    for place, (text, extras) in enumerate((first, second)):
        assert torch.equal(text, entry[0][place : place + 1])
        assert extras["guidance"] == 2.5
        assert extras["ids"] is ids
        assert torch.equal(extras["attention_mask"], torch.eye(2)[place : place + 1])
        assert extras["reference_latents"][0] is shared
        assert torch.equal(extras["reference_latents"][1], own[place : place + 1])
    plain = caption(20)
    assert pack.captions.gather_conditioning([plain])[0] is plain[0]
    with pytest.raises(ValueError, match="The reference of caption 1 is a batch of 3 pictures"):
        pack.captions.gather_conditioning([caption(reference_latents=[models.random(3, 4, 6, 6, seed=1)])])
    with pytest.raises(ValueError, match="The pooled_output of caption 1 has 2 rows, but the rest of it has 3"):
        pack.captions.gather_conditioning([[[torch.zeros(3, 7, 48), {"pooled_output": torch.zeros(2, 32)}]]])


def test_rows_are_counted_for_every_input(pack: Pack) -> None:
    model = models.sd3()
    latents, two = [models.latents(model, 3)], rows(caption(20), caption(30))
    with pytest.raises(ValueError, match="There are 2 captions for 3 pictures"):
        dataset(pack, model, latents, [two])
    with pytest.raises(ValueError, match="There are 2 captions for 3 prior pictures"):
        dataset(pack, model, latents, [caption()], prior_latents=latents, prior_captions=[two])
    with pytest.raises(ValueError, match="There are 2 empty captions for 3 pictures"):
        dataset(pack, model, latents, [caption()], dropout=0.1, empty=[two])


def test_prior_and_empty_captions_have_rows_too(pack: Pack) -> None:
    model = as_loaded(models.sd3)
    latents, other = [models.latents(model, 2)], [models.latents(model, 2, seed=9)]
    first, second, third, fourth = (caption(seed) for seed in (20, 30, 40, 50))
    batched, listed = (
        trained(pack, model, latents, [first], prior_latents=other, prior_captions=prior).losses
        for prior in ([rows(second, third)], [second, third])
    )
    assert batched == listed
    # With all captions dropped, each picture is trained with its empty one.
    dropped = trained(pack, model, latents, [fourth], empty=[rows(second, third)], caption_dropout=1.0).losses
    same = trained(pack, model, latents, [second, third], empty=[rows(second, third)], caption_dropout=1.0).losses
    one = trained(pack, model, latents, [fourth], empty=[second], caption_dropout=1.0).losses
    assert dropped == same != one


# ---------------------------------------------------------------------------------------------------- part of a picture


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
@pytest.mark.parametrize("area", [(6, 4, 2, 4), (99, 4, 2, 4), ("percentage", 0.75, 0.5, 0.25, 0.5)], ids=str)
def test_an_area_is_trained_as_that_part_alone(pack: Pack, kind: str, area: tuple) -> None:
    latent = models.latents(MAKE[kind](), 2)
    mask = torch.rand(2, 64, 64, generator=models.generator(3))
    part = {"samples": latent["samples"][..., 2:8, 4:8], "noise_mask": mask[:, 16:64, 32:64]}
    of_area = losses(pack, kind, [latent | {"noise_mask": mask}], [caption(area=area, strength=1.0)])
    assert of_area == pytest.approx(losses(pack, kind, [part], [caption()]), rel=1e-6)
    assert of_area != pytest.approx(losses(pack, kind, [latent | {"noise_mask": mask}], [caption()]), rel=1e-2)


@pytest.mark.parametrize("kind", ["sdxl", "inpaint"])
def test_an_area_is_shown_to_the_network_as_by_the_sampler(pack: Pack, kind: str) -> None:
    """The network gets the sizes of the whole picture (SDXL), and a part where it is a picture (inpainting)."""
    model = MAKE[kind]()
    latents = {"samples": models.random(1, 4, 8, 12, seed=5)}
    given = caption(
        area=("percentage", 0.5, 0.5, 0.25, 0.25),
        strength=1.0,
        concat_latent_image=models.random(1, 4, 8, 12, seed=9),
        concat_mask=torch.rand(1, 1, 64, 96, generator=models.generator(4)),
    )
    (cond,) = resolved(model, given, latents["samples"])
    sampled = shown(cond, model.model.process_latent_in(latents["samples"]), 0.5)
    (example,) = (made := dataset(pack, model, [latents], [given])).examples
    assert torch.equal(example.latent, sampled.input_x)
    assert example.latent.shape[2:] == (4, 6)
    captions = pack.batches.Captions(model.model, made.entries, models.CPU)
    conds = captions.conds(0, tuple(example.latent.shape), example.origin)
    assert conds.keys() == sampled.conditioning.keys()
    assert len(conds) == 2
    assert all(torch.equal(conds[name].cond, sampled.conditioning[name].cond) for name in conds)


def test_areas_of_each_caption(pack: Pack) -> None:
    model = models.sd3()
    latents = models.latents(model, 2)
    made = dataset(pack, model, [latents], [caption(20, area=(4, 6, 0, 2)), caption(30)])
    assert [tuple(example.latent.shape[2:]) for example in made.examples] == [(4, 6), (8, 8)]
    assert made.notes == ["2 captions, one for each picture", "captions: 1 of 2 has an area, which alone is trained"]
    result = train(pack, as_loaded(models.sd3), [latents], [caption(20, area=(4, 6, 0, 2)), caption(30)], steps=2)
    assert "2 pictures, 2 sizes\n2 captions, one for each picture\n" in result.report


@pytest.mark.parametrize(
    "area", [(4, 4, 8, 0), (4, 4, 0, 9), (0, 4, 0, 0), (4, 4, -1, 0), ("percentage", 0.5, 0.5, 1.0, 0.0)], ids=str
)
def test_an_area_outside_of_the_latent(pack: Pack, area: tuple) -> None:
    model = models.sd3()
    with pytest.raises(ValueError, match="The area of caption 1 lies outside of picture 1, whose latent is 8 x 8"):
        dataset(pack, model, [models.latents(model, 1)], [caption(area=area)])


def test_the_area_of_a_video(pack: Pack) -> None:
    from .architectures import comfyui_wan

    model = comfyui_wan(False)
    latents = {"samples": models.random(1, 16, 3, 8, 8, seed=1)}
    shapes = {
        (4, 4, 2, 2): (3, 4, 4),
        ("percentage", 0.5, 0.5, 0.25, 0.25): (3, 4, 4),
        ("percentage", 0.4, 0.5, 0.5, 0.7, 0.0, 0.0): (1, 4, 4),
    }  # the last with frames
    for area, shape in shapes.items():
        (example,) = dataset(pack, model, [latents], [caption(area=area)]).examples
        assert tuple(example.latent.shape[2:]) == shape
    # frames of an area mean nothing to pictures
    (example,) = dataset(
        pack,
        models.sd3(),
        [models.latents(models.sd3(), 1)],
        [caption(area=("percentage", 0.4, 0.5, 0.75, 0.7, 0.0, 0.25))],
    ).examples
    assert tuple(example.latent.shape[2:]) == (4, 6)
    assert example.origin.area == (4, 6, 0, 2)
    # a single picture has one frame
    (example,) = dataset(pack, model, [models.latents(model)], [caption(area=(4, 6, 0, 0))]).examples
    assert tuple(example.latent.shape[2:]) == (1, 4, 6)


# ---------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_the_mask_of_a_caption_is_one_of_the_loss(pack: Pack, kind: str) -> None:
    import nodes

    latent = models.latents(MAKE[kind](), 2)
    mask, own = (torch.rand(2, 64, 64, generator=models.generator(seed)) for seed in (3, 4))

    def on_caption(value: Tensor, strength: float = 1.0) -> list:
        return nodes.ConditioningSetMask().append(rows(caption(20), caption(30)), value, "default", strength)[0]

    masked = losses(pack, kind, [latent], [on_caption(mask)])
    assert masked == losses(pack, kind, [latent | {"noise_mask": mask}], [caption(20), caption(30)])
    assert masked != losses(pack, kind, [latent], [caption(20), caption(30)])
    # One mask for all pictures, as the node makes it of [h, w], and with the latent's own mask: both count.
    half = torch.zeros(64, 64)
    half[:, :32] = 1
    both = losses(pack, kind, [latent | {"noise_mask": own}], [on_caption(half)])
    assert both == losses(pack, kind, [latent | {"noise_mask": own * half}], [caption(20), caption(30)])
    assert losses(pack, kind, [latent], [on_caption(mask, 0.5)])[0] == pytest.approx(0.5 * masked[0], rel=1e-6)


def test_bounds_of_a_mask_are_an_area(pack: Pack) -> None:
    model = models.unet()
    latents = {"samples": models.random(1, 4, 24, 24, seed=2)}
    mask = torch.zeros(1, 192, 192)
    mask[:, 40:160, 80:176] = 1
    given = caption(mask=mask, mask_strength=1.0, set_area_to_bounds=True)
    (cond,) = resolved(model, given, latents["samples"])
    sampled = shown(cond, latents["samples"], 0.5)
    (example,) = dataset(pack, model, [latents], [given]).examples
    assert example.latent.shape == sampled.input_x.shape == (1, 4, 15, 12)
    (other,) = dataset(pack, model, [latents], [caption(area=(15, 12, 5, 10), mask=mask)]).examples
    assert torch.equal(example.latent, other.latent)
    assert torch.equal(example.mask, other.mask)
    assert example.mask.all()


def test_masks_that_leave_nothing(pack: Pack) -> None:
    model = models.sd3()
    left, right = torch.zeros(1, 64, 64), torch.zeros(1, 64, 64)
    left[..., :32], right[..., 32:] = 1, 1
    latents = models.latents(model, 1)
    with pytest.raises(ValueError, match="The mask of caption 1 is empty"):
        dataset(pack, model, [latents], [caption(mask=torch.zeros(1, 64, 64))])
    with pytest.raises(ValueError, match="The mask of caption 1 leaves nothing of the mask of picture 1"):
        dataset(pack, model, [latents | {"noise_mask": left}], [caption(mask=right)])
    with pytest.raises(ValueError, match="The area of caption 1 and the masks leave nothing of picture 1"):
        dataset(pack, model, [latents], [caption(mask=right, area=(8, 4, 0, 0))])


# ------------------------------------------------------------------------------------------------- ranges and strengths


def seen_levels(pack: Pack, model: Any, captions: list, steps: int = 12, **chosen: Any) -> list[tuple[int, float]]:
    """The places of captions and the noise levels of a training."""
    import comfy.model_management

    levels: list[tuple[int, float]] = []
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])
        with torch.inference_mode(False), torch.enable_grad():
            made = dataset(pack, model, [models.latents(model, 2)], captions)
            trainer = pack.trainer.Trainer(model, settings(pack, batch_size=2, **chosen), made)
            own = trainer.loss

            def loss(examples: Any, noise: Tensor, sigma: Tensor, conds: Any) -> Tensor:
                levels.extend((example.caption, float(level)) for example, level in zip(examples, sigma, strict=True))
                return own(examples, noise, sigma, conds)

            trainer.loss = loss
            with trainer.prepared():
                for _ in range(steps):
                    trainer.take_step()
    return levels


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
@pytest.mark.parametrize("timesteps", ["auto", "uniform"])
def test_noise_levels_are_those_of_the_captions_range(pack: Pack, kind: str, timesteps: str) -> None:
    import nodes

    model = as_loaded(MAKE[kind])
    ranged = nodes.ConditioningSetTimestepRange().set_range(caption(20), 0.3, 0.6)[0]
    levels = seen_levels(pack, model, [ranged, caption(30)], timesteps=timesteps)
    (cond,) = resolved(model, ranged, models.latents(model)["samples"])
    latent = torch.zeros(1, models.channels(model), 8, 8)
    inside = {
        place: [shown(cond, latent, level) is not None for own, level in levels if own == place] for place in (0, 1)
    }
    assert all(inside[0])
    assert len(inside[0]) == 12
    assert not all(inside[1])


def test_a_shifted_models_range_is_its_own(pack: Pack) -> None:
    """The range is of the sampling of the model as it is patched, which a base without the patch does not have."""
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    model = as_loaded(lambda: ModelSamplingSD3().patch(models.sd3(), 9.0)[0])
    levels = [level for _, level in seen_levels(pack, model, [caption(20, start_percent=0.8, end_percent=1.0)])]
    top = 9 * 0.2 / (1 + 8 * 0.2)
    assert min(levels) > 0
    assert 0.5 < max(levels) <= top + 1e-6


def test_a_whole_range_is_none(pack: Pack) -> None:
    latents = [models.latents(models.sd3(), 2)]
    plain = losses(pack, "sd3", latents, [caption()])
    assert plain == losses(pack, "sd3", latents, [caption(start_percent=0.0, end_percent=1.0, strength=1.0)])
    assert plain != losses(pack, "sd3", latents, [caption(start_percent=0.5, end_percent=1.0)])


def test_ranges_that_are_empty(pack: Pack) -> None:
    model = models.sd3()
    latents = [models.latents(model, 1)]
    for given in (
        {"start_percent": 0.6, "end_percent": 0.6},
        {"start_percent": 0.7, "end_percent": 0.2},
        {"start_percent": 1.0},
        {"end_percent": 0.0},
        {"end_percent": 0.3, "clip_start_percent": 0.3, "clip_end_percent": 1.0},
    ):
        with pytest.raises(ValueError, match="The timestep range of caption 1 is empty"):
            dataset(pack, model, latents, [caption(**given)])
    with pytest.raises(ValueError, match="Almost none of the trained noise levels are between .* the timestep range"):
        losses(pack, "sd15", [models.latents(models.unet(), 1)], [caption(start_percent=0.5, end_percent=0.50001)])


def test_strength_is_the_weight_of_a_pictures_loss(pack: Pack) -> None:
    latents = [models.latents(models.sd3(), 2)]

    def first(*strengths: float) -> float:
        given = [caption(20 + place, strength=strength) for place, strength in enumerate(strengths)]
        return losses(pack, "sd3", latents, given, steps=1, batch_size=2)[0]

    assert first(0.5, 0.5) == pytest.approx(0.5 * first(1, 1), rel=1e-6)
    assert first(3, 0) + first(0, 1) == pytest.approx(first(3, 1), rel=1e-6)
    with pytest.raises(ValueError, match="Every caption has strength 0"):
        first(0, 0)
    with pytest.raises(ValueError, match="The strength of caption 2 is -1: it must be 0 or more"):
        first(1, -1)


# -------------------------------------------------------------------------------------------------------------- refused


def refused(name: str) -> dict[str, Any]:
    import comfy.hooks

    group = comfy.hooks.HookGroup()
    group.add(comfy.hooks.WeightHook())
    return {
        "control": {"control": object(), "control_apply_to_uncond": True},
        "hooks": {"hooks": group},
        "gligen": {"gligen": ("position", object(), [])},
        "default": {"default": True},
    }[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "control",
            "Caption 2 has a ControlNet, which cannot be used in a training: connect the caption to the trainer before "
            "Apply ControlNet",
        ),
        ("hooks", "Caption 2 has hooks"),
        ("gligen", "Caption 2 has GLIGEN boxes"),
        ("default", "Caption 2 has the mark of a default"),
    ],
)
def test_what_changes_the_model_is_refused(pack: Pack, name: str, message: str) -> None:
    model = models.sd3()
    latents, other = [models.latents(model, 2)], caption(30, **refused(name))
    with pytest.raises(ValueError, match=message):
        dataset(pack, model, latents, [caption(), other])
    with pytest.raises(ValueError, match=message.replace("Caption 2", "Prior caption 1")):
        dataset(pack, model, latents, [caption()], prior_latents=latents, prior_captions=[other])
    with pytest.raises(ValueError, match=message.replace("Caption 2", "Empty caption 1")):
        dataset(pack, model, latents, [caption()], dropout=0.1, empty=[other])


def test_hooks_that_are_none_are_no_hooks(pack: Pack) -> None:
    import comfy.hooks

    model = models.sd3()
    given = [caption(hooks=comfy.hooks.HookGroup(), control=None, default=False)]
    assert len(dataset(pack, model, [models.latents(model, 1)], given).examples) == 1


@pytest.mark.parametrize(
    "extras",
    [
        {"area": (4, 4, 0, 0)},
        {"mask": torch.ones(1, 64, 64)},
        {"strength": 0.5},
        {"start_percent": 0.5, "end_percent": 1.0},
    ],
    ids=lambda value: next(iter(value)),
)
def test_an_empty_caption_has_no_place_of_its_own(pack: Pack, extras: dict) -> None:
    model = models.sd3()
    with pytest.raises(ValueError, match="The empty caption has its own "):
        dataset(pack, model, [models.latents(model, 1)], [caption()], dropout=0.1, empty=[caption(90, **extras)])


# ---------------------------------------------------------------------------------------------------------------- notes


def test_what_is_used_is_said(pack: Pack) -> None:
    model = models.sd3()
    mask = torch.ones(1, 64, 64)
    given = [
        caption(20, start_percent=0.25, end_percent=1.0),
        caption(30, mask=mask, strength=0.5),
        caption(40, strength=0.5),
    ]
    result = train(pack, as_loaded(models.sd3), [models.latents(model, 3)], given, steps=2)
    lines = [
        "3 captions, one for each picture",
        "captions: 1 of 3 has a mask",
        "timestep range of caption 1: 25 % to 100 % of the sampling",
        "strength of caption 2, 3: 0.5",
    ]
    assert "\n".join(lines) in result.report
    many = [caption(seed, strength=0.1 * seed) for seed in range(1, 7)]
    made = dataset(
        pack,
        model,
        [models.latents(model, 6)],
        [rows(*(caption(seed) for seed in range(6)))],
        prior_latents=[models.latents(model, 6)],
        prior_captions=many,
    )
    assert made.notes == [
        "6 captions, rows of a batch, one for each picture",
        "6 prior captions, one for each picture",
        "prior captions: 6 of 6 have a strength",
    ]
    assert dataset(pack, model, [models.latents(model, 3)], [caption()]).notes == []


# --------------------------------------------------------------------------------------------------------- SDXL's sizes


def sizes(*values: int) -> dict[str, int]:
    return dict(zip(SDXL_SIZES, values, strict=True))


def embedded(model: Any, pooled: Tensor, *values: int) -> Tensor:
    """SDXL's vector for width, height, crop left and top, target width and height: written out after its paper."""
    width, height, left, top, wide, high = values
    frequencies = torch.exp(-math.log(10000) * torch.arange(128) / 128)
    numbers = torch.tensor([height, width, top, left, high, wide], dtype=torch.float32)
    angles = numbers[:, None] * frequencies
    return torch.cat([pooled, torch.cat([angles.cos(), angles.sin()], 1).reshape(1, -1)], 1)


def size_vectors(pack: Pack, model: Any, latents: list, captions: list) -> list[Tensor]:
    """The vectors that SDXL gets for each picture."""
    made = dataset(pack, model, latents, captions)
    prepared = pack.batches.Captions(model.model, made.entries, models.CPU)
    return [
        prepared.conds(example.caption, tuple(example.latent.shape), example.origin)["y"].cond
        for example in made.examples
    ]


def test_sizes_of_a_caption_and_of_pictures(pack: Pack) -> None:
    model = models.unet("sdxl")
    own = (1024, 768, 10, 20, 512, 640)
    latents = {"samples": models.random(2, 4, 8, 12, seed=1)}
    sized = latents | {"original_sizes": [(800, 600), (333, 444)], "crops": [(0, 16), (24, 0)]}
    pooled = caption()[0][1]["pooled_output"]

    def same(vectors: list[Tensor], *expected: tuple) -> bool:
        return all(
            torch.allclose(value, embedded(model, pooled, *values), atol=1e-5)
            for value, values in zip(vectors, expected, strict=True)
        )

    assert same(size_vectors(pack, model, [latents], [caption()]), *[(96, 64, 0, 0, 96, 64)] * 2)
    assert same(size_vectors(pack, model, [latents], [caption(**sizes(*own))]), own, own)
    assert same(size_vectors(pack, model, [sized], [caption()]), (800, 600, 0, 16, 96, 64), (333, 444, 24, 0, 96, 64))
    assert same(size_vectors(pack, model, [sized], [caption(**sizes(*own))]), own, own)
    only = {key: value for key, value in sized.items() if key != "original_sizes"}
    assert same(size_vectors(pack, model, [only], [caption()]), (96, 64, 0, 16, 96, 64), (96, 64, 24, 0, 96, 64))


def test_sizes_are_trained(pack: Pack) -> None:
    latents = models.latents(models.unet("sdxl"), 2)
    sized = latents | {"original_sizes": [(800, 600), (333, 444)], "crops": [(0, 16), (24, 0)]}
    each = [caption(**sizes(800, 600, 0, 16, 64, 64)), caption(**sizes(333, 444, 24, 0, 64, 64))]
    from_latents = losses(pack, "sdxl", [sized], [caption()], batch_size=2)
    assert from_latents == losses(pack, "sdxl", [latents], each, batch_size=2)
    assert from_latents != losses(pack, "sdxl", [latents], [caption()], batch_size=2)
    # a base that has no use for them learns the same
    plain = models.latents(models.sd3(), 2)
    assert losses(pack, "sd3", [plain | {"original_sizes": [(9, 9)] * 2}], [caption()]) == losses(
        pack, "sd3", [plain], [caption()]
    )


def test_texts_are_kept_once_for_all_sizes(pack: Pack) -> None:
    model = models.unet("sdxl")
    latents = models.latents(model, 5) | {"original_sizes": [(100 * place + 500, 400) for place in range(5)]}
    made = dataset(pack, model, [latents], [caption()])
    captions = pack.batches.Captions(model.model, made.entries, models.CPU)
    shown_to_network = [captions.conds(0, tuple(example.latent.shape), example.origin) for example in made.examples]
    assert len({conds["c_crossattn"].cond.data_ptr() for conds in shown_to_network}) == 1
    assert len({conds["y"].cond.data_ptr() for conds in shown_to_network}) == 5


def test_sizes_with_a_trained_text_encoder(pack: Pack, comfyui_session: Any) -> None:
    """The demo's text encoder, projected to the widths of the small SDXL."""
    clip = comfyui_session.pack_nodes["DEFTDemoTextEncoder"].execute().result[0]
    width = clip.encode_from_tokens(clip.tokenize("a")).shape[-1]
    project = models.random(width, models.TOKEN_WIDTH, seed=3) / math.sqrt(width)
    stage, own = clip.cond_stage_model, clip.cond_stage_model.encode_token_weights

    def projected(tokens: Any) -> tuple:
        cond = own(tokens)[0] @ project
        return cond, cond[:, 0, : models.POOLED_WIDTH]

    def losses_with(extras: dict, **more: Any) -> list[float]:
        with torch.inference_mode():
            encoded = clip.encode_from_tokens_scheduled(clip.tokenize("a sks cat"), add_dict=extras)
        model = as_loaded(MAKE["sdxl"])
        return trained(pack, model, [models.latents(model, 1) | more], [encoded], clip=clip, words=["a sks cat"]).losses

    stage.encode_token_weights = projected
    try:
        from_latents = losses_with({}, original_sizes=[(800, 600)], crops=[(0, 16)])
        assert from_latents == losses_with(sizes(800, 600, 0, 16, 64, 64)) != losses_with({})
    finally:
        del stage.encode_token_weights


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"original_sizes": [(8, 8)]}, "have 2 pictures, but 1 original sizes"),
        ({"crops": [(0, 0)] * 3}, "have 2 pictures, but 3 crops"),
        ({"original_sizes": [(8, 8), (0, 8)]}, "original sizes of the latents from picture 1 on must be at least 1"),
        ({"crops": [(0, 0), (0, -1)]}, "crops of the latents from picture 1 on must be at least 0"),
    ],
)
def test_sizes_that_are_wrong(pack: Pack, given: dict, message: str) -> None:
    model = models.unet("sdxl")
    with pytest.raises(ValueError, match=message):
        dataset(pack, model, [models.latents(model, 2) | given], [caption()])


# ------------------------------------------------------------------------------------------------------------- identity


def test_all_that_changes_the_result_is_part_of_a_runs_identity(pack: Pack) -> None:
    import comfy.clip_vision

    model = models.unet("sdxl")
    latents, mask = models.latents(model, 2), torch.ones(1, 64, 64)
    mask[..., :8] = 0
    vision = [comfy.clip_vision.Output() for _ in range(2)]
    for seed, output in enumerate(vision):
        output["image_embeds"] = models.random(1, 8, seed=seed)
    sized = latents | {"original_sizes": [(8, 9)] * 2}
    hashes = [
        dataset(pack, model, [latent], [given]).hash()
        for latent, given in (
            (latents, caption()),
            (latents, caption(area=(4, 4, 0, 0))),
            (latents, caption(area=(4, 4, 0, 1))),
            (latents, caption(mask=mask)),
            (latents, caption(strength=0.5)),
            (latents, caption(start_percent=0.5)),
            (latents, caption(end_percent=0.5)),
            (latents, caption(**sizes(1, 2, 3, 4, 5, 6))),
            (sized, caption()),
            (latents | {"original_sizes": [(9, 8)] * 2}, caption()),
            (latents | {"crops": [(8, 9)] * 2}, caption()),
            (latents, caption(clip_vision_output=vision[0])),
            (latents, caption(clip_vision_output=vision[1])),
            (latents, rows(caption(2), caption(3))),
            (latents, rows(caption(3), caption(2))),
        )
    ]
    assert len(set(hashes)) == len(hashes)
    assert dataset(pack, model, [dict(sized)], [caption()]).hash() in hashes


# -------------------------------------------------------------------------------------------------------------- latents


def nested() -> Any:
    import comfy.nested_tensor

    return comfy.nested_tensor.NestedTensor([torch.zeros(1, 16, 1, 8, 8), torch.zeros(1, 8, 16)])


@pytest.mark.parametrize(
    ("kind", "latent", "message"),
    [
        (
            "sd15",
            lambda: {"samples": torch.zeros(2, 4, 1, 8, 8)},
            r"picture 2 has 5 dimensions \(2 x 4 x 1 x 8 x 8\), but SD 1.5 needs pictures: \[batch, 4, height, width\]",
        ),
        ("sd3", lambda: {"samples": torch.zeros(1, 16, 3, 8, 8)}, "picture 2 has 5 dimensions"),
        ("sd3", lambda: {"samples": torch.zeros(1, 16, 8)}, "picture 2 has 3 dimensions"),
        (
            "sd3",
            lambda: {"samples": torch.zeros(1, 64, 100), "type": "audio"},
            "picture 2 is sound, but SD3 needs pict",
        ),
        ("sd3", lambda: {"samples": torch.zeros(1, 64, 64), "type": "hunyuan3dv2"}, "picture 2 is a 3D shape, but SD3"),
        ("sd3", lambda: {"samples": nested()}, "picture 2 contains picture and sound"),
        ("sd3", lambda: {"samples": torch.zeros(1, 16, 0, 8)}, r"picture 2 is empty \(1 x 16 x 0 x 8\)"),
        ("sd3", lambda: {"samples": torch.zeros(0, 16, 8, 8)}, "The latents of the pictures are empty"),
        (
            "wan",
            lambda: {"samples": torch.zeros(1, 16, 64)},
            r"picture 2 has 3 dimensions .* Wan needs pictures or videos: \[batch, 16, frames, height, width\]",
        ),
        ("wan", lambda: {"samples": torch.zeros(1, 2, 16, 1, 8, 8)}, "picture 2 has 6 dimensions"),
    ],
)
def test_latents_of_another_kind(pack: Pack, kind: str, latent: Callable[[], dict], message: str) -> None:
    from .architectures import comfyui_wan

    model = comfyui_wan(False) if kind == "wan" else MAKE[kind]()
    with pytest.raises(ValueError, match=message):
        dataset(pack, model, [models.latents(model, 1), latent()], [caption()])


def test_videos_on_a_video_base(pack: Pack) -> None:
    from .architectures import comfyui_wan

    model = comfyui_wan(False)
    latents = [{"samples": models.random(1, 16, 3, 8, 8, seed=1)}, models.latents(model, 1)]
    made = dataset(pack, model, latents, [caption()])
    assert [tuple(example.latent.shape) for example in made.examples] == [(1, 16, 3, 8, 8), (1, 16, 1, 8, 8)]


@pytest.mark.parametrize("where", ["first", "later"])
def test_a_size_that_the_network_cannot_take(pack: Pack, where: str) -> None:
    """One place at the UNet's bottom is too few for its norms."""
    tiny, ordinary = {"samples": models.random(1, 4, 1, 1, seed=4)}, models.latents(models.unet(), 2)
    given = [tiny] if where == "first" else [ordinary, tiny]
    message = (
        f"SD 1.5 cannot take the latent of picture {1 if where == 'first' else 3}, 1 x 1 .width x height.: the "
        "next size that it takes is 4 x 4, a picture of 32 x 32"
    )
    with pytest.raises(ValueError, match=message):
        losses(pack, "sd15", given, [caption()], steps=6)
    odd = {"samples": models.random(1, 4, 1, 9, seed=4)}
    assert all(map(math.isfinite, losses(pack, "sd15", [odd], [caption()], steps=2)))


def test_another_error_is_not_laid_on_the_size(pack: Pack) -> None:
    """A caption of another text encoder fails whatever the size of the latent."""
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        losses(
            pack, "sd15", [{"samples": models.random(1, 4, 7, 9, seed=4)}], [[[models.random(1, 7, 13, seed=1), {}]]]
        )


def test_an_error_of_training_alone_is_not_laid_on_the_size(pack: Pack) -> None:
    """Code that cannot be differentiated fails in training alone: the network itself takes this size."""
    import comfy.model_management

    model = as_loaded(models.unet)
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])
        with torch.inference_mode(False), torch.enable_grad():
            made = dataset(pack, model, [{"samples": models.random(1, 4, 7, 9, seed=4)}], [caption()])
            trainer = pack.trainer.Trainer(model, settings(pack), made)
            with pytest.raises(RuntimeError, match="in place"), pack.batches.size_errors(trainer, made.examples):
                raise RuntimeError("in place")


def test_a_model_that_reads_the_area_gets_it_in_latent_pixels(pack: Pack) -> None:
    """HiDream O1 does; ComfyUI resolves shares before it asks."""

    class Reading:
        def extra_conds(self, **given: Any) -> dict[str, Any]:
            return {"read": given["area"]}

    (entry,) = caption(area=("percentage", 0.5, 0.5, 0.25, 0.25))
    (example,) = dataset(pack, models.sd3(), [models.latents(models.sd3(), 1)], [[entry]]).examples
    located = pack.batches.LocatedModel(Reading(), entry, tuple(example.latent.shape), example.origin)
    assert located.values == {"area": (4, 4, 2, 2)}
    # before a first step the memory is estimated without the place of the part
    plain = pack.batches.LocatedModel(Reading(), entry, tuple(example.latent.shape), pack.batches.UNKNOWN)
    assert plain.extra_conds(area=entry[1]["area"]) == {"read": None}
