"""DoRA, LoKr and OFT in training, beside PEFT's and LyCORIS' own layers: outputs, gradients, merged weights, files.

Those layers run under plain autograd on the same tensors; ours are what the trainer puts on a frozen layer.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deft_pack.deft_ops import adapter as adapters
from deft_pack.deft_ops import changes, files, methods
from deft_pack.deft_ops.files import peft_writer
from deft_pack.deft_ops.layer_ops import op_of
from deft_pack.deft_ops.methods import lokr, oft

from ..tools import random, relative

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(24, 32), (2, 5, 24)),
    "no bias": (lambda: nn.Linear(24, 32, bias=False), (5, 24)),
    "1x1": (lambda: nn.Conv2d(24, 32, 1), (2, 24, 5, 5)),
    "3x3": (lambda: nn.Conv2d(24, 32, 3, 2, 1), (2, 24, 6, 7)),
    "1-D": (lambda: nn.Conv1d(24, 32, 3, padding=1), (2, 24, 7)),
    "3-D": (lambda: nn.Conv3d(24, 32, (1, 2, 3)), (2, 24, 3, 4, 5)),
}
NAMES = ("dora", "lokr", "oft")


def layer_of(kind: str) -> tuple[nn.Module, Tensor]:
    """A frozen layer with random weights, and inputs for it."""
    make, inputs = LAYERS[kind]
    layer = make()
    for index, parameter in enumerate(layer.parameters()):
        parameter.data = 0.2 * random(*parameter.shape, seed=index)
    return layer.requires_grad_(False), random(*inputs, seed=9)


class Trained:
    """A method on a layer, as after some training: every tensor moved away from its start."""

    def __init__(self, name: str, layer: nn.Module, rank: int = 4, **own: Any) -> None:
        self.method = methods.get(name)
        self.training = methods.training_of(name)
        self.own = self.training.settings_of(rank=rank, **own)
        self.layer, self.weight = layer, layer.weight.detach()
        self.start = self.training.init(self.weight, rank, self.own, torch.Generator().manual_seed(1))
        self.params = {
            key: (value.detach() + 0.1 * random(*value.shape, seed=20 + place)).requires_grad_()
            for place, (key, value) in enumerate(self.start.items())
        }

    @property
    def factors(self) -> Any:
        """What is applied and saved."""
        return self.training.factors(self.params, self.own)

    def output(self, x: Tensor, params: dict[str, Tensor] | None = None) -> Tensor:
        """What the layer gives with the change on its activations."""
        factors = self.training.factors(params or self.params, self.own)
        change = self.training.change(factors, lambda: self.weight.float(), None)
        assert not isinstance(change, changes.WeightChange)
        op, y = op_of(self.layer), self.layer(x)
        bias = self.layer.bias
        plain = y if bias is None else y - bias.view([-1 if dim == op.channel(y) else 1 for dim in range(y.ndim)])
        return y + change.forward(op, x, plain)

    def delta(self) -> Tensor:
        """The change of the weight."""
        return self.method.delta(self.factors, self.weight)


def check(trained: Trained, reference: nn.Module, same: dict[str, Tensor], x: Tensor, merged: Tensor | None) -> None:
    """Outputs, merged weights and gradients are those of a reference whose parameters `same` are ours by name."""
    x = x.clone().requires_grad_()
    ours, theirs = trained.output(x), reference(x)
    assert relative(ours, trained.layer(x)) > 1e-2
    assert relative(ours, theirs) < 1e-5
    if merged is not None:
        assert relative(trained.weight + trained.delta(), merged) < 1e-5
    grad = random(*ours.shape, seed=3)
    keys = list(same)
    own = torch.autograd.grad(ours, [x, *(trained.params[key] for key in keys)], grad)
    expected = torch.autograd.grad(theirs, [x, *(same[key] for key in keys)], grad)
    for key, one, other in zip(["x", *keys], own, expected, strict=True):
        assert relative(one.flatten(), other.flatten()) < 2e-5, key


def with_peft(config: Any, layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The layer with PEFT's on it, frozen but for that; the model and PEFT's layer."""
    import peft

    model = peft.inject_adapter_in_model(config, nn.Sequential(copy.deepcopy(layer)))
    return model.train(), model[0]


