"""What a training step asks PyTorch for, beside a plain forward and backward pass; the weights it computes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from deft_pack.benchmarks.frame import counting_mode

from . import models
from .pack import Pack
from .test_training import as_loaded, train
from .test_training_runs import Vae, shown
from .test_training_runs import train as run

# Of SD1.5: 128 layers of attention.
DEPTHS = {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
}
ATTENTION = "paper (to_q, to_k, to_v, to_out.0)"


@pytest.fixture
def network(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> Any:
    """SD1.5's UNet with all of its layers, 32 channels wide; its convolutions are convolutions, as on a GPU."""
    monkeypatch.setattr(models, "SD15_CONFIG", models.SD15_CONFIG | DEPTHS | {"model_channels": 32})
    monkeypatch.setattr(pack.deft_ops.convolution, "suits", lambda *args: False)
    return as_loaded(models.unet)


@pytest.mark.parametrize(("method", "most"), [("deft", 2.0), ("lora", 1.7)])
def test_operations_of_a_step(pack: Pack, network: Any, method: str, most: float) -> None:
    """Counted against ComfyUI's network alone, frozen, with its input's gradient. The products of a DEFT step are 9
    more for each layer, those of LoRA 5.
    """
    counts: list[int] = []
    with counting_mode() as counted:
        train(
            pack,
            network,
            method=method,
            layers=ATTENTION,
            rank=4,
            steps=3,
            latents=[models.latents(network, 1)],
            on_step=lambda progress: counts.append(counted.operations),
        )
    x = models.latents(network, 1)["samples"].requires_grad_()
    root = as_ordinary(network.model.diffusion_model)
    with pack.trainers.step.attention.pytorch_attention(), counting_mode() as floor:
        root(x, torch.tensor([500.0]), context=models.conditioning()[0][0]).square().mean().backward()
    assert counts[2] - counts[1] <= most * floor.operations


@dataclass(frozen=True)
class Factors:
    computed: torch.Tensor
    parameter: torch.Tensor
    scale: float = 2.0
    missing: torch.Tensor | None = None


def test_leaves_in_place_of_factors(pack: Pack) -> None:
    """Leaves are of what autograd has computed; parameters stay themselves. Two backward passes are summed up."""
    first, second, x = (models.random(4, 4, seed=seed) for seed in (1, 2, 3))
    first.requires_grad_()
    second.requires_grad_()
    leaves, given = pack.trainers.step.leaves.Leaves(), Factors(first.sin() @ first, second)
    factors = leaves.of(given)
    assert factors.computed.is_leaf
    assert torch.equal(factors.computed, given.computed)
    assert (factors.parameter, factors.scale, factors.missing) == (second, 2.0, None)
    assert leaves.of(Factors(first, second)).computed is first

    def losses(of: Factors) -> list[torch.Tensor]:
        return [((x @ of.computed).cos() @ of.parameter).sum(), (of.computed * of.parameter).square().sum()]

    for place, loss in enumerate(losses(factors)):
        loss.backward()
        leaves.backward(retain_graph=not place)
        assert factors.computed.grad is None
    again = Factors(first.sin() @ first, second)
    expected = torch.autograd.grad(sum(losses(again), torch.zeros(())), (first, second))
    assert torch.allclose(first.grad, expected[0], rtol=1e-5)
    assert torch.allclose(second.grad, expected[1], rtol=1e-5)


@pytest.mark.parametrize("kind", ["Linear", "Conv2d"])
def test_weights_that_are_at_hand(pack: Pack, kind: str) -> None:
    """The tensors are in the layer's own memory as long as they are the layer's and can be used as they lie."""
    import comfy.ops

    with torch.inference_mode():
        layer = getattr(comfy.ops.disable_weight_init, kind)(4, 4, **({} if kind == "Linear" else {"kernel_size": 1}))
        for parameter in layer.parameters():
            parameter.copy_(models.random(*parameter.shape, seed=1))
    x = torch.ones(2, 4)
    at_hand = pack.trainers.step.at_hand.AtHand(layer)
    weight, bias = at_hand.of(x)
    assert (weight.data_ptr(), bias.data_ptr()) == (layer.weight.data_ptr(), layer.bias.data_ptr())
    assert not weight.is_inference()
    assert not bias.is_inference()
    assert at_hand.of(x)[0] is weight
    assert at_hand.of(x.to(torch.bfloat16)) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert at_hand.of(x) is None
    for name, value in (("weight_function", [abs]), ("bias_function", [abs]), ("_v", "dynamic VRAM")):
        setattr(layer, name, value)
        assert at_hand.of(x) is None
        delattr(layer, name)
    assert at_hand.of(x)[0] is weight
    layer.weight = nn.Parameter(2 * layer.weight.detach().clone(), False)
    assert torch.equal(at_hand.of(x)[0], 2 * weight)
    layer.weight.data = 3 * weight
    assert torch.equal(at_hand.of(x)[0], 3 * weight)
    layer.to(torch.bfloat16)
    assert at_hand.of(x) is None
    layer.forward = lambda x: x
    assert pack.trainers.step.at_hand.AtHand(layer).of(x.to(torch.bfloat16)) is None


def test_a_preview_finds_no_weight_held(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI could otherwise move the model out of the GPU's memory, and it would still be full."""
    trainer, previews = pack.trainer.Trainer, pack.previews
    prepare, sample = trainer.prepared, previews.sample
    trainers: list[Any] = []
    held: list[int] = []

    def prepared(self: Any) -> Any:
        trainers.append(self)
        return prepare(self)

    def count(name: str) -> None:
        weights = [release.__self__ for network in trainers[0].frozen for release in network.releasing]
        held.append(sum(weight.own is not None for weight in weights))

    monkeypatch.setattr(trainer, "prepared", prepared)
    monkeypatch.setattr(previews, "sample", lambda *args: (count("preview"), sample(*args))[1])
    model = as_loaded(models.sd3)
    run(pack, model, steps=2, shown=shown(pack, model, Vae()), on_step=lambda progress: count("step"))
    modules = model.model.diffusion_model.modules()
    every = sum(isinstance(module, (nn.Linear, nn.Conv2d)) for module in modules)
    assert held == [0, every, 0, 0]  # a preview before the first step, a step, a preview, and the last step


def as_ordinary(network: nn.Module) -> nn.Module:
    """The network with ordinary copies of its tensors, without gradients."""
    for module in network.modules():
        for store in (module._parameters, module._buffers):
            for name, value in store.items():
                if value is not None:
                    store[name] = nn.Parameter(value.clone(), False) if store is module._parameters else value.clone()
    return network
