"""Factors with companions against what writes them: DoRA of LoHa, LoKr and Tucker LoRA, rescaled and constrained OFT.

The reference is LyCORIS' own forward, PEFT's merge, or OneTrainer's and kohya's forward written out from their sources.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deft_pack.deft_ops import adapter as adapters
from deft_pack.deft_ops import files, methods

from ..tools import random, relative

LAYERS: dict[str, tuple[type[nn.Module], tuple[Any, ...], tuple[int, ...]]] = {
    "linear": (nn.Linear, (24, 32), (5, 24)),
    "1x1": (nn.Conv2d, (24, 32, 1), (2, 24, 5, 5)),
    "3x3": (nn.Conv2d, (24, 32, 3, 2, 1), (2, 24, 6, 6)),
    "1-D": (nn.Conv1d, (24, 32, 3), (2, 24, 7)),
    "3-D": (nn.Conv3d, (24, 32, (1, 2, 3)), (2, 24, 3, 4, 5)),
}


def layer_of(kind: str) -> tuple[nn.Module, Tensor]:
    """A layer with random weights, and inputs for it."""
    cls, arguments, inputs = LAYERS[kind]
    layer = cls(*arguments)
    for index, parameter in enumerate(layer.parameters()):
        parameter.data = 0.2 * random(*parameter.shape, seed=index)
    return layer.requires_grad_(False), random(*inputs, seed=9)


def with_weight(layer: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    """What the layer gives with another weight."""
    return torch.func.functional_call(layer, {"weight": weight}, x)


def check(tensors: dict[str, Tensor], layer: nn.Module, x: Tensor, expected: Tensor, name: str) -> None:
    """The layer with the change gives what is expected; so do the LoRA form and the file's entries written anew."""
    method = methods.method_of(tensors)
    assert method is methods.get(name)
    assert not method.low_rank
    factors, weight = method.from_tensors(tensors), layer.weight
    shape = tuple(weight.shape)
    assert method.fits(factors, shape)
    assert not method.fits(factors, (shape[1], shape[0] + 3, *shape[2:]))
    assert not method.fits(factors, shape[:1])
    change = method.delta(factors, weight)
    assert change.dtype == torch.float32
    assert change.shape == weight.shape
    assert relative(layer(x), expected) > 1e-2
    assert relative(with_weight(layer, weight + change, x), expected) < 1e-5
    assert relative(method.delta(factors, weight, strength=-0.5), -0.5 * change) < 1e-6
    up, down = method.to_lora(factors, weight)
    assert relative((up @ down).reshape(shape), change) < 1e-5
    again = method.to_tensors(factors)
    assert methods.method_of(again) is method
    assert relative(method.delta(method.from_tensors(again), weight), change) < 1e-6
    assert method.rank(again) == method.rank(tensors)
    # A file is split into its layers by these names.
    layers = adapters.layers({f"a.b.{suffix}": tensor for suffix, tensor in tensors.items()})
    assert layers.keys() == {"a.b"}
    assert layers["a.b"].keys() == tensors.keys()


# -------------------------------------------------------------------------------------------------------------- LyCORIS


def lycoris(cls: str, layer: nn.Module, **options: Any) -> Any:
    """A random module of LyCORIS on a layer."""
    import lycoris.modules.boft
    import lycoris.modules.diag_oft
    import lycoris.modules.locon
    import lycoris.modules.loha
    import lycoris.modules.lokr

    places = {
        "LoConModule": "locon",
        "LohaModule": "loha",
        "LokrModule": "lokr",
        "DiagOFTModule": "diag_oft",
        "ButterflyOFTModule": "boft",
    }
    module = getattr(getattr(lycoris.modules, places[cls]), cls)("layer", layer, 1.0, **options)
    for index, (name, parameter) in enumerate(module.named_parameters()):
        value = random(*parameter.shape, seed=30 + index)
        norms = name in ("dora_scale", "rescale")
        parameter.data = parameter.data * (1 + 0.2 * value) if norms else 0.4 * value
    return module.requires_grad_(False)


