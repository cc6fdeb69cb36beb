"""A training takes the steps of PyTorch's own optimizer, and says beforehand what that keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from . import models
from .pack import Pack
from .test_training_runs import as_loaded, settings


@pytest.mark.parametrize("method", ["deft", "dreambooth"])
def test_adafactor_takes_pytorch_s_steps(
    pack: Pack,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Compared step by step with torch.optim.Adafactor, with the same gradients from the same start."""
    optimizers, memory = pack.optimizers, pack.memory
    made, seen = optimizers.make_optimizer, []
    pairs: list[tuple[nn.Parameter, nn.Parameter]] = []

    def make(name: str, groups: list[dict[str, Any]], rate: float, decay: float, betas: tuple[float, float]) -> Any:
        optimizer = made(name, groups, rate, decay, betas)
        assert type(optimizer) is torch.optim.Adafactor
        theirs = []
        for group in groups:
            copies = [nn.Parameter(value.detach().clone()) for value in group["params"]]
            pairs.extend(zip(group["params"], copies, strict=True))
            theirs.append({"params": copies, "lr": rate * group["rate"]})
        # Relative to a parameter's size, at least to 1: an adapter starts at or near zero.
        other = torch.optim.Adafactor(theirs, lr=rate, weight_decay=decay, eps=(None, 1.0))

        def before(*_: Any) -> None:
            for own, twin in pairs:
                twin.grad = None if own.grad is None else own.grad.clone()
            for own, twin in zip(optimizer.param_groups, other.param_groups, strict=True):
                twin["lr"] = own["lr"]

        def after(*_: Any) -> None:
            with torch.inference_mode(False):
                other.step()
            assert all(torch.equal(own, twin) for own, twin in pairs)
            kept = [
                value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)
            ]
            estimate = memory.adapter_bytes([own for own, _ in pairs], name, False)
            state = sum(value.numel() * 4 for value in kept if value.ndim)
            assert estimate == 3 * 4 * sum(own.numel() for own, _ in pairs) + state
            seen.append(state)

        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)
        return optimizer

    monkeypatch.setattr(optimizers, "make_optimizer", make)
    model = as_loaded(models.unet)
    chosen = settings(
        pack,
        method=method,
        optimizer="Adafactor",
        layers="all linear and convolution",
        steps=20,
        learning_rate=3e-3,
        weight_decay=0.01,
        p_rate=0.5,
        schedule="cosine",
    )
    with torch.inference_mode():
        material = pack.material.Material([models.latents(model, 3)], [models.conditioning()])
        result = pack.loop.train(model, material, chosen, lambda progress: None)
    assert len(seen) == 20
    assert seen[0] > 0
    assert sum(result.losses[-5:]) < sum(result.losses[:5])
