"""What `precision` says is what is computed in: float32 on any base, fp16 with loss scaling, and advice that helps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from . import models
from .pack import Pack
from .test_training import as_loaded, one_step, settings, train


def half_in_float() -> Any:
    """The small UNet with the values of a float16 one, in float32."""
    model = models.unet("sd15")
    model.model.diffusion_model.half().float()
    return model


def half() -> Any:
    return models.unet("sd15", dtype=torch.float16)


def gradients(pack: Pack, model: Any, size: int, **chosen: Any) -> tuple[float, Tensor]:
    chosen_settings = settings(pack, "lora", steps=1, learning_rate=0.0, layers="all linear", **chosen)
    trainer, loss = one_step(pack, model, models.latents(model, 2, size=size), models.conditioning(), chosen_settings)
    return loss, torch.cat([parameter.grad.flatten().float() for parameter in trainer.parameters])


@pytest.mark.parametrize("chosen", [{}, {"batch_size": 2, "accumulation": 2}], ids=["one", "accumulated"])
@pytest.mark.parametrize("size", [8, 32])
def test_float32_is_float32_whatever_is_stored(pack: Pack, size: int, chosen: dict) -> None:
    loss, expected = gradients(pack, as_loaded(half_in_float), size, precision="fp32", **chosen)
    half_loss, gradient = gradients(pack, as_loaded(half), size, precision="fp32", **chosen)
    assert half_loss == pytest.approx(loss, rel=1e-5)
    assert models.relative(gradient, expected) < 1e-4


def test_loss_scaling_keeps_the_gradients_of_half_precision(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many gradients are too small for it without: they were 9 % off at 64 x 64, and 43 % at 128 x 128."""
    # No attention at the full size, which takes half a minute on a CPU.
    for key, value in (("transformer_depth", [0, 1]), ("transformer_depth_output", [0, 0, 1, 1])):
        monkeypatch.setitem(models.SD15_CONFIG, key, value)
    _, expected = gradients(pack, as_loaded(half_in_float), 64, precision="fp32")
    _, gradient = gradients(pack, as_loaded(half), 64, precision="fp16")
    assert models.relative(gradient, expected) < 1e-2