@pytest.mark.parametrize("tucker", [False, True], ids=["plain", "tucker"])
@pytest.mark.parametrize("dora", ["rows", "columns", ""])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("cls", ["LohaModule", "LokrModule", "LoConModule"])
def test_factors_with_companions_are_what_lycoris_computes(cls: str, layer: str, dora: str, tucker: bool) -> None:
    """Plain LoHa and LoKr are left to ComfyUI's own classes, and so is a LoRA in Tucker form without norms."""
    has_core = tucker and layer in ("3x3", "1-D", "3-D")
    module, x = layer_of(layer)
    tried = 0
    forms = itertools.product((1, 2, 9), (False, True), (-1, 4)) if cls == "LokrModule" else [(3, False, -1)]
    for rank, both, factor in forms:
        more = {"decompose_both": both, "factor": factor} if cls == "LokrModule" else {}
        reference = lycoris(
            cls,
            module,
            lora_dim=rank,
            alpha=5.0,
            use_tucker=tucker,
            weight_decompose=bool(dora),
            wd_on_out=dora == "rows",
            **more,
        )
        tensors = dict(reference.state_dict())
        assert any(name.endswith(("_t1", "_t2", "mid.weight")) for name in tensors) <= has_core
        if not dora and (cls == "LoConModule" or not any("_t2" in name for name in tensors)):
            method = methods.find(tensors)
            assert method is None or method.name == "lora"
            continue
        check(tensors, module, x, reference(x), {"LohaModule": "loha", "LokrModule": "lokr"}.get(cls, "dora"))
        tried += 1
    assert tried or not (dora or (has_core and cls != "LoConModule"))


@pytest.mark.parametrize("layer", ["linear", "3x3", "1-D"])
@pytest.mark.parametrize(
    ("cls", "size"), [("DiagOFTModule", 4), ("DiagOFTModule", 16), ("ButterflyOFTModule", 4), ("ButterflyOFTModule", 8)]
)
@pytest.mark.parametrize("constraint", [0, 0.01, 10])
@pytest.mark.parametrize("rescaled", [False, True])
def test_oft_of_outputs_is_what_lycoris_computes(
    cls: str, size: int, layer: str, constraint: float, rescaled: bool
) -> None:
    """Run without a constraint, with one that holds and with one that is never reached."""
    module, x = layer_of(layer)
    reference = lycoris(cls, module, lora_dim=size, constraint=constraint, rescaled=rescaled)
    tensors = dict(reference.state_dict())
    assert ("rescale" in tensors) == rescaled
    assert tensors["oft_blocks"].ndim == (3 if cls == "DiagOFTModule" else 4)
    generator = tensors["oft_blocks"] - tensors["oft_blocks"].mT
    assert (constraint == 0.01) == (0 < 32 * constraint < float(generator.norm()))
    check(tensors, module, x, reference(x), "oft")
    del tensors["alpha"]  # files of early 2024 have none, and their rescale is a vector
    if constraint != 0.01:
        check(tensors | ({"rescale": tensors["rescale"].flatten()} if rescaled else {}), module, x, reference(x), "oft")


@pytest.mark.parametrize("layer", ["linear", "3x3"])
def test_the_first_diag_oft_files_hold_the_rotations(layer: str) -> None:
    """LyCORIS 2.0, modules/diag_oft.py (8b56c13): custom_state_dict saves R, make_weight turns the weight by it."""
    module, x = layer_of(layer)
    blocks = 0.3 * random(4, 8, 8, seed=1)
    q = blocks - blocks.transpose(1, 2)
    r = random(4, 8, 1, seed=2).abs() * ((torch.eye(8) + q) @ (torch.eye(8) - q).inverse())
    weight = torch.einsum("k n m, k n ... -> k m ...", r, module.weight.unflatten(0, (4, 8))).flatten(0, 1)
    check({"oft_diag": r}, module, x, with_weight(module, weight, x), "oft")


@pytest.mark.parametrize("layer", ["linear", "1x1", "3x3"])
@pytest.mark.parametrize("alpha", [1e-3, 10.0])
def test_kohyas_oft(layer: str, alpha: float) -> None:
    """kohya-ss/sd-scripts, networks/oft.py: OFTModule.get_weight and forward."""
    module, x = layer_of(layer)
    oft_blocks = random(2, 16, 16, seed=1)
    block_Q = oft_blocks - oft_blocks.transpose(1, 2)
    norm_Q = torch.norm(block_Q.flatten())
    new_norm_Q = torch.clamp(norm_Q, max=alpha * 32)
    block_Q = block_Q * ((new_norm_Q + 1e-8) / (norm_Q + 1e-8))
    R = torch.matmul(torch.eye(16) + block_Q, (torch.eye(16) - block_Q).inverse())
    RW = torch.einsum("k n m, k n ... -> k m ...", R, module.weight.unflatten(0, (2, 16))).flatten(0, 1)
    check({"oft_blocks": oft_blocks, "alpha": torch.tensor(alpha)}, module, x, with_weight(module, RW, x), "oft")


