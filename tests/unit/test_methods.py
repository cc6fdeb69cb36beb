"""One matrix through which every method passes, and the mathematics against PEFT."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deft_pack.deft_ops import methods
from deft_pack.deft_ops.layer_ops import LinearOp, op_of
from deft_pack.deft_ops.projectors import PROJECTORS, project, raw_qr

from ..tools import relative

KINDS = ("linear", "conv")
RANKS = (1, 4, 40)  # 40 is more than any layer here has outputs
ALPHAS = (None, 1.0, 16.0)
RANKED = [name for name in methods.TRAINABLE if methods.get(name).low_rank]
CASES = [("deft", {"projector": p, "identity": i}) for p in PROJECTORS for i in (True, False)]
CASES += [(name, {}) for name in RANKED if name != "deft"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_layer(kind: str) -> tuple[nn.Module, Tensor]:
    """A layer with random weight and bias, and an input for it."""
    g = generator(7)
    if kind == "linear":
        layer: nn.Module = nn.Linear(20, 24)
        x = torch.randn(2, 5, 20, generator=g)
    else:
        layer = nn.Conv2d(6, 24, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
        x = torch.randn(2, 6, 9, 8, generator=g)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g))
    return layer.requires_grad_(False), x


def make_params(
    method: methods.Method[Any], weight: Tensor, rank: int, alpha: float | None, options: dict[str, Any], seed=1
):
    """Parameters as after some training: every tensor moved away from its initialisation."""
    assert method.training is not None
    params = method.training.init(weight, rank, method.training.settings_of(alpha=alpha, **options), generator(seed))
    g = generator(seed + 1)
    return {
        name: (t.detach() + 0.05 * torch.randn(t.shape, generator=g)).requires_grad_() for name, t in params.items()
    }


def start(name: str, weight: Tensor, rank: int, seed: int = 0, **values: Any) -> dict[str, Tensor]:
    """What a method trains, as it starts."""
    training = methods.training_of(name)
    return training.init(weight, rank, training.settings_of(**values), generator(seed))


def factors_of(name: str, params: dict[str, Tensor], **values: Any) -> Any:
    training = methods.training_of(name)
    return training.factors(params, training.settings_of(**values))


def expected_delta(name: str, factors: Any, weight: Tensor, removal: float = 1.0, injection: float = 1.0) -> Tensor:
    """The written formula in float64, with the out x out projector that the code avoids."""
    W = weight.flatten(1).double()
    if name == "lora":
        return (injection * factors.scale * factors.up.double() @ factors.down.double()).reshape(weight.shape)
    Q = factors.Q.double()
    right = Q if factors.right is None else factors.right.double()
    change = -removal * (Q @ right.T) @ W
    if factors.R is not None:
        change = change + injection * factors.scale * Q @ factors.R.double()
    return change.reshape(weight.shape)


IDENTITY, WEIGHT = torch.eye(24), torch.randn(24, 20, generator=generator(11))
BASIS = torch.linalg.qr(torch.randn(24, 4, generator=generator(12)))[0]
UP, DOWN = torch.randn(24, 4, generator=generator(13)), torch.randn(4, 20, generator=generator(14))
# By method the tensors of a layer, as in a file, and the weight that they make of WEIGHT: the paper's formula.
WRITTEN: dict[str, tuple[dict[str, Tensor], Tensor]] = {
    "lora": ({"lora_up.weight": UP, "lora_down.weight": DOWN, "alpha": torch.tensor(2.0)}, WEIGHT + UP @ DOWN / 2),
    "deft": ({"deft_Q": BASIS, "deft_R": DOWN}, (IDENTITY - BASIS @ BASIS.T) @ WEIGHT + BASIS @ DOWN),
    "para": ({"deft_Q": BASIS}, (IDENTITY - BASIS @ BASIS.T) @ WEIGHT),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_tensors_of_a_file_mean_the_formula(name: str) -> None:
    tensors, changed = WRITTEN[name]
    method = methods.get(name)
    assert methods.method_of(tensors) is method
    factors = method.from_tensors(tensors)
    assert relative(method.delta(factors, WEIGHT), changed - WEIGHT) < 1e-6
    up, down = method.to_lora(factors, WEIGHT)
    assert relative(up @ down, changed - WEIGHT) < 1e-6
    again = method.from_tensors(method.to_tensors(factors))
    assert torch.equal(method.delta(again, WEIGHT), method.delta(factors, WEIGHT))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_method(name: str, options: dict[str, Any], kind: str, rank: int, alpha: float | None) -> None:
    method = methods.get(name)
    layer, x = make_layer(kind)
    weight = layer.weight
    params = make_params(method, weight, rank, alpha, options)
    factors = factors_of(name, params, alpha=alpha, **options)
    removal, injection = 0.7, 1.3

    # delta: the formula, shape and dtype
    change = method.delta(factors, weight, removal=removal, injection=injection)
    assert change.shape == weight.shape
    assert change.dtype == torch.float32
    expected = expected_delta(name, factors, weight, removal, injection)
    assert relative(change, expected) < 1e-6
    assert relative(method.delta(factors, weight), expected_delta(name, factors, weight)) < 1e-6

    # forward: equal to the merged weight
    op = op_of(layer)
    bias = layer.bias if kind == "linear" else layer.bias[:, None, None]
    out = layer(x)
    added = method.forward(factors, op, x, out - bias, removal=removal, injection=injection)
    merged = copy.deepcopy(layer)
    merged.weight.copy_(weight + change)
    assert relative(out + added, merged(x)) < 1e-5

    # LoRA form: rank r and the same change
    up, down = method.to_lora(factors, weight)
    assert up.shape == (24, min(rank, 24 if name != "lora" else min(24, weight.flatten(1).shape[1])))
    assert down.shape == (up.shape[1], weight.flatten(1).shape[1])
    assert relative((up @ down).reshape(weight.shape), expected_delta(name, factors, weight)) < 1e-6

    # file entries: nothing lost
    tensors = method.to_tensors(factors)
    assert set(tensors) <= set(method.suffixes)
    assert methods.method_of(tensors) is method
    again = method.from_tensors(tensors)
    assert torch.equal(method.delta(again, weight), method.delta(factors, weight))

    # gradients reach every parameter
    (method.forward(factors, op, x, out - bias) * torch.randn(added.shape, generator=generator(5))).sum().backward()
    for key, param in params.items():
        assert param.grad is not None, key
        assert torch.isfinite(param.grad).all(), key
        square = options.get("projector", "qr") in ("qr", "svd")
        if not (key in ("P", "B") and square and param.shape[1] == 24):  # a square Q Q^T is I whatever P is ...
            assert param.grad.norm() > 1e-6, key


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("projector", PROJECTORS)
def test_deft_starts_at_the_identity(projector: str, kind: str, rank: int, alpha: float | None) -> None:
    layer, x = make_layer(kind)
    params = start("deft", layer.weight, rank, alpha=alpha, projector=projector)
    factors = factors_of("deft", params, alpha=alpha, projector=projector)
    change = methods.get("deft").delta(factors, layer.weight)
    if alpha is None or (alpha / factors.Q.shape[1]).hex().startswith("0x1.0000000000000p"):
        assert not change.any()  # scaling by a power of two is exact
    else:
        assert relative(layer.weight + change, layer.weight) < 1e-7


@pytest.mark.parametrize("kind", KINDS)
def test_lora_starts_at_the_identity(kind: str) -> None:
    layer, _ = make_layer(kind)
    lora = methods.get("lora")
    params = start("lora", layer.weight, 4, alpha=16.0)
    assert not lora.delta(factors_of("lora", params, alpha=16.0), layer.weight).any()
    bound = layer.weight.flatten(1).shape[1] ** -0.5
    reference = torch.empty_like(params["down"])
    nn.init.kaiming_uniform_(reference, a=5**0.5)
    assert bound * 0.8 < params["down"].abs().max() <= bound
    assert params["down"].std().item() == pytest.approx(reference.std().item(), rel=0.25)


def test_paper_initialisation_changes_the_weight() -> None:
    layer = nn.Linear(640, 320)
    params = start("deft", layer.weight, 8, identity=False)
    assert params["P"].std().item() == pytest.approx(0.02, rel=0.05)
    assert params["R"].std().item() == pytest.approx(0.02, rel=0.05)
    assert methods.get("deft").delta(factors_of("deft", params), layer.weight).norm() > 0.1


@pytest.mark.parametrize("name", methods.TRAINABLE)
def test_init_is_private_and_reproducible(name: str) -> None:
    layer, _ = make_layer("linear")
    state = torch.random.get_rng_state()
    first = start(name, layer.weight, 4, seed=3)
    second = start(name, layer.weight, 4, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    for key in first:
        assert torch.equal(first[key], second[key])
        assert first[key].requires_grad
        assert first[key].is_leaf
        assert first[key].dtype == torch.float32


@pytest.mark.parametrize("name", RANKED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_base(name: str, dtype: torch.dtype) -> None:
    """The change is computed in float32 whatever the weight is; activations keep their dtype."""
    layer, x = make_layer("linear")
    half = layer.weight.to(dtype)
    method = methods.get(name)
    factors = factors_of(name, make_params(method, half, 4, 8.0, {}), alpha=8.0)
    change = method.delta(factors, half)
    assert change.dtype == torch.float32
    assert relative(change, expected_delta(name, factors, half.float())) < 1e-6
    y = nn.functional.linear(x.to(dtype), half)
    added = method.forward(factors, LinearOp(), x.to(dtype), y)
    assert added.dtype == dtype
    assert relative(added, nn.functional.linear(x, change)) < 0.05


@pytest.mark.parametrize("projector", PROJECTORS)
@pytest.mark.parametrize("shape", [(12, 3), (12, 1), (5, 5), (3, 8)])
def test_projectors(projector: str, shape: tuple[int, int]) -> None:
    P = torch.randn(shape, generator=generator())
    Q, right = project(P.bfloat16(), projector)
    P = P.bfloat16().float()
    assert Q.dtype == right.dtype == torch.float32
    if projector in ("qr", "svd"):
        assert Q.shape == (shape[0], min(shape))
        assert torch.allclose(Q.T @ Q, torch.eye(Q.shape[1]), atol=1e-5)
        assert torch.allclose(Q @ (Q.T @ P), P, atol=1e-5)  # the column space of P
        assert right is Q
    if projector == "qr":
        triangular = Q.T @ P
        assert (triangular.diagonal() > 0).all()
        assert torch.allclose(triangular.tril(-1), torch.zeros_like(triangular), atol=1e-5)
        assert torch.allclose(project(Q, "qr")[0], Q, atol=1e-6)
        raw, signs = raw_qr(P)
        assert torch.equal(raw, torch.linalg.qr(P).Q)
        assert torch.allclose(raw * signs, Q, rtol=0, atol=2e-7)
    if projector == "relu":
        assert torch.equal(Q, P)
        assert torch.equal(right, P.clamp(min=0))
    if projector == "ppt":
        assert torch.equal(Q, P)
        assert torch.equal(right, P)


@pytest.mark.parametrize("projector", PROJECTORS)
def test_gradient_through_the_projector(projector: str) -> None:
    """The gradient of a delta's loss with respect to P against central differences."""
    layer, _ = make_layer("linear")
    target = torch.randn(layer.weight.shape, generator=generator(4))
    deft = methods.get("deft")
    params = start("deft", layer.weight, 3, identity=False)
    P = (params["P"].detach() * 50).requires_grad_()  # entries of size 1, so that float32 differences mean something

    def loss(P: Tensor) -> Tensor:
        return (deft.delta(factors_of("deft", {**params, "P": P}, projector=projector), layer.weight) * target).sum()

    (gradient,) = torch.autograd.grad(loss(P), P)
    direction = torch.randn(P.shape, generator=generator(6))
    step = 1e-3
    with torch.no_grad():
        numeric = (loss(P + step * direction) - loss(P - step * direction)).double() / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(numeric.item(), rel=5e-3)


