"""Autograd through code that was written for inference: in place, out=, views, inference tensors, checkpointing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from . import models
from .pack import Pack
from .test_training import as_loaded, backward, train


def normed(x: Tensor) -> Tensor:
    """A norm, which keeps its input."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


# Blocks as ComfyUI has them, each with the same without writing in place.
def gated(x: Tensor, w: Tensor) -> Tensor:
    x += normed(x) @ w  # the norm has kept x
    x += torch.sigmoid(x) @ w
    return x


def gated_plain(x: Tensor, w: Tensor) -> Tensor:
    x = x + normed(x) @ w
    return x + torch.sigmoid(x) @ w


def of_views(x: Tensor, w: Tensor) -> Tensor:
    first, second = (x @ w).chunk(2, dim=-1)
    first *= normed(second)
    second.add_(first)
    return torch.cat((first, second), dim=-1)


def of_views_plain(x: Tensor, w: Tensor) -> Tensor:
    first, second = (x @ w).chunk(2, dim=-1)
    first = first * normed(second)
    return torch.cat((first, second + first), dim=-1)


def into_a_buffer(x: Tensor, w: Tensor) -> Tensor:
    y = normed(x) @ w
    torch.add(x, y, out=y)
    return torch.mul(y, normed(y), out=torch.empty_like(y))


def into_a_buffer_plain(x: Tensor, w: Tensor) -> Tensor:
    y = x + normed(x) @ w
    return y * normed(y)


def into_its_input(x: Tensor, w: Tensor) -> Tensor:
    torch.add(x, normed(x) @ w, out=x)  # comfy/text_encoders/llama.py since 0.32
    return x


def into_its_input_plain(x: Tensor, w: Tensor) -> Tensor:
    return x + normed(x) @ w


BLOCKS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "in place": (gated, gated_plain),
    "views": (of_views, of_views_plain),
    "out": (into_a_buffer, into_a_buffer_plain),
    "out is the input": (into_its_input, into_its_input_plain),
}


def leaves() -> tuple[Tensor, list[Tensor]]:
    return models.random(3, 5, 8, seed=1), [(0.3 * models.random(8, 8, seed=seed)).requires_grad_() for seed in (2, 3)]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("kind", BLOCKS)
def test_gradients_are_those_of_the_same_without_writing_in_place(pack: Pack, kind: str, checkpointing: bool) -> None:
    written, plain = BLOCKS[kind]
    x, weights = leaves()
    y = x
    for weight in weights:
        y = plain(y, weight)
    expected = torch.autograd.grad(y.sin().sum(), weights)
    repairs = pack.repairs.Repairs("Net")
    regions = [repairs.blocks.setdefault(str(place), pack.saved.Region(str(place))) for place in range(2)]

    def value() -> Tensor:
        y = x.clone()
        for region, weight in zip(regions, weights, strict=True):
            # What is around the blocks writes into their results and inputs, too.
            y = pack.saved.checkpointed(region, written, y, weight) if checkpointing else written(y, weight)
        return y.sin().sum()

    passes = backward(repairs, value, weights)
    for weight, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)
    assert passes > 1
    assert repairs.text_line().startswith("Net is written for inference: ")
    # What was found out holds for the next step.
    assert backward(repairs, value, weights) == 1


@pytest.mark.parametrize("offloaded", [False, True], ids=["kept", "offloaded"])
@pytest.mark.parametrize("how", ["tuple", "dictionary", "afterwards"])
def test_inputs_of_checkpointed_blocks_that_are_written_into(pack: Pack, how: str, offloaded: bool) -> None:
    """The input is in a tuple (LTX-2) or a dictionary, or the code around the block writes into it afterwards."""
    x, (first, second) = leaves()
    repairs = pack.repairs.Repairs("Net")
    region = repairs.blocks.setdefault("0", pack.saved.Region("0"))
    region.host = pack.host.Host(pack.host.PlainCopies()) if offloaded else None

    def block(given: Any, weight: Tensor) -> Tensor:
        y = given if how == "afterwards" else given["x"] if how == "dictionary" else given[0]
        z = normed(y) @ weight
        if how != "afterwards":
            y += z
        return z.sin()

    def value() -> Tensor:
        y = x @ first
        given = y if how == "afterwards" else {"x": y} if how == "dictionary" else (y, None)
        z = pack.saved.checkpointed(region, block, given, second)
        y += 1.0
        return (z * 2).sum() + y.square().sum()

    def plain() -> Tensor:
        y = x @ first
        z = normed(y) @ second
        after = y if how == "afterwards" else y + z
        return (z.sin() * 2).sum() + (after + 1.0).square().sum()

    expected = torch.autograd.grad(plain(), (first, second))
    backward(repairs, value, [first, second])
    torch.testing.assert_close(first.grad, expected[0])
    torch.testing.assert_close(second.grad, expected[1])
    # The first only, not the weight. What is on the CPU is what the block got, whatever is done afterwards.
    assert region.inputs == (set() if offloaded and how == "afterwards" else {0})