# ----------------------------------------------------------------------------------------------------------- OneTrainer


def onetrainer(layer: nn.Module, x: Tensor, entries: Tensor, size: int, scaled: bool) -> Tensor:
    """OneTrainer's forward (23df3832): LoRAModule.py OFTModule.forward, oft_utils.py OFTRotationModule.

    `_pytorch_skew_symmetric`, `_cayley_batch` with 5 terms, and what `forward` does with linear layers and with others.
    """
    Q = entries / (2 * math.sqrt(size - 1) if scaled else 1)
    rows, cols = torch.triu_indices(size, size, 1)
    Q_skew = torch.zeros(len(Q), size, size)
    Q_skew[:, rows, cols] = Q
    Q_skew = Q_skew - Q_skew.transpose(-2, -1)
    R = torch.eye(size).repeat(len(Q), 1, 1)
    R.add_(Q_skew, alpha=2.0)
    Q_squared = torch.bmm(Q_skew, Q_skew)
    R.add_(Q_squared, alpha=2.0)
    Q_power = torch.bmm(Q_squared, Q_skew)
    R.add_(Q_power, alpha=2.0)
    R.add_(torch.bmm(Q_power, Q_skew))
    rank = layer.weight[0].numel() // size
    if len(R) == 1:  # block_share
        R = R.repeat(rank, 1, 1)
    if isinstance(layer, nn.Linear):
        rotated_x = torch.einsum("...rk,rkc->...rc", x.reshape(*x.shape[:-1], rank, size), R).reshape(x.shape)
        return layer(rotated_x)
    reshaped = layer.weight.reshape(layer.weight.shape[0], rank, size)
    rotated = torch.einsum("ork,rkc->orc", reshaped, R).reshape(layer.weight.shape)
    return F.conv2d(x, rotated, layer.bias, layer.stride, layer.padding)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("layer", ["linear", "1x1", "3x3"])
