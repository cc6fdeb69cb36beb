"""Several adapters on one model, in every order and both ways of stacking, and what strength does to each.

What is expected is written out here as formulas in float64, or comes from PEFT:
sequential: W <- W + s delta(W), one patch after the other; from_base: W0 + sum of s delta(W0) of this pack's adapters,
then the other patches in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from . import models
from .pack import Pack

BLOCK = "diffusion_model.joint_blocks.0"
PROJECTION = f"{BLOCK}.x_block.attn.proj"
QKV = f"{BLOCK}.x_block.attn.qkv"
CONVOLUTION = "diffusion_model.input_blocks.1.0.in_layers.2"
STACKINGS = ["sequential", "from_base"]
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "qr": ("deft", {"projector": "qr"}),
    "relu": ("deft", {"projector": "relu"}),
    "para": ("para", {}),
    "lora": ("lora", {}),
}
FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]


def random_adapter(pack: Pack, label: str, names: list[str], model: Any = None, seed: int = 10, **shapes: tuple) -> Any:
    """A random adapter, by a label of METHODS; shapes are those of the model's weights where none are given."""
    method, options = METHODS[label]
    given = {name: shapes[name.rpartition(".")[2]] for name in names if name.rpartition(".")[2] in shapes}
    return pack.adapter(model, names, method, given, seed=seed, **options)


def delta(adapter: Any, name: str, weight: Tensor, removal: float = 1.0, injection: float = 1.0) -> Tensor:
    """The change of a weight by one layer of an adapter, float64: Q (t_i s R - t_r right^T W), or t_i s up down."""

    def part(suffix: str) -> Tensor | None:
        value = adapter.get(f"{name}.{suffix}")
        return None if value is None else value.double()

    matrix = weight.double().flatten(1)
    up, Q, R, alpha = part("lora_up.weight"), part("deft_Q"), part("deft_R"), part("alpha")
    if up is not None:
        down = part("lora_down.weight").flatten(1)
        return (injection * alpha / len(down) * up.flatten(1) @ down).reshape(weight.shape)
    right = part("deft_right") if part("deft_right") is not None else Q
    inner = -removal * right.T @ matrix
    if R is not None:
        inner = inner + injection * alpha / len(R) * R
    return (Q @ inner).reshape(weight.shape)


# ------------------------------------------------------------------------------------------ members of a stack


@dataclass
class Member:
    """One adapter of a stack: how it is put on a model, what it adds to a weight, and whether it is this pack's.

    put(model, strength, stacking) -> model; added(weight, strength) -> float64.
    """

    put: Callable[[Any, float, str], Any]
    added: Callable[[Tensor, float], Tensor]
    own: bool = True

    def change(self, weight: Tensor) -> Tensor:
        """What it adds at strength 1."""
        return self.added(weight, 1.0)