# ---------------------------------------------------------------------------------------------------------------- DoRA


@pytest.mark.parametrize("alpha", [None, 8.0])
@pytest.mark.parametrize("kind", LAYERS)
def test_dora_is_pefts(kind: str, alpha: float | None) -> None:
    """The norm is that of the merged weight, and no gradient goes through it."""
    import peft

    layer, x = layer_of(kind)
    trained = Trained("dora", layer, alpha=alpha)
    config = peft.LoraConfig(r=4, lora_alpha=alpha or 4, target_modules=["0"], use_dora=True)
    model, theirs = with_peft(config, layer)
    same = {
        "up": theirs.lora_B["default"].weight,
        "down": theirs.lora_A["default"].weight,
        "magnitude": theirs.lora_magnitude_vector["default"].weight,
    }
    for key, value in same.items():
        value.data.copy_(trained.params[key].detach().view(value.shape))
    merged = copy.deepcopy(theirs)
    merged.merge()
    check(trained, model, same, x, merged.base_layer.weight)


@pytest.mark.parametrize("kind", ["linear", "3x3"])
def test_dora_starts_at_the_base_to_the_last_bit(kind: str) -> None:
    layer, x = layer_of(kind)
    trained = Trained("dora", layer)
    assert torch.equal(trained.output(x, trained.start), layer(x))
    assert torch.equal(trained.start["magnitude"], layer.weight.flatten(1).norm(dim=1))


def test_a_row_of_zeros_stays_one() -> None:
    """PEFT's layer gives no numbers there."""
    layer, x = layer_of("linear")
    layer.weight[3] = 0
    trained = Trained("dora", layer)
    out = trained.output(x, trained.start)
    assert torch.equal(out, layer(x))
    grads = torch.autograd.grad(out.square().sum(), list(trained.start.values()))
    assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("kind", LAYERS)
def test_dora_as_a_file(kind: str) -> None:
    """m is in it for whoever takes the merged weight's norm, and m |W| / |V| for ComfyUI, which takes the base's."""
    layer, _ = layer_of(kind)
    trained = Trained("dora", layer, alpha=2.0)
    saved = trained.training.for_saving(trained.factors, trained.weight)
    tensors = trained.method.to_tensors(saved)
    assert set(tensors) == {"lora_up.weight", "lora_down.weight", "dora_scale", "dora_magnitude", "alpha"}
    assert methods.method_of(tensors) is trained.method
    again = trained.method.from_tensors(tensors)
    assert torch.equal(trained.method.delta(again, trained.weight), trained.delta())
    assert trained.method.to_tensors(again).keys() == tensors.keys()
    assert all(torch.equal(value, tensors[key]) for key, value in trained.method.to_tensors(again).items())
    # ComfyUI, comfy/weight_adapter/base.py, weight_decompose.
    scale = tensors["alpha"] / 4
    changed = trained.weight + scale * (tensors["lora_up.weight"] @ tensors["lora_down.weight"]).view_as(trained.weight)
    norms = trained.weight.flatten(1).norm(dim=1).view(-1, *(1 for _ in trained.weight.shape[1:]))
    assert tensors["dora_scale"].shape == norms.shape
    assert relative(changed * tensors["dora_scale"] / norms, trained.weight + trained.delta()) < 1e-5


@pytest.mark.parametrize("alpha", [None, 8.0])
def test_a_peft_folder_of_dora_is_read_by_peft_and_here(alpha: float | None, tmp_path: Path) -> None:
    import peft

    layer, x = layer_of("linear")
    trained = Trained("dora", layer, alpha=alpha)
    saved = trained.method.to_tensors(trained.training.for_saving(trained.factors, trained.weight))
    folder = peft_writer.write(adapters.from_layers({"a": saved}), tmp_path / "out", {"a": "inner.layer"})
    tree = nn.ModuleDict({"inner": nn.ModuleDict({"layer": copy.deepcopy(layer)})})
    model = peft.PeftModel.from_pretrained(tree, folder).eval()
    wrapped = model.base_model.model["inner"]["layer"]
    with torch.no_grad():
        assert relative(wrapped(x), trained.output(x)) < 1e-5
    (group,) = adapters.layers(files.read(folder)).values()
    again = trained.method.delta(trained.method.from_tensors(group), trained.weight)
    assert relative(again, trained.delta()) < 1e-6