def test_unsupported_layers_are_refused() -> None:
    for layer in (nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")):
        with pytest.raises(ValueError, match="Conv2d with .* cannot have an adapter"):
            op_of(layer)
    for layer in (nn.ConvTranspose2d(8, 8, 3), nn.LayerNorm(8)):
        with pytest.raises(ValueError, match=f"{type(layer).__name__} layers cannot have"):
            op_of(layer)


def test_bad_settings_are_named() -> None:
    weight = torch.zeros(4, 4)
    with pytest.raises(ValueError, match="Unknown method 'boft': choose one of deft, para, lora"):
        methods.get("boft")
    with pytest.raises(ValueError, match="Unknown projector 'nmf'"):
        project(weight, "nmf")
    for name in RANKED:
        with pytest.raises(ValueError, match="rank must be at least 1"):
            start(name, weight, 0)
    with pytest.raises(ValueError, match="alpha must be positive"):
        start("deft", weight, 2, alpha=0.0)
    with pytest.raises(ValueError, match="No method has layers with the tensors deft_R"):
        methods.method_of(["deft_R"])


def test_move_changes_tensors_only() -> None:
    params = start("deft", torch.randn(6, 5, generator=generator()), 2, alpha=3.0)
    factors = factors_of("deft", params, alpha=3.0)
    moved = methods.move(factors, dtype=torch.bfloat16)
    assert moved.Q.dtype == moved.R.dtype == torch.bfloat16
    assert moved.right is None
    assert moved.scale == factors.scale == 1.5
