"""Methods that are read and applied but not trained here, and the product that patching spends its time in."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch import Tensor, nn

from deft_pack.deft_ops import methods
from deft_pack.deft_ops.products import transposed_product

from ..tools import random, relative

SHAPES = {"linear": (24, 20), "wide": (8, 40), "conv": (12, 6, 3, 2)}


def tensors_of(name: str, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Random file entries of a layer."""
    out, width = shape[0], torch.zeros(shape).flatten(1).shape[1]
    if name == "svdiff":
        return {"delta": random(min(out, width), seed=3)}
    if name == "oft":
        size = 5 if width % 5 == 0 else 4
        skew = random(width // size, size, size, seed=4)
        return {"oft_rotation": torch.linalg.matrix_exp(skew - skew.transpose(1, 2))}
    prefix = (
        ("dora_up", "dora_down", "dora_magnitude")
        if name == "dora"
        else ("lora_up.weight", "lora_down.weight", "dora_scale")
    )
    rows = name in ("dora", "dora rows")
    scale_shape = (
        (out,) if name == "dora" else (out, *[1] * (len(shape) - 1)) if rows else (1, shape[1], *[1] * (len(shape) - 2))
    )
    values = random(out, 3, seed=5), random(3, *shape[1:], seed=6), random(*scale_shape, seed=7).abs() + 0.5
    return dict(zip(prefix, values)) | {"alpha": torch.tensor(6.0)}


def expected(name: str, tensors: dict[str, Tensor], weight: Tensor, strength: float) -> Tensor:
    """The change by the formula as its authors write it, in float64."""
    W = weight.double()
    if name == "svdiff":
        U, sigma, Vh = numpy.linalg.svd(W.flatten(1).numpy(), full_matrices=False)
        changed = numpy.maximum(sigma + strength * tensors["delta"].double().numpy(), 0)
        return torch.from_numpy((U * changed) @ Vh).reshape(W.shape) - W
    if name == "oft":
        whole = torch.block_diag(*tensors["oft_rotation"].double())
        return strength * ((W.flatten(1) @ whole).reshape(W.shape) - W)
    up, down, magnitude = (value.double() for key, value in tensors.items() if key != "alpha")
    V = W + 2.0 * (up @ down.flatten(1)).reshape(W.shape)
    if name == "dora lyco columns":
        norms = V.transpose(0, 1).flatten(1).norm(dim=1).reshape(1, -1, *[1] * (W.ndim - 2))
    else:
        norms = V.flatten(1).norm(dim=1).reshape(-1, *[1] * (W.ndim - 1))
    return strength * (V * magnitude.reshape(norms.shape) / norms - W)


NAMES = {"svdiff": "svdiff", "oft": "oft", "dora": "dora", "dora rows": "dora", "dora lyco columns": "dora"}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_method(name: str, shape: tuple[int, ...]) -> None:
    if name == "oft" and len(shape) > 2:
        shape = (12, 8, 1, 1)  # PEFT's OFT of larger kernels is no change of the weight
    tensors, weight = tensors_of(name, shape), random(*shape, seed=1)
    method = methods.method_of(tensors)
    assert method is methods.get(NAMES[name])
    assert not method.low_rank
    factors = method.from_tensors(tensors)
    assert method.fits(factors, shape)
    assert not method.fits(factors, (3, 3))
    for strength in (1.0, 0.4, -0.5, 2.0):
        change = method.delta(factors, weight, strength=strength)
        assert change.dtype == torch.float32
        assert change.shape == weight.shape
        assert relative(weight + change, weight.double() + expected(name, tensors, weight, strength)) < 1e-5, strength
    up, down = method.to_lora(factors, weight)
    assert relative((up @ down).reshape(shape), method.delta(factors, weight)) < 1e-5
    again = method.from_tensors(method.to_tensors(factors))
    assert torch.equal(method.delta(again, weight), method.delta(factors, weight))
    assert methods.method_of(method.to_tensors(factors)) is method


@pytest.mark.parametrize("name", ["svdiff"])
def test_strength_zero_is_the_base(name: str) -> None:
    weight = random(24, 20)
    method = methods.get(name)
    assert not method.delta(method.from_tensors(tensors_of(name, (24, 20))), weight, strength=0.0).any()


def test_svdiff_on_a_norm() -> None:
    """A 1-D weight is one row: its one singular value is its norm."""
    svdiff = methods.get("svdiff")
    weight = random(16)
    factors = svdiff.from_tensors({"delta": torch.tensor([0.5])})
    assert svdiff.fits(factors, (16,))
    assert relative(weight + svdiff.delta(factors, weight), weight * (weight.norm() + 0.5) / weight.norm()) < 1e-6


@pytest.mark.parametrize("conv", [False, True])
def test_dora_is_what_peft_merges(conv: bool) -> None:
    import peft

    layer = nn.Conv2d(6, 12, (3, 2)) if conv else nn.Linear(20, 24)
    model = nn.Sequential(layer)
    config = peft.LoraConfig(r=3, lora_alpha=6, use_dora=True, target_modules=["0"])
    wrapped = peft.get_peft_model(model, config)
    for index, (_, parameter) in enumerate(wrapped.named_parameters()):
        if parameter.requires_grad:
            parameter.data.add_(0.3 * random(*parameter.shape, seed=40 + index))
    state = {key.split(".lora_")[1]: value for key, value in peft.get_peft_model_state_dict(wrapped).items()}
    base = wrapped.base_model.model[0].get_base_layer().weight.detach().clone()
    tensors = {
        "dora_up": state["B.weight"],
        "dora_down": state["A.weight"],
        "dora_magnitude": state["magnitude_vector"],
        "alpha": torch.tensor(6.0),
    }
    method = methods.method_of(tensors)
    change = method.delta(method.from_tensors(tensors), base)
    wrapped.merge_adapter()
    merged = wrapped.base_model.model[0].get_base_layer().weight.detach()
    assert relative(merged, base) > 1e-2
    assert relative(base + change, merged) < 1e-6


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"delta": torch.zeros(3, 3)}, "a vector of spectral shifts"),
        ({"oft_rotation": torch.zeros(2, 3, 4)}, "rotations"),
        ({"dora_up": torch.zeros(4, 2), "dora_down": torch.zeros(3, 5), "dora_magnitude": torch.ones(4)}, "up matrix"),
        ({"dora_up": torch.zeros(4, 2), "dora_down": torch.zeros(2, 5), "dora_magnitude": torch.ones(5)}, "5 rows"),
        (
            {
                "lora_up.weight": torch.zeros(4, 2),
                "lora_down.weight": torch.zeros(2, 5),
                "dora_scale": torch.ones(4, 5),
            },
            "a row or a column",
        ),
    ],
)
def test_shapes_that_do_not_fit(tensors: dict[str, Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        methods.method_of(tensors).from_tensors(tensors)


@pytest.mark.parametrize("shape", [(1280, 1280), (640, 2048), (320, 320), (33, 7), (16, 257), (64, 384)])
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_transposed_product(shape: tuple[int, int], rank: int) -> None:
    W, right = random(*shape, seed=1), random(shape[0], rank, seed=2)
    assert relative(transposed_product(right, W), right.double().T @ W.double()) < 1e-6
    assert relative(transposed_product(right, W[:, ::2]), right.double().T @ W[:, ::2].double()) < 1e-6
    assert torch.equal(transposed_product(right, W), transposed_product(right, W.clone()))