def test_oft_has_no_peft_folder(tmp_path: Path) -> None:
    """PEFT's layer rotates the inputs: what it can do to a weight leaves the products of its rows as they are."""
    layer, _ = layer_of("linear")
    trained = Trained("oft", layer, block_size=8)
    adapter = adapters.from_layers({"a": trained.method.to_tensors(trained.factors)})
    with pytest.raises(ValueError, match="PEFT.s OFT rotates a layer.s inputs, and this one its outputs"):
        peft_writer.write(adapter, tmp_path / "out", {"a": "inner.layer"})
    assert isinstance(trained.method.peft, str)
    changed = trained.weight + trained.delta()
    assert relative(changed.T @ changed, trained.weight.T @ trained.weight) < 1e-5  # rotated outputs
    assert relative(changed @ changed.T, trained.weight @ trained.weight.T) > 1e-2  # which no rotation of inputs does


# ---------------------------------------------------------------------------------------------------------------- LoKr


def test_the_two_sizes_are_those_of_lycoris() -> None:
    from lycoris.functional.general import factorization

    for size in [*range(1, 130), 320, 640, 768, 1280, 3072, 5120]:
        for factor in (-1, 1, 2, 3, 4, 8, 16, 100):
            assert lokr.split(size, factor) == factorization(size, factor), (size, factor)


@pytest.mark.parametrize("rank", [1, 2, 40])
@pytest.mark.parametrize("factor", [-1, 4])
@pytest.mark.parametrize("kind", ["linear", "no bias", "1x1", "3x3"])
def test_lokr_is_pefts(kind: str, factor: int, rank: int) -> None:
    """Whole and in two factors; an alpha counts for the latter."""
    import peft

    layer, x = layer_of(kind)
    trained = Trained("lokr", layer, rank, alpha=3.0, factor=factor)
    whole = "w2" in trained.params
    assert whole == (rank == 40)
    alpha = rank if whole else 3.0  # LyCORIS gives a whole one no scale
    config = peft.LoKrConfig(r=rank, alpha=alpha, target_modules=["0"], decompose_factor=factor)
    model, theirs = with_peft(config, layer)
    same = {key: getattr(theirs, f"lokr_{key}")["default"] for key in trained.params}
    for key, value in same.items():
        value.data.copy_(trained.params[key].detach().view(value.shape))
    merged = copy.deepcopy(theirs)
    merged.merge()
    check(trained, model, same, x, merged.base_layer.weight)


@pytest.mark.parametrize("rank", [1, 40])
@pytest.mark.parametrize("kind", LAYERS)
def test_lokr_is_lycoris_own(kind: str, rank: int) -> None:
    from lycoris.modules.lokr import LokrModule

    layer, x = layer_of(kind)
    trained = Trained("lokr", layer, rank, alpha=0.5)
    reference = LokrModule("layer", layer, 1.0, lora_dim=rank, alpha=0.5)
    same = {key: getattr(reference, f"lokr_{key}") for key in trained.params}
    for key, value in same.items():
        assert (value == 0).all() == (trained.start[key] == 0).all()  # it starts as LyCORIS does
        value.data = trained.params[key].detach().reshape(value.shape).clone()
    # LyCORIS merges with the scale twice; the delta is compared with what its layer gives.
    check(trained, reference, same, x, None)
    merged = torch.func.functional_call(layer, {"weight": trained.weight + trained.delta()}, x)
    assert relative(merged, reference(x)) < 1e-5


# What PEFT's LoKr can hold.
HELD = ("linear", "no bias", "1x1", "3x3")


