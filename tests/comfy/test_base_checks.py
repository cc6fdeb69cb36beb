"""The base is looked at before the first step, and the first gradient where nobody has tried the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from . import models
from .pack import Pack
from .test_training import as_loaded, train


def sd3_with(key: str, value: Any) -> Any:
    """A small SD3 with another weight: `value` of the old one."""
    state = models.sd3_state()
    state[key] = value(state[key])
    import comfy.sd

    return comfy.sd.load_diffusion_model_state_dict(state)


ATTENTION = "joint_blocks.0.x_block.attn.qkv.weight"


@pytest.mark.parametrize("number", ["nan", "inf"])
@pytest.mark.parametrize("key", [ATTENTION, "final_layer.linear.bias"], ids=["trained", "not trained"])
def test_a_number_that_is_none_names_its_layer(pack: Pack, key: str, number: str) -> None:
    def broken(weight: torch.Tensor) -> torch.Tensor:
        weight.view(-1)[3] = float(number)
        return weight

    seen: list[Any] = []
    layer = key.removesuffix(".weight").removesuffix(".bias")
    kind = {"nan": "NaN", "inf": "infinity"}[number]
    with pytest.raises(ValueError, match=rf"base's layer {layer} holds a {kind}, so nothing can be trained on it"):
        train(pack, as_loaded(lambda: sd3_with(key, broken)), on_step=seen.append, layers="attention")
    assert not seen


@pytest.mark.parametrize("method", ["lora", "deft", "para", "dreambooth"])
def test_a_layer_of_zeros_is_trained(pack: Pack, method: str) -> None:
    """A division by 0 once threw the whole training away after its last step."""
    result = train(
        pack, as_loaded(lambda: sd3_with(ATTENTION, torch.zeros_like)), method=method, layers="attention", steps=4
    )
    assert "1 trained layers are zero in the base: joint_blocks.0.x_block.attn.qkv" in result.report
    assert "nan" not in result.report
    assert "inf" not in result.report
    assert all(bool(torch.isfinite(value).all()) for value in result.adapter.values())


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_weights_that_leave_the_range_when_squared(pack: Pack, factor: float) -> None:
    """The change of a layer relative to itself is right; 1e30 in the middle of a network is an error by name."""
    weight = models.random(8, 6, seed=1)
    assert pack.looking.relative_change(0.5 * factor * weight, factor * weight) == pytest.approx(0.5, rel=1e-5)
    model = as_loaded(lambda: sd3_with("joint_blocks.0.x_block.mlp.fc2.weight", lambda value: factor * value))
    if factor < 1:
        result = train(pack, model, method="lora", steps=3)
        assert all(bool(torch.isfinite(value).all()) for value in result.adapter.values())
    else:
        with pytest.raises(ValueError, match=r"returns no number .*largest value is .*e\+\d\d, in joint_blocks.0"):
            train(pack, model, method="lora", steps=3)


def test_ranks_that_were_cut_are_said(pack: Pack) -> None:
    result = train(pack, as_loaded(models.sd3), method="deft", rank=200, steps=2, layers="all linear")
    assert "the rank was reduced at" in result.report
    assert "layers whose sides are smaller (to " in result.report
    assert "the rank was reduced" not in train(pack, as_loaded(models.sd3), method="deft", rank=2, steps=2).report


# ---------------------------------------------------------------------------------------------------- the gradient


@pytest.fixture
def newer(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ComfyUI that is newer than all that were tested."""
    monkeypatch.setattr(pack.checking, "NEWEST_TESTED", (0, 1, 0))


@pytest.mark.parametrize(
    ("method", "precision"),
    [("lora", "fp32"), ("deft", "fp32"), ("para", "bf16"), ("dreambooth", "bf16"), ("lora", "fp16")],
)
def test_a_newer_comfyui_is_checked(pack: Pack, newer: None, method: str, precision: str) -> None:
    """Nothing else changes: the bits are the same as without the check."""
    chosen: dict[str, Any] = {"method": method, "precision": precision, "steps": 3}
    checked = train(pack, as_loaded(models.sd3), **chosen)
    assert "gradient checked by finite differences (ComfyUI is newer than 0.1.0" in checked.report
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack.checking, "reason", lambda trainer: "")
        plain = train(pack, as_loaded(models.sd3), **chosen)
    assert "finite differences" not in plain.report
    assert plain.losses == checked.losses
    assert all(torch.equal(plain.adapter[key], value) for key, value in checked.adapter.items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_wrong_gradient_is_never_silent(
    pack: Pack, newer: None, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """The gradient is as of frozen weights that are written over before the backward pass."""
    monkeypatch.setattr(pack.frozen, "OF_PARTS", ())  # the pack's own gradient for linear layers, too
    right = pack.frozen.input_gradient

    def wrong(module: Any, weight: torch.Tensor, *others: Any) -> torch.Tensor:
        return right(module, weight.flip(0), *others)

    monkeypatch.setattr(pack.frozen, "input_gradient", wrong)
    with pytest.raises(ValueError, match=r"The gradient of SD3 is wrong \(ComfyUI is newer than 0.1.0"):
        train(
            pack,
            as_loaded(lambda: models.sd3(depth=2)),
            method="lora",
            precision=precision,
            layers="all linear",
            pattern="context_embedder|x_embedder|joint_blocks.0",
        )


def test_a_gradient_of_zero_is_never_silent(pack: Pack, newer: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient is as of a block that is replayed: nothing of the loss reaches the adapters."""

    def nothing(module: Any, weight: torch.Tensor, grad: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        return grad.new_zeros(shape)

    monkeypatch.setattr(pack.frozen, "OF_PARTS", ())
    monkeypatch.setattr(pack.frozen, "input_gradient", nothing)
    with pytest.raises(ValueError, match="The gradient of SD3 is zero at the first step"):
        train(pack, as_loaded(lambda: models.sd3(depth=2)), method="lora", layers="attention", pattern="joint_blocks.0")


def test_a_loss_that_is_all_rounding_is_a_warning(pack: Pack, newer: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where finite differences do not agree among themselves, they say nothing of the gradient."""
    import random

    noise, accumulated = random.Random(0), pack.trainer.Trainer.accumulated

    def rounded(trainer: Any) -> float:
        loss = accumulated(trainer)
        return loss if torch.is_grad_enabled() else loss + noise.uniform(-10, 10)

    monkeypatch.setattr(pack.trainer.Trainer, "accumulated", rounded)
    result = train(pack, as_loaded(models.sd3), method="lora", steps=2)
    assert "WARNING: the gradient could not be checked (ComfyUI is newer than 0.1.0" in result.report