def whole_weight(kind: str, size: int, seed: int) -> tuple[dict[str, Tensor], Callable[[Tensor, float], Tensor]]:
    """A layer of a method that takes the weight [size, size] apart, by suffix, and what it adds in float64."""
    if kind == "svdiff":
        shifts = 0.3 * models.random(size, seed=seed)

        def shifted(weight: Tensor, strength: float) -> Tensor:
            U, sigma, Vh = torch.linalg.svd(weight.double(), full_matrices=False)
            return U @ torch.diag(torch.relu(sigma + strength * shifts.double())) @ Vh - weight

        return {"delta": shifts}, shifted
    if kind == "oft":
        rotation = torch.linalg.qr(torch.eye(8) + 0.2 * models.random(size // 8, 8, 8, seed=seed))[0]

        def rotated(weight: Tensor, strength: float) -> Tensor:
            return strength * (weight.double() @ torch.block_diag(*rotation.double()) - weight)

        return {"oft_rotation": rotation}, rotated
    up, down = models.random(size, 4, seed=seed), 0.1 * models.random(4, size, seed=seed + 1)
    norms = 0.5 + models.random(size, seed=seed + 2).abs()

    def normed(weight: Tensor, strength: float) -> Tensor:
        merged = weight.double() + 2 / 4 * up.double() @ down.double()
        return strength * (norms.double()[:, None] * merged / merged.norm(dim=1, keepdim=True) - weight)

    return {"dora_up": up, "dora_down": down, "dora_magnitude": norms, "alpha": torch.tensor(2.0)}, normed


def foreign_tensors(kind: str, rows: int, columns: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """A layer of a format that ComfyUI reads itself, by suffix, and its change [rows, columns] in float64."""
    rank = 4
    values = [
        0.1 * models.random(*shape, seed=seed + index)
        for index, shape in enumerate([(rows, rank), (rank, columns), (rows, rank), (rank, columns)])
    ]
    a, b, c, d = (value.double() for value in values)
    if kind == "lora":
        return {"lora_A.weight": values[1], "lora_B.weight": values[0]}, a @ b
    if kind == "loha":
        names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
        return dict(zip(names, [10 * v for v in values], strict=True)) | {"alpha": torch.tensor(2.0)}, (
            1e4 * (a @ b) * (c @ d) * 2 / rank
        )
    first, second = models.random(4, 8, seed=seed), 0.1 * models.random(rows // 4, columns // 8, seed=seed + 1)
    return {"lokr_w1": first, "lokr_w2": second}, torch.kron(first.double(), second.double())


def member(pack: Pack, label: str, model: Any, seed: int, name: str = PROJECTION) -> Member:
    """A member by its label: one of METHODS applied by us, or core-<format> applied by ComfyUI's LoraLoader."""
    shape = model.model.state_dict()[f"{name}.weight"].shape
    if not label.startswith("core-"):
        if label in METHODS:
            adapter = random_adapter(pack, label, [name], model, seed)

            def added(weight: Tensor, strength: float) -> Tensor:
                return strength * delta(adapter, name, weight)

        else:
            tensors, added = whole_weight(label, shape[0], seed)
            adapter = pack.adapters.from_layers({name: tensors})

        def ours(model: Any, strength: float, stacking: str) -> Any:
            return pack.apply(adapter, model, strength_model=strength, stacking=stacking)[0]

        return Member(ours, added)
    tensors, change = foreign_tensors(label.removeprefix("core-"), *shape, seed)
    path = pack.loras / f"stack_{label}_{seed}.safetensors"
    save_file({f"{name}.{suffix}": value.contiguous() for suffix, value in tensors.items()}, path)

    def core(model: Any, strength: float, stacking: str) -> Any:
        import nodes

        return nodes.LoraLoaderModelOnly().load_lora_model_only(model, path.name, strength)[0]

    return Member(core, lambda weight, strength: strength * change, own=False)


@pytest.fixture(autouse=True)
def no_files_left(pack: Pack) -> Iterator[None]:
    yield
    for path in pack.loras.glob("stack_*"):
        path.unlink()


def expected(members: list[Member], strengths: list[float], base: Tensor, stacking: str) -> Tensor:
    """The patched weight in float64, by the formulas at the top."""
    weight = base.double()
    for member_, strength in zip(members, strengths, strict=True):
        seen = base if stacking == "from_base" and member_.own else weight
        weight = weight + member_.added(seen, strength)
    return weight


def lowvram_weight(patcher: Any, key: str, base: Tensor, *, prepared: bool) -> Tensor:
    """A weight patched as while it is cast, with the adapters as they are or rebuilt in a buffer."""
    import comfy.model_patcher

    patch = comfy.model_patcher.LowVramPatch(key, patcher.patches)
    if prepared:
        buffer = torch.zeros(patch.memory_required(), dtype=torch.uint8)
        rebuilt = patch.prepare(buffer, None)
        assert all(new[1] is not old[1] for new, old in zip(rebuilt, patcher.patches[key], strict=True))
    return patch(base.clone())


def same_weights(model: Any, base: dict[str, Tensor]) -> bool:
    """Whether every weight is what it was, bit for bit."""
    now = models.weights(model)
    return now.keys() == base.keys() and all(torch.equal(bits(now[key]), bits(base[key])) for key in base)


def bits(value: Tensor) -> Tensor:
    """The bytes of a tensor; of one in fp8 the values, since ComfyUI's rounding to fp8 makes -0 a 0."""
    return value.float() if value.dtype in FP8 else value.contiguous().reshape(-1).view(torch.uint8)


STACKS = [
    ("qr", "relu"),
    ("relu", "qr", "para"),
    ("para", "qr", "lora"),
    ("core-lora", "qr", "para"),
    ("qr", "core-loha", "relu"),
    ("para", "core-lora", "qr", "core-lokr"),
    ("core-lokr", "relu", "core-loha", "para", "core-lora"),
    ("lora", "qr", "lora", "core-lora"),
    ("svdiff", "qr", "oft"),
    ("dora", "core-lora", "para", "svdiff"),
    ("oft", "relu", "core-loha", "dora"),
]


@pytest.mark.parametrize("stacking", STACKINGS)
@pytest.mark.parametrize("labels", STACKS, ids="+".join)
def test_any_mix_on_every_road(pack: Pack, labels: tuple[str, ...], stacking: str) -> None:
    model = models.sd3()
    base = models.weights(model)
    key = f"{PROJECTION}.weight"
    members = [member(pack, label, model, seed=10 + 20 * index) for index, label in enumerate(labels)]
    strengths = [0.8, -0.5, 1.5, 1.0, 0.3][: len(members)]
    patched = model
    for one, strength in zip(members, strengths, strict=True):
        patched = one.put(patched, strength, stacking)
    reference = expected(members, strengths, base[key], stacking)
    other = expected(members, strengths, base[key], "from_base" if stacking == "sequential" else "sequential")
    tolerance = 1e-5 if "svdiff" in labels else 1e-6  # an SVD in float32
    assert models.relative(other, reference) > 1e-3  # the two ways are told apart
    assert models.relative(models.patched_weights(patched)[key], reference) < tolerance
    assert models.relative(lowvram_weight(patched, key, base[key], prepared=False), reference) < tolerance
    assert models.relative(lowvram_weight(patched, key, base[key], prepared=True), reference) < tolerance
    assert same_weights(model, base)


def test_where_the_two_ways_are_the_same(pack: Pack) -> None:
    """One adapter, and additive patches after one: there is nothing that a delta could see but the base."""
    model = models.sd3()
    key = f"{PROJECTION}.weight"
    for labels in (("qr",), ("para", "core-lora", "core-loha"), ("lora", "core-lora")):
        members = [member(pack, label, model, seed=10 + index) for index, label in enumerate(labels)]
        weights = []
        for stacking in STACKINGS:
            patched = model
            for one in members:
                patched = one.put(patched, 0.7, stacking)
            weights.append(models.patched_weights(patched)[key])
        assert models.relative(weights[0], weights[1]) < 1e-6
        assert models.relative(weights[0], models.weights(model)[key]) > 1e-3


def test_from_base_does_not_depend_on_the_order(pack: Pack) -> None:
    model = models.sd3()
    key = f"{PROJECTION}.weight"
    members = [member(pack, label, model, seed=10 + 20 * index) for index, label in enumerate(("qr", "relu", "para"))]
    weights: dict[str, list[Tensor]] = {stacking: [] for stacking in STACKINGS}
    for stacking in STACKINGS:
        for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
            patched = model
            for index in order:
                patched = members[index].put(patched, 1.0 + index, stacking)
            weights[stacking].append(models.patched_weights(patched)[key])
    first, *others = weights["from_base"]
    assert all(models.relative(other, first) < 1e-6 for other in others)
    first, *others = weights["sequential"]
    assert all(models.relative(other, first) > 1e-3 for other in others)


def test_the_last_way_counts_for_what_is_there_already(pack: Pack) -> None:
    """from_base takes in this pack's earlier adapters of the weight; a sequential one after it sees them all."""
    model = models.sd3()
    key = f"{PROJECTION}.weight"
    base = models.weights(model)[key]
    one, two, three = (member(pack, label, model, seed) for label, seed in (("qr", 10), ("relu", 30), ("para", 50)))
    mixed = two.put(one.put(model, 0.5, "sequential"), 1.0, "from_base")
    after_two = base.double() + 0.5 * one.change(base) + two.change(base)
    assert models.relative(models.patched_weights(mixed)[key], after_two) < 1e-6
    mixed = three.put(mixed, 1.0, "sequential")
    assert models.relative(models.patched_weights(mixed)[key], after_two + three.change(after_two)) < 1e-6


def test_a_multiplicative_patch_of_core_sees_what_ours_did(pack: Pack) -> None:
    """DoRA by ComfyUI's loader scales the rows of the weight that it gets; from_base puts this pack's sum before it.

    ComfyUI divides by the norms of the rows that come in, not of the merged ones.
    """
    import nodes

    model = models.sd3()
    key = f"{PROJECTION}.weight"
    base = models.weights(model)[key].double()
    up, down = models.random(64, 4, seed=1), 0.1 * models.random(4, 64, seed=2)
    scale = 1 + models.random(64, 1, seed=3).abs()
    path = pack.loras / "stack_dora.safetensors"
    save_file(
        {
            f"{PROJECTION}.lora_up.weight": up,
            f"{PROJECTION}.lora_down.weight": down,
            f"{PROJECTION}.dora_scale": scale,
            f"{PROJECTION}.alpha": torch.tensor(4.0),
        },
        path,
    )

    def dora(weight: Tensor) -> Tensor:
        merged = weight + up.double() @ down.double()
        return scale.double() * merged / weight.norm(dim=1, keepdim=True)

    def loaded(model: Any) -> Any:
        return nodes.LoraLoaderModelOnly().load_lora_model_only(model, path.name, 1.0)[0]

    deft = member(pack, "qr", model, 10)
    ours = base + deft.change(base)
    for stacking, order, reference in (
        ("sequential", "deft first", dora(ours)),
        ("sequential", "dora first", dora(base) + deft.change(dora(base))),
        ("from_base", "deft first", dora(ours)),
        ("from_base", "dora first", dora(ours)),
    ):
        patched = (
            loaded(deft.put(model, 1.0, stacking)) if order == "deft first" else deft.put(loaded(model), 1.0, stacking)
        )
        assert models.relative(models.patched_weights(patched)[key], reference) < 1e-5, (stacking, order)
    assert models.relative(dora(base) + deft.change(dora(base)), dora(ours)) > 1e-3


# ------------------------------------------------------------------------------------------------ fused weights


def rows_of(part: str) -> slice:
    """The rows of q, k or v in the fused weight of the small SD3."""
    index = "qkv".index(part)
    return slice(64 * index, 64 * (index + 1))


@pytest.mark.parametrize("stacking", STACKINGS)
@pytest.mark.parametrize("order", ["slices first", "whole first"])
def test_slices_and_the_whole_of_a_fused_weight(pack: Pack, stacking: str, order: str) -> None:
    model = models.sd3()
    key = f"{QKV}.weight"
    base = models.weights(model)[key]
    names = {part: f"transformer_blocks.0.attn.to_{part}" for part in "qk"}
    slices = [
        random_adapter(pack, label, list(names.values()), seed=seed, to_q=(64, 64), to_k=(64, 64))
        for label, seed in (("qr", 10), ("para", 30))
    ]
    whole = random_adapter(pack, "relu", [QKV], model, seed=50)
    stack = [*slices, whole] if order == "slices first" else [whole, *slices]
    patched, reference = model, base.double()
    for adapter in stack:
        patched = pack.apply(adapter, patched, strength_model=0.7, stacking=stacking)[0]
        seen = base.double() if stacking == "from_base" else reference.clone()
        if adapter is whole:
            reference = reference + 0.7 * delta(adapter, QKV, seen)
        else:
            for part, name in names.items():
                reference[rows_of(part)] += 0.7 * delta(adapter, name, seen[rows_of(part)])
    other = models.patched_weights(
        pack.apply(
            stack[2],
            pack.apply(stack[1], pack.apply(stack[0], model, strength_model=0.7)[0], strength_model=0.7)[0],
            strength_model=0.7,
        )[0]
    )[key]
    assert (models.relative(other, reference) < 1e-6) is (stacking == "sequential")
    assert models.relative(models.patched_weights(patched)[key], reference) < 1e-6
    for prepared in (False, True):
        assert models.relative(lowvram_weight(patched, key, base, prepared=prepared), reference) < 1e-6


def test_rows_in_two_orders(pack: Pack) -> None:
    """The same layer in ComfyUI's row order and in diffusers', both from the base."""
    model = models.sd3()
    own, theirs = "diffusion_model.final_layer.adaLN_modulation.1", "norm_out.linear"
    key = f"{own}.weight"
    base = models.weights(model)[key]
    first, second = (
        random_adapter(pack, "qr", [own], model, 10),
        random_adapter(pack, "relu", [theirs], seed=30, linear=(128, 64)),
    )
    swapped = torch.cat([base[64:], base[:64]])
    change = delta(second, theirs, swapped)
    reference = base.double() + delta(first, own, base) + torch.cat([change[64:], change[:64]])
    for order in ((first, second), (second, first)):
        patched = model
        for adapter in order:
            patched = pack.apply(adapter, patched, stacking="from_base")[0]
        assert models.relative(models.patched_weights(patched)[key], reference) < 1e-6
        assert models.relative(lowvram_weight(patched, key, base, prepared=True), reference) < 1e-6
    again = models.patched_weights(pack.apply(second, pack.apply(first, model)[0])[0])[key]
    assert models.relative(again, reference) > 1e-3


@pytest.mark.parametrize("stacking", STACKINGS)
def test_convolutions(pack: Pack, stacking: str) -> None:
    model = models.unet()
    key = f"{CONVOLUTION}.weight"
    base = models.weights(model)[key]
    members = [
        member(pack, label, model, seed, CONVOLUTION) for label, seed in (("qr", 10), ("para", 30), ("lora", 50))
    ]
    patched = model
    for one in members:
        patched = one.put(patched, 0.7, stacking)
    reference = expected(members, [0.7] * 3, base, stacking)
    assert models.relative(models.patched_weights(patched)[key], reference) < 1e-6
    assert (
        models.relative(
            expected(members, [0.7] * 3, base, "sequential"), expected(members, [0.7] * 3, base, "from_base")
        )
        > 1e-3
    )


# --------------------------------------------------------------------------------- one object, many models and runs


def whole_stack(pack: Pack, model: Any, stacking: str) -> Any:
    """Three adapters of all layers on a model."""
    for label, seed, strength in (("qr", 10, 0.6), ("para", 30, 0.5), ("relu", 50, 0.4)):
        model = pack.apply(
            random_adapter(pack, label, models.every_layer(model), model, seed),
            model,
            strength_model=strength,
            stacking=stacking,
        )[0]
    return model


@pytest.mark.parametrize("stacking", STACKINGS)
@pytest.mark.parametrize("kind", ["sd3", "unet"])
def test_low_vram_and_partial_loading(pack: Pack, kind: str, stacking: str) -> None:
    """The output of the network, however much of it is loaded: nothing, a part, another part, all."""
    model = models.sd3() if kind == "sd3" else models.unet()
    base = models.weights(model)
    patched = whole_stack(pack, model, stacking)
    inputs = models.network_inputs(model)

    def patched_on_the_fly() -> int:
        return sum(
            len(module.weight_function) for module in model.model.modules() if hasattr(module, "weight_function")
        )

    with torch.inference_mode():
        plain = models.forward(model, **inputs)
        patched.patch_model(models.DEVICE)
        full = models.forward(model, **inputs)
        patched.detach()
        counts = []
        patched.patch_model(models.DEVICE, lowvram_model_memory=1)
        counts.append(patched_on_the_fly())
        low = models.forward(model, **inputs)
        patched.partially_load(models.DEVICE, extra_memory=int(0.7 * model.model_size()))
        counts.append(patched_on_the_fly())
        part = models.forward(model, **inputs)
        patched.partially_load(models.DEVICE, extra_memory=2 * model.model_size())
        counts.append(patched_on_the_fly())
        loaded = models.forward(model, **inputs)
        patched.partially_unload(models.CPU, model.model_size() // 2)
        counts.append(patched_on_the_fly())
        unloaded = models.forward(model, **inputs)
        patched.detach()
        after = models.forward(model, **inputs)
    assert models.relative(full, plain) > 1e-2
    assert counts[0] > counts[1] > counts[2] == 0 < counts[3]
    for output in (low, part, loaded, unloaded):
        assert models.relative(output, full) < 1e-5
    assert torch.equal(after, plain)
    assert same_weights(model, base)


@pytest.mark.parametrize("stacking", STACKINGS)
def test_clones_do_not_see_each_other(pack: Pack, stacking: str) -> None:
    model = models.sd3()
    key = f"{PROJECTION}.weight"
    base = models.weights(model)
    one, two, three = (member(pack, label, model, seed) for label, seed in (("qr", 10), ("relu", 30), ("para", 50)))
    first = one.put(model, 1.0, stacking)
    second = two.put(first.clone(), 1.0, stacking)
    third = three.put(second.clone().clone(), 1.0, stacking)
    sibling = three.put(first, 1.0, stacking)
    for patched, members in (
        (first, [one]),
        (second, [one, two]),
        (third, [one, two, three]),
        (sibling, [one, three]),
        (first, [one]),
        (third.clone(), [one, two, three]),
    ):
        weight = models.patched_weights(patched)[key]
        assert models.relative(weight, expected(members, [1.0] * len(members), base[key], stacking)) < 1e-6
        assert same_weights(model, base)
    assert not model.patches


@pytest.mark.parametrize("stacking", STACKINGS)
def test_adapters_on_models_of_other_weights(pack: Pack, stacking: str) -> None:
    """The objects hold nothing of the model that they were on."""
    first, second = models.sd3(seed=0), models.sd3(seed=1)
    key = f"{PROJECTION}.weight"
    members = [member(pack, label, first, seed) for label, seed in (("qr", 10), ("relu", 30))]
    for model in (first, second, first):
        base = models.weights(model)
        patched = members[1].put(members[0].put(model, 0.5, stacking), 1.0, stacking)
        reference = expected(members, [0.5, 1.0], base[key], stacking)
        assert models.relative(models.patched_weights(patched)[key], reference) < 1e-6
        assert same_weights(model, base)


@pytest.mark.parametrize("stacking", STACKINGS)
def test_the_same_adapter_twice_and_members_of_strength_zero(pack: Pack, stacking: str) -> None:
    model = models.sd3()
    key = f"{PROJECTION}.weight"
    base = models.weights(model)
    qr, relu, lora = (member(pack, label, model, seed) for label, seed in (("qr", 10), ("relu", 30), ("core-lora", 50)))
    twice = qr.put(qr.put(model, 1.0, stacking), 1.0, stacking)
    weight = models.patched_weights(twice)[key]
    assert models.relative(weight, expected([qr, qr], [1.0, 1.0], base[key], stacking)) < 1e-6
    once = qr.put(model, 1.0, stacking)
    mixed = model
    for one, strength in ((relu, 0.0), (qr, 1.0), (lora, 0.0), (relu, 0.0)):
        mixed = one.put(mixed, strength, stacking)
    assert torch.equal(models.patched_weights(mixed)[key], models.patched_weights(once)[key])
    undone = qr.put(once, -1.0, "from_base")  # W0 + delta(W0) - delta(W0)
    assert models.relative(models.patched_weights(undone)[key], base[key]) < 1e-6
    assert same_weights(model, base)


@pytest.mark.parametrize("stacking", STACKINGS)
def test_runs_one_after_the_other(pack: Pack, comfyui_session: Any, stacking: str) -> None:
    """Sampling again, with the base between, after unloading, and after detaching: the same latents bit for bit."""
    import comfy.model_management

    model = models.sd3()
    base = models.weights(model)
    plain = models.sample(model)
    patched = whole_stack(pack, model, stacking)
    latent = models.sample(patched)
    assert models.relative(latent, plain) > 1e-2
    assert torch.equal(models.sample(patched), latent)
    assert torch.equal(models.sample(model), plain)
    assert torch.equal(models.sample(patched), latent)
    comfy.model_management.unload_all_models()
    assert same_weights(model, base)
    assert torch.equal(models.sample(patched.clone()), latent)
    patched.detach()
    assert torch.equal(models.sample(patched), latent)
    comfy.model_management.unload_all_models()
    assert torch.equal(models.sample(model), plain)
    comfy.model_management.unload_all_models()
    assert same_weights(model, base)


# ------------------------------------------------------------------------------------------------------------- PEFT


class Small(nn.Module):
    """Two layers under names of diffusers' SD3 that ComfyUI knows."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        attention = nn.Module()
        attention.to_out = nn.ModuleList([nn.Linear(64, 64, bias=False)])
        block = nn.Module()
        block.attn = attention
        self.transformer_blocks = nn.ModuleList([block])
        attention.to_out[0].weight.data.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.transformer_blocks[0].attn.to_out[0](x)


def peft_adapters(network: nn.Module, targets: list[str], kinds: list[str], folder: Path) -> tuple[Any, list[str]]:
    """The network in PEFT with several random adapters of it active, saved in a folder each."""
    import peft

    options: dict[str, dict[str, Any]] = {
        "qr": {"decomposition_method": "qr", "alpha": 6},
        "relu": {"decomposition_method": "relu"},
        "para": {"decomposition_method": "qr", "para": True},
    }
    names = [f"{kind}{index}" for index, kind in enumerate(kinds)]
    wrapped: Any = None
    for index, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        config = peft.DeftConfig(r=3 + index, target_modules=targets, **options[kind])
        if wrapped is None:
            wrapped = peft.get_peft_model(network, config, adapter_name=name)
        else:
            wrapped.add_adapter(name, config)
    wrapped.base_model.set_adapter(names)
    for index, (name, parameter) in enumerate(wrapped.named_parameters()):
        if "deft_" in name:
            parameter.data.copy_((0.2 if "deft_P" in name else 0.05) * models.random(*parameter.shape, seed=40 + index))
    wrapped.save_pretrained(folder)
    return wrapped, names


PEFT_STACKS = [["qr", "relu"], ["qr", "para"], ["relu", "qr", "para"]]


@pytest.mark.parametrize("kinds", PEFT_STACKS, ids="+".join)
def test_from_base_is_what_peft_merges(pack: Pack, tmp_path: Path, kinds: list[str]) -> None:
    """PEFT does not mix its deft type with LoRA in one model, so that mix has no reference there."""
    model = models.sd3()
    key = f"{PROJECTION}.weight"
    base = models.weights(model)[key]
    name = "transformer_blocks.0.attn.to_out.0"
    wrapped, names = peft_adapters(Small(base), [name], kinds, tmp_path)
    x = models.random(5, 64, seed=9)
    with torch.no_grad():
        active = wrapped(x)
    wrapped.merge_adapter(names)
    merged = wrapped.get_submodule(f"base_model.model.{name}").get_base_layer().weight.detach()
    weights = {}
    for stacking in STACKINGS:
        patched = model
        for folder in names:
            patched, _, report = pack.apply(pack.files.read(tmp_path / folder), patched, stacking=stacking)
            assert report.matched == 1
            assert not report.unmatched
        weights[stacking] = models.patched_weights(patched)[key]
    assert models.relative(merged, base) > 1e-2
    assert models.relative(weights["from_base"], merged) < 1e-5
    assert models.relative(x @ weights["from_base"].T, active) < 1e-5
    assert models.relative(weights["sequential"], merged) > 1e-3


def test_from_base_is_what_peft_computes_in_diffusers(pack: Pack, tmp_path: Path) -> None:
    network = models.diffusers_sd15()
    model = models.comfy_sd15(network)
    inputs = models.network_inputs(model)

    def diffusers_output() -> Tensor:
        with torch.no_grad():
            return network(inputs["x"], timestep=inputs["timesteps"], encoder_hidden_states=inputs["context"]).sample

    plain = diffusers_output()
    wrapped, names = peft_adapters(network, ["to_q", "to_k", "to_v", "to_out.0"], ["qr", "relu", "para"], tmp_path)
    merged_output = diffusers_output()
    wrapped.merge_adapter(names)
    state = {name.replace(".base_layer", ""): value for name, value in network.state_dict().items()}
    outputs = {}
    for stacking in STACKINGS:
        patched = model
        for folder in names:
            patched, _, report = pack.apply(pack.files.read(tmp_path / folder), patched, stacking=stacking)
            assert report.matched == 32
            assert not report.unmatched
        outputs[stacking] = models.network_output(patched, **inputs)
        if stacking == "from_base":
            weights = models.patched_weights(patched)
    import comfy.utils

    table = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    keys = {name: f"diffusion_model.{key}" for name, key in table.items()}
    keys = {name: key for name, key in keys.items() if key in patched.patches}
    assert len(keys) == 32
    assert max(models.relative(weights[key], state[name]) for name, key in keys.items()) < 1e-5
    assert models.relative(merged_output, plain) > 1e-2
    assert models.relative(outputs["from_base"], merged_output) < 1e-5
    assert models.relative(outputs["sequential"], merged_output) > 1e-3


# --------------------------------------------------------------------------------------------------------- strength


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, *FP8], ids=str)
@pytest.mark.parametrize("label", ["qr", "para", "lora"])
def test_strength_zero_is_the_base_bit_for_bit(pack: Pack, label: str, dtype: torch.dtype) -> None:
    """The same holds where ComfyUI computes the patch: a patch of strength 0, and removal and injection of 0."""
    model = models.sd3(dtype=dtype)
    base = models.weights(model)
    assert base[f"{PROJECTION}.weight"].dtype == dtype
    plain = models.sample(model)
    adapter = random_adapter(pack, label, models.every_layer(model), model)
    none = pack.apply(adapter, model, strength_model=0)[0]
    weighed = pack.apply(adapter, model, removal=0, injection=0)[0]
    assert weighed.patches.keys() == {f"{name}.weight" for name in models.every_layer(model)}
    computed = model.clone()
    computed.add_patches({key: patches[0][1] for key, patches in pack.apply(adapter, model)[0].patches.items()}, 0.0)
    assert len(computed.patches) == len(models.every_layer(model))
    for patched in (none, weighed, computed):
        weights = models.patched_weights(patched)
        assert all(torch.equal(bits(weights[key]), bits(base[key])) for key in base)
        for key in patched.patches:
            assert torch.equal(lowvram_weight(patched, key, base[key].float(), prepared=True), base[key].float())
        assert torch.equal(models.sample(patched), plain)
    assert not torch.equal(models.sample(pack.apply(adapter, model)[0]), plain)


@pytest.mark.parametrize("label", list(METHODS))
@pytest.mark.parametrize("parts", [(1, 1), (0, 1), (1, 0), (0.5, 2), (-1, 1), (1.5, -0.5)], ids=str)
def test_strength_removal_and_injection(pack: Pack, label: str, parts: tuple[float, float]) -> None:
    """Negative and above 1, on weights that are patched whole and while they are cast."""
    removal, injection = parts
    model = models.sd3()
    key = f"{PROJECTION}.weight"
    base = models.weights(model)[key]
    adapter = random_adapter(pack, label, [PROJECTION], model)
    change = delta(adapter, PROJECTION, base, removal, injection)
    for strength in (-1.5, 0.3, 1.0, 4.0):
        patched = pack.apply(adapter, model, strength_model=strength, removal=removal, injection=injection)[0]
        reference = base.double() + strength * change
        assert models.relative(models.patched_weights(patched)[key], reference) < 1e-6
        for prepared in (False, True):
            assert models.relative(lowvram_weight(patched, key, base, prepared=prepared), reference) < 1e-6
    whole = delta(adapter, PROJECTION, base)
    if label == "para":
        assert models.relative(change, removal * whole) < 1e-12 if removal else not change.any()
    if label == "lora":
        assert models.relative(change, injection * whole) < 1e-12 if injection else not change.any()


@pytest.mark.parametrize("stacking", STACKINGS)
def test_the_strength_of_the_weight_itself(pack: Pack, stacking: str) -> None:
    """ComfyUI's strength_model of a patch (merging nodes): the weight is scaled first, then our change is of that."""
    model = models.sd3()
    key = f"{PROJECTION}.weight"
    base = models.weights(model)[key].double()
    one = random_adapter(pack, "qr", [PROJECTION], model)
    patch = pack.apply(one, model)[0].patches[key][0][1]
    scaled = model.clone()
    scaled.add_patches({key: patch}, 0.5, 0.8)
    reference = 0.8 * base + 0.5 * delta(one, PROJECTION, 0.8 * base)
    assert models.relative(models.patched_weights(scaled)[key], reference) < 1e-6


def test_a_merge_of_two_models_and_an_adapter(pack: Pack) -> None:
    """ModelMergeSimple on a model with an adapter scales what the adapter made of it, as it does with a LoRA."""
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    first, second = models.sd3(seed=0), models.sd3(seed=1)
    key = f"{PROJECTION}.weight"
    W, V = models.weights(first)[key].double(), models.weights(second)[key].double()
    one, two = (random_adapter(pack, label, [PROJECTION], first, seed) for label, seed in (("qr", 10), ("relu", 30)))
    left, right = pack.apply(one, first)[0], pack.apply(two, second)[0]
    merged = ModelMergeSimple().merge(left, right, 0.7)[0]
    mixed = 0.7 * (W + delta(one, PROJECTION, W)) + 0.3 * (V + delta(two, PROJECTION, V))
    assert models.relative(models.patched_weights(merged)[key], mixed) < 1e-6
    after = pack.apply(two, merged)[0]
    assert models.relative(models.patched_weights(after)[key], mixed + delta(two, PROJECTION, mixed)) < 1e-6
