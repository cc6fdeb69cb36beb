"""An adapter that makes weights infinite is refused where it is applied."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from . import models
from .pack import Pack

LAYER = "diffusion_model.joint_blocks.0.x_block.attn.proj"


def factors(kind: str, size: float, alpha: float) -> dict[str, torch.Tensor]:
    up, down = torch.full((64, 2), size), torch.full((2, 64), size)
    if kind == "deft":
        return {f"{LAYER}.deft_Q": torch.eye(64, 2), f"{LAYER}.deft_R": down, f"{LAYER}.alpha": torch.tensor(alpha)}
    return {f"{LAYER}.lora_up.weight": up, f"{LAYER}.lora_down.weight": down, f"{LAYER}.alpha": torch.tensor(alpha)}


@pytest.mark.parametrize(
    "kind, size, alpha, dtype, finite",
    [
        ("lora", 1e30, 2.0, torch.float32, False),
        ("lora", 1.0, 2.0, torch.float32, True),
        ("lora", 1e5, 1e38, torch.float32, False),
        ("lora", 1e3, 2.0, torch.float32, True),
        ("lora", 1e3, 2.0, torch.float16, False),
        ("lora", 1e1, 2.0, torch.float16, True),
        ("deft", 1e30, 1e38, torch.float32, False),
        ("deft", 1e5, 2.0, torch.float16, False),
        ("deft", 1e3, 2.0, torch.float16, True),
    ],
)
def test_weights_that_would_be_infinite(
    comfyui: Any, pack: Pack, kind: str, size: float, alpha: float, dtype: torch.dtype, finite: bool
) -> None:
    model = models.sd3(dtype=dtype)
    adapter = pack.adapters.Adapter(factors(kind, size, alpha))
    if finite:
        patched, _, _ = pack.apply(adapter, model, source="duck.safetensors")
        assert torch.isfinite(models.patched_weights(patched)[f"{LAYER}.weight"].to(dtype)).all()
        return
    with pytest.raises(ValueError, match=rf"^duck\.safetensors: the weight {LAYER}\.weight would exceed the range of"):
        pack.apply(adapter, model, source="duck.safetensors")
    if dtype == torch.float16:  # a low strength is a way out
        patched, _, _ = pack.apply(adapter, model, source="duck.safetensors", strength_model=1e-4)
        assert torch.isfinite(models.patched_weights(patched)[f"{LAYER}.weight"].to(dtype)).all()


def test_a_base_that_is_not_finite_is_not_the_adapter_s_fault(comfyui: Any, pack: Pack) -> None:
    model = models.sd3(dtype=torch.float16)
    with torch.no_grad():
        model.model.get_parameter(f"{LAYER}.weight")[0, 0] = float("inf")
    patched, _, _ = pack.apply(pack.adapters.Adapter(factors("lora", 1e3, 2.0)), model, source="duck.safetensors")
    assert patched.patches


@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_factors_of_few_bits(comfyui: Any, pack: Pack, stored: torch.dtype) -> None:
    """A file may hold them in 8 bits, for which PyTorch has no norm: they do what they do in float32."""
    model = models.sd3()
    tensors = {key: value.to(stored) for key, value in factors("lora", 0.5, 2.0).items()}
    patched, _, _ = pack.apply(pack.adapters.Adapter(tensors), model, source="duck.safetensors")
    exact, _, _ = pack.apply(pack.adapters.Adapter(factors("lora", 0.5, 2.0)), model, source="duck.safetensors")
    name = f"{LAYER}.weight"
    torch.testing.assert_close(models.patched_weights(patched)[name], models.patched_weights(exact)[name])