def test_what_auto_is(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    bases = {dtype: models.unet("sd15", dtype=dtype).model for dtype in (torch.float32, torch.float16, torch.bfloat16)}
    cpu, cuda = torch.device("cpu"), torch.device("cuda")

    def chosen(device: torch.device) -> list[str]:
        return [pack.precision.resolve("auto", model, device).name for model in bases.values()]

    assert chosen(cpu) == ["fp32", "fp32", "fp32"]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert chosen(cuda) == ["fp32", "fp16", "fp32"]  # a T4, which has bf16 in software only
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert chosen(cuda) == ["bf16", "bf16", "bf16"]
    resolved = [pack.precision.resolve("bf16", model, cpu) for model in bases.values()]
    assert [(one.compute, one.autocast) for one in resolved] == [(None, True), (torch.bfloat16, False), (None, False)]


def test_the_rule_of_the_scale_is_pytorch_s(pack: Pack) -> None:
    scaler, own = torch.amp.GradScaler("cpu"), pack.precision.LossScale
    assert (scaler._init_scale, scaler.get_growth_interval()) == (own.FIRST, own.GROWS_AFTER)
    assert (scaler.get_growth_factor(), scaler.get_backoff_factor()) == (2.0, 0.5)
    scale = own()
    assert scale.overflowed()
    assert scale.value == 2.0**15
    for _ in range(2000):
        scale.succeeded()
    assert (scale.value, scale.skipped) == (2.0**16, 1)
    again = own()
    again.load(scale.state())
    assert again.state() == scale.state()
    scale.value = 1.0
    assert not scale.overflowed()


def test_an_overflow_is_taken_again_and_counted(pack: Pack) -> None:
    """The scale is far too large at first: the same steps, the same pictures, the same adapter."""
    chosen: dict[str, Any] = {"method": "lora", "steps": 3, "precision": "fp16"}
    plain = train(pack, as_loaded(half), **chosen)
    first = pack.precision.LossScale.FIRST
    try:
        pack.precision.LossScale.FIRST = 2.0**24
        scaled = train(pack, as_loaded(half), **chosen)
    finally:
        pack.precision.LossScale.FIRST = first
    assert "loss scaling for fp16: 0 passes overflowed" in plain.report
    skipped = int(scaled.report.partition("loss scaling for fp16: ")[2].split()[0])
    assert skipped > 0
    assert f"scale {2.0 ** (24 - skipped):g} at the end" in scaled.report
    assert scaled.losses == pytest.approx(plain.losses, rel=1e-3)
    assert len(scaled.losses) == 3


def test_a_picture_that_overflows_is_passed_over_and_counted(pack: Pack) -> None:
    """One of three, which float32 can take; the other two are learned."""
    model = as_loaded(half)
    samples = models.random(3, 4, 8, 8, seed=4)
    samples[1] *= 1e6
    result = train(pack, model, latents=[{"samples": samples}], method="lora", steps=6, precision="fp16")
    assert len(result.losses) == 6
    assert max(result.losses) < 10
    assert int(result.report.partition("loss scaling for fp16: ")[2].split()[0]) > 0
    assert all(bool(torch.isfinite(value).all()) for value in result.adapter.values())


def test_the_first_gradient_is_checked_on_the_pictures_that_it_is_of(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pictures of the check are not those before, whose loss had overflowed."""
    monkeypatch.setattr(pack.checking, "reason", lambda trainer: "test")
    passed_over = 0
    for seed in range(4):
        samples = models.random(3, 4, 8, 8, seed=4)
        samples[1:] *= 1e6
        result = train(
            pack, as_loaded(half), latents=[{"samples": samples}], method="lora", steps=1, precision="fp16", seed=seed
        )
        passed_over += int(result.report.partition("loss scaling for fp16: ")[2].split()[0])
        assert "gradient checked by finite differences (test)" in result.report, result.report
    assert passed_over > 0


@pytest.mark.parametrize("first", [True, False], ids=["put away while it trains", "brought back while it trains"])
def test_a_model_that_comfyui_moves_while_it_trains(pack: Pack, first: bool) -> None:
    """A preview moves the model when memory is short: training goes on in float32, and all is put back afterwards."""
    import comfy.model_management

    network_module = pack.network
    model = as_loaded(half)
    network = model.model.diffusion_model
    layers = [module for module in network.modules() if hasattr(module, "comfy_cast_weights")]
    flags = [module.comfy_cast_weights for module in layers]

    def load(away: bool) -> None:
        with torch.inference_mode():
            model.unpatch_model(model.offload_device)
            model.load(model.load_device, lowvram_model_memory=1 if away else 0, full_load=not away)

    inputs = models.network_inputs(model)
    with torch.inference_mode():
        expected = as_loaded(half_in_float).model.diffusion_model(**inputs)
    load(not first)
    with network_module.computing_in(model.model, torch.float32):
        load(first)
        network_module.cast_weights(network)
        with torch.inference_mode():
            assert models.relative(network(**inputs), expected) < 1e-5
    assert all(module.comfy_cast_weights for module in layers) is first
    load(False)
    assert [module.comfy_cast_weights for module in layers] == flags
    comfy.model_management.unload_all_models()


def overflowing(dtype: torch.dtype) -> Any:
    """A network whose activations leave the range of fp16, which ends at 65504."""
    model = models.unet("sd15", dtype=dtype)
    with torch.no_grad():
        model.model.diffusion_model.input_blocks[0][0].weight.mul_(3e4)
    return model


def test_the_advice_can_be_followed(pack: Pack) -> None:
    with pytest.raises(ValueError, match=r"no longer a number at step \d: use precision fp32 \(now fp16\)"):
        train(pack, as_loaded(lambda: overflowing(torch.float16)), method="lora", precision="fp16")
    result = train(pack, as_loaded(lambda: overflowing(torch.float16)), method="lora", precision="fp32")
    exact = train(pack, as_loaded(lambda: overflowing(torch.float32)), method="lora", precision="fp32")
    assert result.losses == pytest.approx(exact.losses, rel=1e-2)
    assert "computed in fp32, for ComfyUI's own float16" in result.report


def test_a_divergence_in_float32_does_not_advise_float32(pack: Pack) -> None:
    with pytest.raises(ValueError, match="no longer a number at step .*: lower the learning rate") as caught:
        train(pack, as_loaded(lambda: models.unet("sd15")), method="lora", steps=30, learning_rate=1e15)
    assert "precision" not in str(caught.value)