def test_onetrainers_oft(layer: str, share: bool, scaled: bool) -> None:
    """The marker may have been converted to the file's number format."""
    module, x = layer_of(layer)
    size = 6
    entries = 0.1 * random(1 if share else module.weight[0].numel() // size, 15, seed=1) * (4 if scaled else 1)
    expected = onetrainer(module, x, entries, size, scaled)
    for marker in (torch.tensor(True), torch.tensor(1.0, dtype=torch.bfloat16)):
        tensors = {"oft_R.weight": entries} | ({"oft_R.scaled_oft": marker} if scaled else {})
        check(tensors, module, x, expected, "oft")
    other = onetrainer(module, x, -entries, size, scaled)  # the other direction
    assert relative(other, expected) > 1e-2


@pytest.mark.parametrize("suffixes", [("lora_up.weight", "lora_down.weight"), ("lora_B.weight", "lora_A.weight")])
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("layer", ["linear", "3x3"])
def test_onetrainers_dora(tmp_path: Path, layer: str, rows: bool, suffixes: tuple[str, str]) -> None:
    """OneTrainer (23df3832), LoRAModule.py DoRAModule.forward; LoRASaverMixin.py has both namings."""
    from safetensors.torch import save_file

    module, x = layer_of(layer)
    weight = module.weight
    up, down = 0.3 * random(32, 3, *[1] * (weight.ndim - 2), seed=1), random(3, *weight.shape[1:], seed=2)
    WP = weight + (up.flatten(1) @ down.flatten(1)).reshape(weight.shape) * (2.0 / 3)
    ones = [1] * (weight.ndim - 1)
    if rows:
        norm = WP.reshape(WP.shape[0], -1).norm(dim=1).reshape(WP.shape[0], *ones)
    else:
        norm = WP.transpose(0, 1).reshape(WP.shape[1], -1).norm(dim=1, keepdim=True).reshape(WP.shape[1], *ones)
        norm = norm.transpose(0, 1)
    dora_scale = norm * (1 + 0.2 * random(*norm.shape, seed=3))
    tensors = {suffixes[0]: up, suffixes[1]: down, "dora_scale": dora_scale, "alpha": torch.tensor(2.0)}
    expected = with_weight(module, dora_scale * (WP / norm), x)
    check(tensors, module, x, expected, "dora")
    if rows:  # as a vector, which others write
        check(tensors | {"dora_scale": dora_scale.flatten()}, module, x, expected, "dora")
    save_file(
        {f"diffusion_model.a.{suffix}": tensor.contiguous() for suffix, tensor in tensors.items()},
        tmp_path / "a.safetensors",
    )
    layers = adapters.layers(files.read(tmp_path / "a.safetensors"))
    assert layers.keys() == {"diffusion_model.a"}
    assert layers["diffusion_model.a"].keys() == tensors.keys()


def test_onetrainers_files_are_no_peft_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {f"{name}.oft_R.weight": random(4, 28), f"{name}.oft_R.scaled_oft": torch.tensor(True)}
    save_file(tensors, tmp_path / "a.safetensors")
    adapter = files.read(tmp_path / "a.safetensors")
    assert adapter.metadata["method"] == "oft"
    assert adapters.layers(adapter).keys() == {name}


# ----------------------------------------------------------------------------------------------------------------- PEFT


@pytest.mark.parametrize("kind", ["loha", "lokr", "lokr-both"])
@pytest.mark.parametrize("effective", [False, True])
def test_pefts_convolutions_in_tucker_form(tmp_path: Path, kind: str, effective: bool) -> None:
    import peft

    module, _ = layer_of("3x3")
    common: dict[str, Any] = {"r": 2, "alpha": 6, "target_modules": ["0"], "use_effective_conv2d": effective}
    config = peft.LoHaConfig(**common) if kind == "loha" else peft.LoKrConfig(decompose_both="both" in kind, **common)
    base = module.weight.clone()
    wrapped = peft.get_peft_model(nn.Sequential(module), config)
    for index, parameter in enumerate(wrapped.parameters()):
        if parameter.requires_grad:
            parameter.data = 0.4 * random(*parameter.shape, seed=60 + index)
    wrapped.save_pretrained(tmp_path)
    wrapped.merge_adapter()
    merged = wrapped.base_model.model[0].get_base_layer().weight.detach()
    assert relative(base, merged) > 1e-2
    adapter = files.read(tmp_path)
    if effective:
        (tensors,) = adapters.layers(adapter).values()
        method = methods.method_of(tensors)
        assert method is methods.get(kind.partition("-")[0])
        assert relative(base + method.delta(method.from_tensors(tensors), base), merged) < 1e-5
    else:
        assert not adapters.layers(adapter)


# --------------------------------------------------------------------------------------------------------------- shapes


def loha(rows: int, columns: int, *scale: int) -> dict[str, tuple[int, ...]]:
    return {
        "hada_w1_a": (rows, 2),
        "hada_w1_b": (2, columns),
        "hada_w2_a": (rows, 2),
        "hada_w2_b": (2, columns),
        "dora_scale": scale,
    }


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            {"hada_w1_a": (8, 2), "hada_w1_b": (3, 6), "hada_w2_a": (8, 2), "hada_w2_b": (2, 6), "dora_scale": (8, 1)},
            r"\[8, 2\] and \[3, 6\]",
        ),
        (
            {"hada_w1_a": (8, 2), "hada_w1_b": (2, 6), "hada_w2_a": (8, 2), "hada_w2_b": (2, 5), "dora_scale": (8, 1)},
            r"for \[8, 6\] and \[8, 5\]",
        ),
        (loha(8, 6, 8, 2), "a row or a column of norms"),
        (loha(8, 6), "a row or a column of norms"),
        (
            {
                "hada_w1_a": (2, 8),
                "hada_w1_b": (2, 6),
                "hada_w2_a": (2, 8),
                "hada_w2_b": (2, 6),
                "hada_t1": (2, 3, 3),
                "hada_t2": (2, 2, 3),
            },
            "no Tucker form",
        ),
        ({"lokr_w1": (2, 2), "lokr_w2_a": (2, 4), "lokr_w2_b": (3, 4), "lokr_t2": (2, 2, 3, 3)}, "no Tucker form"),
        ({"lokr_w1": (2, 2, 3), "lokr_w2": (4, 4), "dora_scale": (8, 1)}, "lokr_w1"),
        ({"lokr_w1": (2,), "lokr_w2": (4, 4), "dora_scale": (8, 1)}, "a matrix is needed"),
        (
            {"lokr_w1": (2, 2), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 4), "dora_scale": (8, 1), "alpha": (2,)},
            "one number",
        ),
        ({"lokr_w1": (2, 2), "lokr_w2_a": (4, 0), "lokr_w2_b": (0, 4), "dora_scale": (8, 1)}, "the rank 0"),
        (
            {
                "lora_up.weight": (8, 2),
                "lora_down.weight": (2, 6),
                "lora_mid.weight": (2, 3, 3, 3),
                "dora_scale": (8, 1),
            },
            "up, mid and down",
        ),
        ({"lokr_w1": (2, 2), "lokr_w2": (4, 4), "dora_scale": (8, 1), "alpha": (2,)}, "one number"),
        ({"oft_blocks": (2, 4, 3)}, r"rotations \[blocks, k, k\]"),
        ({"oft_blocks": (0, 2, 4, 4)}, r"rotations \[blocks, k, k\]"),
        ({"oft_diag": (0, 4, 4)}, r"rotations \[blocks, k, k\]"),
        ({"oft_blocks": (2, 2, 3, 3)}, "of an even size"),
        ({"oft_blocks": (2, 4, 4), "alpha": (2,)}, "one number"),
        ({"oft_R.weight": (2, 5)}, r"k \(k - 1\) / 2"),
        ({"oft_R.weight": (6,)}, r"k \(k - 1\) / 2"),
    ],
)
def test_shapes_that_do_not_go_together(tensors: dict[str, tuple[int, ...]], words: str) -> None:
    group = {name: torch.ones(shape) for name, shape in tensors.items()}
    with pytest.raises(ValueError, match=words):
        methods.method_of(group).from_tensors(group)