@pytest.mark.parametrize("offloaded", [False, True], ids=["kept", "offloaded"])
def test_an_input_of_two_blocks_that_is_written_into(pack: Pack, offloaded: bool) -> None:
    """One tensor for both stays where it is, also when it has to be on the CPU; and is copied if it changes."""
    x, (first, second) = leaves()
    repairs, host = pack.repairs.Repairs("Net"), pack.host.Host(pack.host.PlainCopies())
    regions = [repairs.blocks.setdefault(name, pack.saved.Region(name)) for name in ("0", "1")]
    for region in regions:
        region.host = host if offloaded else None

    def block(y: Tensor, other: Tensor) -> Tensor:
        return (normed(y) @ second) * other

    def value() -> Tensor:
        y, shared = x @ first, (x @ first).sin()
        for region in regions:
            y = pack.saved.checkpointed(region, block, y, shared)
        shared += 1.0
        return y.sum() + shared.square().sum()

    def plain() -> Tensor:
        y, shared = x @ first, (x @ first).sin()
        for _ in regions:
            y = block(y, shared)
        return y.sum() + (shared + 1.0).square().sum()

    expected = torch.autograd.grad(plain(), (first, second))
    assert backward(repairs, value, [first, second]) > 1
    torch.testing.assert_close(first.grad, expected[0])
    torch.testing.assert_close(second.grad, expected[1])
    # The last block copies for itself, so that on the CPU the first one has a copy of its own.
    assert [region.inputs for region in regions] == [set() if offloaded else {1}, {1}]


def test_a_checkpointed_block_runs_twice_and_keeps_its_precision(pack: Pack) -> None:
    x, (weight, _) = leaves()
    calls: list[torch.dtype] = []

    def block(y: Tensor) -> Tensor:
        z = y @ weight
        calls.append(z.dtype)
        return torch.sigmoid(z) * y

    region = pack.saved.Region("0")
    with torch.autocast("cpu", torch.bfloat16):
        output = pack.saved.checkpointed(region, block, x)
        expected = block(x)
    output.float().sum().backward()
    gradient = weight.grad.clone()
    weight.grad = None
    expected.float().sum().backward()
    assert torch.equal(gradient, weight.grad)
    assert calls == [torch.bfloat16] * 3
    with torch.no_grad():
        pack.saved.checkpointed(region, block, x)
    assert len(calls) == 4
    assert not region.changed


def test_a_block_that_is_random_is_refused(pack: Pack) -> None:
    """One that saves another number of tensors when it is computed again."""
    x, (weight, _) = leaves()
    seen: list[int] = []

    def block(y: Tensor) -> Tensor:
        seen.append(1)
        return torch.sigmoid(y @ weight) if len(seen) == 1 else y @ weight

    value = pack.saved.checkpointed(pack.saved.Region("blocks.0"), block, x).sum()
    with pytest.raises(RuntimeError, match="blocks.0 saves 2 tensors in the forward pass and 1 when"):
        value.backward()


def test_tensors_that_were_made_in_inference_mode(pack: Pack) -> None:
    """Tables that a network has kept from sampling."""
    x, weights = leaves()
    with torch.inference_mode():
        table = models.random(8, seed=9)
    repairs = pack.repairs.Repairs("Net")

    def value() -> Tensor:
        return ((x @ weights[0]) * table).square().sum()

    assert backward(repairs, value, weights) == 2
    (expected,) = torch.autograd.grad(((x @ weights[0]) * models.random(8, seed=9)).square().sum(), weights[:1])
    torch.testing.assert_close(weights[0].grad, expected)
    shared = pack.functional.ordinary(table)
    assert shared.data_ptr() == table.data_ptr()
    assert not shared.is_inference()


def test_what_has_no_gradient_is_an_error_that_names_it(pack: Pack) -> None:
    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            raise RuntimeError("Trying to backward through fused::rope but no autograd formula was registered.")

    x, weights = leaves()
    with pytest.raises(ValueError, match="ComfyUI's code of Net cannot be trained through.*through fused::rope"):
        backward(pack.repairs.Repairs("Net"), lambda: Fused.apply(x @ weights[0]).sum(), weights)
    other = RuntimeError("CUDA error: an illegal memory access was encountered")
    assert not pack.repairs.Repairs("Net").learn(other)


def test_a_model_that_needs_nothing_pays_nothing(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hook and no mode on a UNet; and Flux says what was done for it."""
    from .bases import BASES

    def refused(*args: Any) -> None:
        raise AssertionError("a hook was set")

    with monkeypatch.context() as patch:
        patch.setattr(pack.saved, "saved_tensors_hooks", refused)
        patch.setattr(pack.functional.Differentiable, "__enter__", refused)
        result = train(pack, as_loaded(models.unet), method="lora", steps=2)
    assert "written for inference" not in result.report
    base = next(base for base in BASES if base.name == "Flux")
    for checkpointing, pattern in (
        (False, r"tensors that it writes into are kept as copies"),
        (True, "so are the inputs of [1-9] blocks"),
    ):
        result = train(
            pack,
            as_loaded(base.model),
            [base.latents()],
            [base.conditioning(5)],
            method="lora",
            steps=2,
            gradient_checkpointing=checkpointing,
        )
        (line,) = [line for line in result.report.splitlines() if line.startswith("Flux.1 is written for inference")]
        import re

        assert re.search(pattern, line)
        assert "gradient checked by finite differences (it is written for inference)" in result.report


def test_networks_are_left_as_they_were(pack: Pack) -> None:
    """Attributes of the modules after a training that checkpoints, in another precision than the stored one."""
    model = as_loaded(partial(models.sd3, dtype=torch.float16))
    models.network_output(
        model, **{name: None if value is None else value.half() for name, value in models.network_inputs(model).items()}
    )  # loading sets attributes
    modules = {name: dict(vars(module)) for name, module in model.model.named_modules()}
    own = model.model.manual_cast_dtype

    def seen(values: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in values.items() if not isinstance(value, (dict, nn.Module))}
        return kept | {"parameters": {name: id(value) for name, value in values["_parameters"].items()}}

    train(pack, model, method="dreambooth", steps=2, layers="everything", precision="fp32", gradient_checkpointing=True)
    assert model.model.manual_cast_dtype is own
    for name, module in model.model.named_modules():
        before, after = seen(modules[name]), seen(vars(module))
        for key in ("forward", "comfy_cast_weights", "dtype", "weight_function", "parameters"):
            assert before.get(key) == after.get(key), (name, key)