def peft_folder(layers: dict[str, tuple[nn.Module, dict[str, Tensor]]], folder: Path, **options: Any) -> nn.Module:
    """A network of layers, by name, with their adapters' tensors, as PEFT loads and merges it from a folder."""
    import peft

    tree = nn.ModuleDict({"inner": nn.ModuleDict({name: copy.deepcopy(layer) for name, (layer, _) in layers.items()})})
    adapter = adapters.from_layers({f"diffusion_model.{name}": tensors for name, (_, tensors) in layers.items()})
    names = {f"diffusion_model.{name}": f"inner.{name}" for name in layers}
    shapes = {f"diffusion_model.{name}": tuple(layer.weight.shape) for name, (layer, _) in layers.items()}
    peft_writer.write(adapter, folder, names, shapes)
    return peft.PeftModel.from_pretrained(tree, folder, **options).merge_and_unload()["inner"]


@pytest.mark.parametrize("alpha", [None, 3.0])
@pytest.mark.parametrize("factor", [-1, 2, 4])
@pytest.mark.parametrize("rank", [1, 3, 40])
def test_a_peft_folder_of_lokr_is_merged_by_peft_and_read_here(
    rank: int, factor: int, alpha: float | None, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Some layers have w2 whole, which has the scale 1 whatever alpha is, and some as a product."""
    layers = {kind: layer_of(kind)[0] for kind in HELD} | {"narrow": nn.Linear(16, 20).requires_grad_(False)}
    trained = {kind: Trained("lokr", layer, rank, alpha=alpha, factor=factor) for kind, layer in layers.items()}
    saved = {kind: (one.layer, one.method.to_tensors(one.factors)) for kind, one in trained.items()}
    whole = {"lokr_w2" in tensors for _, tensors in saved.values()}
    assert whole == ({True, False} if rank == 3 and factor != 2 else {rank == 40})
    merged = peft_folder(saved, tmp_path / "out")
    assert [str(each.message) for each in recwarn if "peft" in str(each.filename)] == []  # no field that it ignores
    again = files.read(tmp_path / "out")
    for kind, one in trained.items():
        assert relative(merged[kind].weight, one.weight + one.delta()) < 1e-5
        tensors = {key.rpartition(".")[2]: value for key, value in again.items() if key.startswith(f"inner.{kind}.")}
        assert relative(one.method.delta(lokr.from_tensors(tensors), one.weight), one.delta()) < 1e-6


@pytest.mark.parametrize(
    "parts",
    [
        {"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 4), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 6 * 9), "alpha": 3.0},
        {"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 4), "lokr_w2": (8, 6, 3, 3), "alpha": 3.0},
        {"lokr_w1": (4, 4, 1, 1), "lokr_w2_a": (8, 5), "lokr_w2_b": (5, 6, 3, 3), "alpha": 3.0},
        {"lokr_w1": (4, 4), "lokr_t2": (2, 2, 3, 3), "lokr_w2_a": (2, 8), "lokr_w2_b": (2, 6), "alpha": 3.0},
    ],
    ids=["two products", "w1 a product", "more rank than PEFT splits", "tucker"],
)
def test_other_programs_lokr_as_a_peft_folder(parts: dict[str, Any], tmp_path: Path) -> None:
    layer, _ = layer_of("3x3")
    tensors = {
        key: 0.2 * random(*shape, seed=place) if isinstance(shape, tuple) else torch.tensor(shape)
        for place, (key, shape) in enumerate(parts.items())
    }
    merged = peft_folder({"a": (layer, tensors)}, tmp_path / "out")
    assert (
        relative(merged["a"].weight, layer.weight + lokr.METHOD.delta(lokr.from_tensors(tensors), layer.weight)) < 1e-5
    )


def test_the_sizes_of_a_decompose_factor_are_pefts() -> None:
    from peft.tuners.lokr.layer import factorization

    for size in [*range(1, 130), 320, 640, 768, 1280, 3072, 5120]:
        for factor in (-1, 1, 2, 3, 4, 8, 16, 40, 100):
            assert lokr.pefts_split(size, factor) == factorization(size, factor), (size, factor)


def test_a_decompose_factor_that_is_neither_the_trained_one_nor_a_first_size(tmp_path: Path) -> None:
    """256 = 8 x 32 and 24 = 4 x 6, as of the factor 9: 8 would make 8 x 3 of the 24."""
    layer = nn.Linear(24, 256)
    trained = Trained("lokr", layer, 2, factor=9)
    merged = peft_folder({"a": (layer, trained.method.to_tensors(trained.factors))}, tmp_path / "out")
    assert relative(merged["a"].weight, trained.weight + trained.delta()) < 1e-5
    assert '"decompose_factor": 9' in (tmp_path / "out" / "adapter_config.json").read_text()


def test_what_pefts_lokr_does_not_hold(tmp_path: Path) -> None:
    import peft

    def refused(saved: dict[str, tuple[nn.Module, dict[str, Tensor]]], *words: str) -> None:
        with pytest.raises(ValueError, match="cannot be written for PEFT") as caught:
            peft_folder(saved, tmp_path / "out")
        assert all(word in str(caught.value) for word in words)
        assert not (tmp_path / "out").exists()

    def saved(layer: nn.Module, **own: Any) -> tuple[nn.Module, dict[str, Tensor]]:
        trained = Trained("lokr", layer, 2, **own)
        return layer, trained.method.to_tensors(trained.factors)

    # A factor that divides 64 and is above its root: here 4 x 16, in PEFT 16 x 4, but 256 = 16 x 16 in both.
    both = {"b": saved(nn.Linear(64, 64), factor=16), "a": saved(nn.Linear(256, 256), factor=16)}
    refused(both, "256 into 16 and 16 at diffusion_model.a", "train it with the factor -1")
    # A layer of four outputs: 1 x 4 with the factor 4, and 4 x 1 in PEFT.
    refused({"a": saved(nn.Linear(16, 4), factor=4)}, "16 into 4 and 4 at diffusion_model.a")
    peft_folder({"b": both["b"]}, tmp_path / "alone")  # of the factor 4 in PEFT
    linear = layer_of("linear")[0]
    norms = saved(linear)[1] | {"dora_scale": torch.ones(32, 1)}
    refused({"a": (linear, norms)}, "diffusion_model.a has the norms of DoRA (dora_scale)")
    refused({"a": (nn.Linear(20, 32), saved(linear)[1])}, "diffusion_model.a is not for the model's weight of [32, 20]")
    for kind in ("1-D", "3-D"):
        refused({"a": saved(layer_of(kind)[0])}, f"diffusion_model.a is a {kind} convolution")
    # In one dimension PEFT merges something else than the Kronecker product, and three it does not have.
    trained = Trained("lokr", layer_of("1-D")[0], 40)
    _, theirs = with_peft(peft.LoKrConfig(r=40, alpha=40, target_modules=["0"]), trained.layer)
    for key, value in trained.params.items():
        of_peft = getattr(theirs, f"lokr_{key}")["default"]
        of_peft.data.copy_(value.detach().view(of_peft.shape))
    theirs.merge()
    assert relative(theirs.base_layer.weight - trained.weight, trained.delta()) > 0.1
    with pytest.raises(TypeError, match="not supported"):
        with_peft(peft.LoKrConfig(r=2, alpha=2, target_modules=["0"]), layer_of("3-D")[0])


def test_a_damaged_lokr_is_named_before_it_is_written(tmp_path: Path) -> None:
    tensors = {"lokr_w1": torch.ones(4, 4), "lokr_w2_a": torch.ones(8, 2), "lokr_w2_b": torch.ones(3, 6)}
    adapter = adapters.from_layers({"a": tensors})
    with pytest.raises(ValueError, match=r"does not fit together at layer a \(a.lokr_w1, .*cannot be multiplied"):
        peft_writer.write(adapter, tmp_path / "out", {"a": "inner.layer"})
    with pytest.raises(ValueError, match="a.lokr_w1 is of another format"):
        peft_writer.write(adapters.from_layers({"a": {"lokr_w1": torch.ones(4, 4)}}), tmp_path / "out", {"a": "b"})


@pytest.mark.parametrize("rank", [1, 40])
@pytest.mark.parametrize("kind", LAYERS)
def test_lokr_makes_nothing_of_the_weights_size(kind: str, rank: int) -> None:
    """Neither forward nor backward; its shapes here are those of no activations."""
    from torch.utils._python_dispatch import TorchDispatchMode

    layer, x = layer_of(kind)
    trained = Trained("lokr", layer, rank)
    made: list[tuple[int, ...]] = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            made.extend(
                tuple(value.shape)
                for value in (out if isinstance(out, (tuple, list)) else [out])
                if isinstance(value, Tensor)
            )
            return out

    change = trained.training.change(trained.factors, lambda: pytest.fail("the weight is not needed"), None)
    y = layer(x)
    with Watching():
        change.forward(op_of(layer), x, y).sum().backward()
    assert made
    assert trained.weight.numel() not in {torch.Size(shape).numel() for shape in made}


# ----------------------------------------------------------------------------------------------------------------- OFT


@pytest.mark.parametrize("constraint", [0.0, 0.02, 5.0])
@pytest.mark.parametrize("kind", LAYERS)
def test_oft_is_lycoris_own(kind: str, constraint: float) -> None:
    """Constrained, not at all and, by a constraint that the blocks do not reach, as if there were none."""
    from lycoris.modules.diag_oft import DiagOFTModule

    layer, x = layer_of(kind)
    trained = Trained("oft", layer, block_size=4, constraint=constraint)
    reference = DiagOFTModule("layer", layer, 1.0, lora_dim=4, constraint=constraint)
    reference.oft_blocks.data = trained.params["blocks"].detach().clone()
    check(trained, reference, {"blocks": reference.oft_blocks}, x, reference.get_merged_weight()[0])
    saved = trained.method.from_tensors(trained.method.to_tensors(trained.factors))
    assert saved.constraint == 10000  # the blocks of the file are within the limit themselves
    assert relative(trained.method.delta(saved, trained.weight), trained.delta()) < 1e-6


def test_oft_is_pefts_of_the_transposed_weight() -> None:
    """PEFT turns inputs: on W^T it makes the same rotation of W's rows."""
    import peft

    layer, _ = layer_of("no bias")
    trained = Trained("oft", layer, block_size=8)
    turned = nn.Linear(32, 24, bias=False)
    turned.weight.data = layer.weight.T.clone()
    config = peft.OFTConfig(r=0, oft_block_size=8, target_modules=["0"], use_cayley_neumann=False)
    model, theirs = with_peft(config, turned)
    blocks = trained.params["blocks"].detach().triu(1)
    rows, columns = torch.triu_indices(8, 8, 1)
    theirs.oft_R["default"].weight.data = blocks[:, rows, columns].clone()
    params = {"blocks": blocks.requires_grad_()}
    weight = trained.weight + trained.method.delta(trained.training.factors(params, trained.own), trained.weight)
    identity = torch.eye(32)
    assert relative(weight.T, model(identity).T) < 1e-5
    grad = random(32, 24)
    (own,) = torch.autograd.grad(weight, params["blocks"], grad)
    (expected,) = torch.autograd.grad(model(identity), theirs.oft_R["default"].weight, grad)
    assert relative(own[:, rows, columns], expected) < 2e-5


def test_oft_as_a_file_is_read_by_all() -> None:
    """kohya's scripts (networks/oft.py) would make nothing of an alpha of 0: alpha * out bounds the norm there."""
    layer, _ = layer_of("3x3")
    trained = Trained("oft", layer, block_size=8)
    tensors = trained.method.to_tensors(trained.factors)
    assert set(tensors) == {"oft_blocks", "alpha"}
    assert tensors["oft_blocks"].shape == (4, 8, 8)
    assert methods.method_of(tensors) is trained.method
    again = trained.method.from_tensors(tensors)
    assert torch.equal(trained.method.delta(again, trained.weight), trained.delta())
    block_Q = tensors["oft_blocks"] - tensors["oft_blocks"].transpose(1, 2)
    norm_Q = torch.norm(block_Q.flatten())
    new_norm_Q = torch.clamp(norm_Q, max=float(tensors["alpha"]) * 32)
    block_Q = block_Q * ((new_norm_Q + 1e-8) / (norm_Q + 1e-8))
    identity = torch.eye(8)
    block_R = (identity + block_Q) @ (identity - block_Q).inverse()
    weight = torch.einsum("k n m, k n p -> k m p", block_R, trained.weight.reshape(4, 8, -1)).view_as(trained.weight)
    assert relative(weight, trained.weight + trained.delta()) < 1e-5


@pytest.mark.parametrize(
    ("out", "size", "taken"), [(32, 8, 8), (30, 32, 30), (48, 32, 24), (320, 32, 32), (7, 4, 7), (4, 32, 4), (1, 32, 1)]
)
def test_a_block_is_the_nearest_divisor_and_that_is_said(out: int, size: int, taken: int) -> None:
    training = methods.training_of("oft")
    own = training.settings_of(block_size=size)
    params = training.init(torch.zeros(out, 5), 1, own, torch.Generator())
    assert params["blocks"].shape == (out // taken, taken, taken)
    assert bool(training.otherwise(params, own)) == (taken != size)
    with pytest.raises(ValueError, match="at least 2"):
        oft.size_of_blocks(out, 1)


# ------------------------------------------------------------------------------------------------------------ all of it


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", NAMES)
def test_training_starts_at_the_base(name: str, kind: str) -> None:
    layer, x = layer_of(kind)
    trained = Trained(name, layer)
    assert relative(trained.output(x, trained.start), layer(x)) < 1e-7
    change = trained.method.delta(trained.training.factors(trained.start, trained.own), trained.weight)
    assert change.abs().max() < 1e-6
    # And leaves it: some gradient is there.
    output = trained.output(x, trained.start)
    grads = torch.autograd.grad(output, list(trained.start.values()), random(*output.shape, seed=3))
    assert any(grad.abs().max() > 1e-4 for grad in grads)


@pytest.mark.parametrize("name", NAMES)
def test_small_changes_are_not_lost_in_bf16(name: str) -> None:
    """Gains and rotations near 1 would be 1 in bf16."""
    layer, x = layer_of("linear")
    trained = Trained(name, layer)
    params = {
        key: (value.detach() + 2e-3 * random(*value.shape, seed=5)).requires_grad_()
        for key, value in trained.start.items()
    }
    factors = trained.training.factors(params, trained.own)
    expected = nn.functional.linear(x, trained.method.delta(factors, trained.weight))
    change = trained.training.change(factors, lambda: trained.weight, None)
    half = x.bfloat16()
    added = change.forward(op_of(layer), half, nn.functional.linear(half, layer.weight.bfloat16()))
    assert added.dtype == torch.bfloat16
    assert relative(added, expected) < 2e-2


@pytest.mark.parametrize("kind", ["1x1", "3x3", "1-D", "3-D"])
@pytest.mark.parametrize("name", NAMES)
def test_a_picture_alone_is_as_in_a_batch(name: str, kind: str) -> None:
    """ComfyUI's code calls some convolutions without a batch."""
    layer, x = layer_of(kind)
    trained = Trained(name, layer)
    assert relative(trained.output(x[0]), trained.output(x)[0]) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_lora_form_is_the_change(name: str) -> None:
    layer, _ = layer_of("3x3")
    trained = Trained(name, layer)
    with torch.no_grad():
        up, down = trained.method.to_lora(trained.factors, trained.weight)
    assert relative((up @ down).view_as(trained.weight), trained.delta()) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_a_file_entry_for_each_trained_tensor(name: str) -> None:
    layer, _ = layer_of("linear")
    trained = Trained(name, layer)
    factors = trained.training.for_saving(trained.factors, trained.weight)
    tensors = trained.method.to_tensors(factors)
    assert set(tensors) <= set(trained.method.suffixes)
    assert all(value.is_contiguous() and not value.requires_grad for value in tensors.values())
    again = trained.method.from_tensors(tensors)
    assert {field.name for field in dataclasses.fields(again)} == {field.name for field in dataclasses.fields(factors)}
    assert torch.equal(trained.method.delta(again, trained.weight), trained.delta())
