"""Training on bases that are not plain float32 in memory: fp8, scaled fp8, other quantised formats, partly loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from . import models
from .test_quantised import (
    FORMATS,
    ROUNDS_INPUTS,
    SD3_PROJECTION,
    depth_of,
    lazy_sd3,
    quantised_sd3,
    truth,
    unload,
)
from .test_training import traces
from .test_training_runs import train


@pytest.fixture(autouse=True)
def unloaded() -> Iterator[None]:
    """No quantised model stays loaded: it can be unloaded in inference mode only."""
    yield
    unload()


@pytest.mark.parametrize("kind", FORMATS)
def test_quantised_bases(pack: Any, kind: str) -> None:
    """The losses are those of the dequantised network in float32, step after step; nothing of the base changes."""
    model = quantised_sd3(kind)
    plain = truth(pack, model, depth_of(kind))
    models.network_output(model)  # loading makes new parameters of some formats
    before = traces(model)
    chosen: dict[str, Any] = {"layers": "attention and feed-forward", "steps": 4, "precision": "fp32", "method": "deft"}
    result, expected = train(pack, model, **chosen), train(pack, plain, **chosen)
    limit = 0.05 if kind in ROUNDS_INPUTS else 1e-4
    assert result.losses == pytest.approx(expected.losses, rel=limit)
    assert result.losses[-1] != result.losses[0]
    assert result.adapter.keys() == expected.adapter.keys()
    if kind not in ROUNDS_INPUTS:
        for key in result.adapter:
            assert models.relative(result.adapter[key], expected.adapter[key]) < 1e-2, key
    assert traces(model) == before


@pytest.mark.parametrize("kind", ["int8", "int8_convrot"])
def test_int8_layers_train_by_their_own_product(pack: Any, kind: str) -> None:
    """Forward: ComfyUI's int8 product, bit for bit. Backward: the dequantised weight, with the rotation undone."""
    model = quantised_sd3(kind)
    models.network_output(model)  # loaded
    layer = model.model.get_submodule(SD3_PROJECTION)
    with torch.no_grad():
        weight = layer.weight.dequantize().clone()
    x, grad = models.random(6, weight.shape[1], seed=3), models.random(6, weight.shape[0], seed=4)
    ours, plain = x.clone().requires_grad_(), x.clone().requires_grad_()
    made = pack.frozen.FrozenLayer.apply(ours, layer, layer.forward)
    made.backward(grad)
    with torch.no_grad():
        assert torch.equal(made, layer(x))
    expected = torch.nn.functional.linear(plain, weight, layer.bias if layer.bias is None else layer.bias.clone())
    expected.backward(grad)
    assert 1e-5 < models.relative(made.detach(), expected.detach()) < 0.05  # what goes in is rounded
    torch.testing.assert_close(ours.grad, plain.grad)


def test_the_input_gradient_of_a_layer_that_scales_its_input(pack: Any) -> None:
    """AWQ: y = W (s x). A matrix product in full precision, so that only the gradient is looked at."""
    import inspect
    import json

    import comfy.ops
    from comfy.quant_ops import QuantizedTensor

    kind = comfy.ops.mixed_precision_ops(compute_dtype=torch.float32, full_precision_mm=True).Linear
    if "pre_quant_scale" not in inspect.getsource(kind):
        pytest.skip("this ComfyUI has no such layers")
    layer = kind(16, 16, bias=False)
    weight = QuantizedTensor.from_float(models.random(16, 16, seed=1), "TensorCoreFP8E4M3Layout", scale="recalculate")
    marker = json.dumps({"format": "float8_e4m3fn", "full_precision_matrix_mult": True}).encode()
    state = weight.state_dict("weight") | {"comfy_quant": torch.tensor(list(marker), dtype=torch.uint8)}
    layer.load_state_dict(state)
    scale = models.random(16, seed=2).exp()
    layer.register_parameter("pre_quant_scale", torch.nn.Parameter(scale, requires_grad=False))
    x, grad = models.random(3, 16, seed=3), models.random(3, 16, seed=4)
    ours, plain = x.clone().requires_grad_(), x.clone().requires_grad_()
    pack.frozen.FrozenLayer.apply(ours, layer, layer.forward).backward(grad)
    ((plain * scale) @ layer.weight.dequantize().T).backward(grad)
    torch.testing.assert_close(ours.grad, plain.grad)


@pytest.mark.parametrize("kind", ["fp32", "fp8_e4m3", "scaled_fp8"])
def test_offloaded_bases(pack: Any, kind: str) -> None:
    """All weights outside and brought in at each use, as ComfyUI does when the memory is short."""
    model = models.sd3() if kind == "fp32" else quantised_sd3(kind)
    chosen: dict[str, Any] = {"layers": "all linear", "steps": 3, "precision": "fp32"}
    expected = train(pack, model, **chosen)
    unload()
    load = model.load

    def partly(device: torch.device, **options: Any) -> None:
        load(device, **options | {"lowvram_model_memory": 1, "full_load": False})

    model.load = partly
    lowvram: list[bool] = []
    try:
        result = train(pack, model, on_step=lambda progress: lowvram.append(model.model.model_lowvram), **chosen)
    finally:
        del model.load
    assert lowvram == [True] * 3
    assert result.losses == pytest.approx(expected.losses, rel=1e-5)
    assert all(models.relative(result.adapter[key], expected.adapter[key]) < 1e-3 for key in result.adapter)


def test_a_patched_base_that_is_offloaded(pack: Any) -> None:
    """The patches of an adapter below are in what is trained on, though they are only applied at each use."""
    model = models.sd3()
    below = train(pack, model, steps=2, learning_rate=0.1).adapter
    patched = pack.apply(below, model)[0]
    expected = train(pack, patched, steps=3)
    unload()
    load = patched.load
    patched.load = lambda device, **options: load(device, **options | {"lowvram_model_memory": 1, "full_load": False})
    try:
        result = train(pack, patched, steps=3)
    finally:
        del patched.load
    assert result.losses == pytest.approx(expected.losses, rel=1e-4)
    assert result.losses != pytest.approx(train(pack, model, steps=3).losses, rel=1e-3)


def test_a_base_that_is_dequantised_lazily(pack: Any) -> None:
    """GGUF loaders do it so; with and without an adapter below."""
    model = lazy_sd3()
    plain = truth(pack, model)
    adapter = train(pack, plain, steps=2, learning_rate=0.1).adapter
    for base, expected in ((model, plain), (pack.apply(adapter, model)[0], pack.apply(adapter, plain)[0])):
        result = train(pack, base, steps=3, layers="attention and feed-forward")
        reference = train(pack, expected, steps=3, layers="attention and feed-forward")
        assert result.losses == pytest.approx(reference.losses, rel=1e-4)
        assert all(models.relative(result.adapter[key], reference.adapter[key]) < 1e-2 for key in result.adapter)