@pytest.mark.parametrize(
    ("tensors", "shape"),
    [
        # As many values, but not these rows, columns or kernels.
        (loha(16, 4, 16, 1), (8, 8)),
        (loha(8, 8, 4, 1), (8, 8)),
        (loha(8, 8, 1, 4), (8, 8)),
        (loha(8, 4, 4), (8, 4)),  # a vector is of rows
        (
            {
                "hada_w1_a": (2, 8),
                "hada_w1_b": (2, 8),
                "hada_w2_a": (2, 8),
                "hada_w2_b": (2, 8),
                "hada_t1": (2, 2, 9),
                "hada_t2": (2, 2, 9),
            },
            (8, 8, 3, 3),
        ),
        ({"lokr_w1": (2, 2), "lokr_w2_a": (2, 4), "lokr_w2_b": (2, 4), "lokr_t2": (2, 2, 3, 1)}, (8, 8, 1, 3)),
        ({"lokr_w1": (2, 6), "lokr_w2": (4, 6), "dora_scale": (8, 1)}, (8, 4, 3, 3)),  # a kernel across both factors
        ({"oft_blocks": (2, 4, 4)}, (4, 8)),
        ({"oft_blocks": (2, 4, 4), "rescale": (4, 1)}, (8, 8)),
        ({"oft_blocks": (3, 2, 4, 4)}, (8, 8)),  # three steps are too many for 8 rows
        ({"oft_blocks": (2, 4, 4)}, (8,)),
        ({"oft_R.weight": (2, 6)}, (8, 16)),
        ({"oft_R.weight": (1, 6)}, (8, 6)),
    ],
)
def test_weights_of_another_size(tensors: dict[str, tuple[int, ...]], shape: tuple[int, ...]) -> None:
    group = {name: torch.ones(size) for name, size in tensors.items()}
    method = methods.method_of(group)
    assert not method.fits(method.from_tensors(group), shape)


@pytest.mark.parametrize(
    "suffixes",
    [
        {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"},
        {"lokr_w1", "lokr_w2", "alpha"},
        {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1"},
        {"hada_w1_a", "dora_scale"},
        {"lokr_w1", "dora_scale"},
        {"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "dora_scale"},
        {"lokr_w1", "lokr_w2_a", "dora_scale"},
        {"lokr_w1", "lokr_w2", "lokr_t2"},
        {"oft_blocks", "dora_scale"},
        {"oft_R.weight", "alpha"},
        {"oft_R.scaled_oft"},
        {"rescale", "alpha"},
        {"lora_up.weight", "lora_down.weight", "lora_mid.weight", "alpha"},
        {"lora_A.weight", "lora_B.weight", "alpha"},
        {"lora_A.weight", "lora_B.weight", "lora_mid.weight", "dora_scale"},
    ],
)
def test_what_is_left_to_comfyui(suffixes: set[str]) -> None:
    assert methods.find(suffixes) is None
