"""The two starts of LoRA's down: Kaiming as it always was, and normal numbers as PEFT's "gaussian"."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import nn

from deft_pack.deft_ops import methods


@pytest.mark.parametrize("rank", [4, 16])
def test_the_gaussian_start_is_pefts(rank: int) -> None:
    """The start has as many numbers, the same deviation, and no bound, where Kaiming has 1 / sqrt(in)."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=rank, init_lora_weights="gaussian", target_modules=["0"])
    theirs = peft.get_peft_model(nn.Sequential(nn.Linear(2048, 64)), config)
    reference = next(value for name, value in theirs.named_parameters() if "lora_A" in name).detach()
    training = methods.training_of("lora")
    weight, generator = torch.zeros(64, 2048), torch.Generator().manual_seed(1)
    ours = training.init(weight, rank, training.settings_of(gaussian_start=True), generator)
    down = ours["down"].detach()
    assert down.shape == reference.shape
    assert not ours["up"].any()
    assert float(down.std()) == pytest.approx(1 / rank, rel=0.03)
    assert float(down.std()) == pytest.approx(float(reference.std()), rel=0.05)
    kurtosis = [float(((value - value.mean()) / value.std()).pow(4).mean()) for value in (down, reference)]
    assert kurtosis == pytest.approx([3.0, 3.0], abs=0.2)  # 1.8 of uniform numbers


def test_without_it_the_start_is_kaimings() -> None:
    training = methods.training_of("lora")
    weight = torch.zeros(64, 2048)
    plain = training.init(weight, 4, training.settings_of(), torch.Generator().manual_seed(1))
    uniform = torch.rand((4, 2048), generator=torch.Generator().manual_seed(1))
    assert torch.equal(plain["down"].detach(), (2 * uniform - 1) / 2048**0.5)
