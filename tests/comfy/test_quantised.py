"""Adapters on quantised and partly loaded bases: nothing is dropped, and how far the result is from the fp32 truth.

The truth is the same network in float32 with the dequantised weights plus the exact change. Errors are of the adapter's
effect: |(y_adapter - y_base) - (truth_adapter - truth_base)| / |truth_adapter - truth_base|.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from . import models
from .test_patches import SD3_PROJECTION, SD3_QKV, Pack

WIDTH = 64
# What patching may lose: each format rounds the changed weight again. Small means |dW| / |W| of about 0.02.
FORMATS = ["fp8_e4m3", "fp8_e5m2", "scaled_fp8", "int8_tensorwise", "mxfp8", "nvfp4"]


@pytest.fixture(scope="session")
def pack(comfyui_session: Any) -> Pack:
    return Pack(comfyui_session)


def quant_layouts() -> dict[str, str]:
    """ComfyUI's formats of quantised layers here, with the names of their tensor layouts."""
    from comfy.quant_ops import QUANT_ALGOS

    return {name: value["comfy_tensor_layout"] for name, value in QUANT_ALGOS.items()}


def quantised_state(kind: str) -> dict[str, Tensor]:
    """The small SD3's weights with all matrices of its blocks in a format of ComfyUI's, as a file would hold them."""
    state = models.sd3_state()
    names = [key for key, value in state.items() if key.startswith("joint_blocks") and value.ndim == 2]
    if kind == "scaled_fp8":  # the older form: a marker, and one scale a layer
        state["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
        for key in names:
            scale = state[key].abs().max() / 448
            state[key] = (state[key] / scale).to(torch.float8_e4m3fn)
            state[key.replace(".weight", ".scale_weight")] = scale
        return state
    from comfy.quant_ops import QuantizedTensor

    for key in names:
        tensor = QuantizedTensor.from_float(state.pop(key), quant_layouts()[kind])
        state |= {name: value.clone() for name, value in tensor.state_dict(key).items()}
        marker = json.dumps({"format": kind}).encode()
        state[key.replace(".weight", ".comfy_quant")] = torch.tensor(list(marker), dtype=torch.uint8)
    return state


def quantised_sd3(kind: str) -> Any:
    """The small SD3 with a quantised base, through ComfyUI's own loader; computes in float32."""
    import comfy.sd

    if kind.startswith("fp8"):
        dtype = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}[kind]
        return comfy.sd.load_diffusion_model_state_dict(models.sd3_state(), model_options={"dtype": dtype})
    with torch.inference_mode():  # as nodes run: quantised tensors cannot change sides
        model = comfy.sd.load_diffusion_model_state_dict(quantised_state(kind))
    assert model is not None
    return model


def available() -> list[str]:
    """The formats that this ComfyUI knows and can make on a CPU."""
    found = []
    for kind in FORMATS:
        if kind.startswith("fp8") or kind == "scaled_fp8":
            found.append(kind)
        elif kind in quant_layouts():
            try:
                quantised_state(kind)
            except (NotImplementedError, RuntimeError, AttributeError):  # needs a GPU's kernels
                continue
            found.append(kind)
    return found


def truth(pack: Pack, model: Any, comfyui: Any) -> Any:
    """The float32 network with the same weights, dequantised."""
    base_weight = comfyui.module("patches.base_weights").base_weight
    plain = models.sd3()
    state = plain.model.state_dict()
    assert len(state) > 20
    for key in state:
        if key.startswith("diffusion_model."):
            state[key].copy_(base_weight(model, key)[0])
    return plain


def output(model: Any) -> Tensor:
    """The network's output in the dtype that the model computes in."""
    dtype = model.model.get_dtype_inference() if hasattr(model.model, "get_dtype_inference") else torch.float32
    inputs = {name: value if name == "timesteps" else value.to(dtype)
              for name, value in models.network_inputs(model).items()}
    return models.network_output(model, **inputs).float()


def effect_errors(pack: Pack, comfyui: Any, kind: str, strength: float, method: str = "deft") -> dict[str, float]:
    """The error of the adapter's effect on weights and on activations."""
    model = quantised_sd3(kind)
    plain = truth(pack, model, comfyui)
    adapter = pack.adapter(plain, [SD3_PROJECTION, SD3_QKV], method)
    base, expected_base = output(model), output(plain)
    assert models.relative(base, expected_base) < 2e-2
    expected = output(pack.apply(adapter, plain, strength_model=strength)[0]) - expected_base
    errors = {}
    for mode in ("weights", "activations"):
        patched, _, report = pack.apply(adapter, model, strength_model=strength, mode=mode)
        assert report.matched == 2 and not report.unmatched
        errors[mode] = models.relative(output(patched) - base, expected)
    assert torch.equal(output(model), base)  # and back
    return errors


def test_the_formats_that_a_cpu_can_make(comfyui_session: Any) -> None:
    assert {"fp8_e4m3", "fp8_e5m2", "scaled_fp8"} <= set(available())


@pytest.mark.parametrize("method", ["deft", "para", "lora"])
@pytest.mark.parametrize("kind", FORMATS)
def test_effect_on_a_quantised_base(pack: Pack, comfyui_session: Any, kind: str, method: str) -> None:
    if kind not in available():
        pytest.skip(f"{kind} does not exist in ComfyUI {comfyui_session.version}, or not on a CPU")
    large = effect_errors(pack, comfyui_session, kind, 1.0, method)
    small = effect_errors(pack, comfyui_session, kind, 0.01, method)
    print(f"{kind} {method}: large {large}, small {small}")
    # nvfp4 has 4 bits a weight; int8 rounds what goes into a layer, too, so that its effects differ in any mode.
    assert large["weights"] < (0.75 if kind == "nvfp4" else 0.25)
    assert large["activations"] < (0.1 if kind == "int8_tensorwise" else 1e-5)
    assert small["activations"] < small["weights"]
    assert kind == "int8_tensorwise" or small["activations"] < 1e-3 < 1 < small["weights"]  # lost, and kept


def test_dequantised_values(pack: Pack, comfyui_session: Any) -> None:
    """What base_weight gives is what the format means, with a note that says so, patched or not."""
    base_weight = comfyui_session.module("patches.base_weights").base_weight
    key = f"{SD3_PROJECTION}.weight"
    original = models.sd3_state()[key.removeprefix("diffusion_model.")]
    value, note = base_weight(models.sd3(), key)
    assert note is None and torch.equal(value, original)
    value, note = base_weight(quantised_sd3("fp8_e4m3"), key)
    assert note == "dequantised from float8_e4m3fn"
    assert torch.equal(value, original.to(torch.float8_e4m3fn).float())
    model = quantised_sd3("scaled_fp8")
    value, note = base_weight(model, key)
    scale = original.abs().max() / 448
    assert note and "dequantised" in note
    assert models.relative(value, (original / scale).to(torch.float8_e4m3fn).float() * scale) < 5e-3  # in its dtype
    patched = pack.apply(pack.adapter(models.sd3(), [SD3_PROJECTION]), model)[0]
    output(patched)
    assert torch.equal(base_weight(patched, key)[0], value)


class LazyLinear(nn.Module):
    """Dequantises at each call and applies ComfyUI's patches to the result, as GGUF loaders do it."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale = linear.weight.data.abs().max() / 127
        self.weight = nn.Parameter((linear.weight.data / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = linear.bias
        self.weight_function: list = []
        self.bias_function: list = []
        self.patches: list = []

    def get_weight(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        import comfy.lora

        plain = weight.to(dtype) * self.scale
        return comfy.lora.calculate_weight(self.patches, plain, "lazy") if self.patches else plain

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.get_weight(self.weight.data, x.dtype), self.bias)


@pytest.mark.parametrize("method", ["deft", "para"])
def test_a_layer_that_dequantises_itself(pack: Pack, comfyui_session: Any, method: str) -> None:
    """Patches that are applied at call time by the layer itself, and activations."""
    model = models.sd3()
    attention = model.model.diffusion_model.joint_blocks[0].x_block.attn
    attention.proj = LazyLinear(attention.proj)
    key = f"{SD3_PROJECTION}.weight"
    value, note = comfyui_session.module("patches.base_weights").base_weight(model, key)
    assert note and value.shape == (WIDTH, WIDTH) and value.dtype == torch.float32
    adapter = pack.adapter(models.sd3(), [SD3_PROJECTION], method)
    plain = models.sd3()
    plain.model.state_dict()[key].copy_(value)
    expected = models.network_output(pack.apply(adapter, plain)[0])
    assert models.relative(expected, models.network_output(plain)) > 1e-3

    on_activations = pack.apply(adapter, model, mode="activations")[0]
    assert models.relative(models.network_output(on_activations), expected) < 1e-5

    patched = pack.apply(adapter, model)[0]
    attention.proj.patches = patched.patches[key]
    with torch.inference_mode():
        found = model.model.diffusion_model(**models.network_inputs(model))
    assert models.relative(found, expected) < 1e-5


@pytest.mark.parametrize("kind", ["fp32", "fp8_e4m3", "scaled_fp8"])
def test_partly_loaded(pack: Pack, comfyui_session: Any, kind: str) -> None:
    """Weights that are patched at each use, straight and from a prefetch buffer, match the fp32 truth."""
    import comfy.model_patcher

    model = models.sd3() if kind == "fp32" else quantised_sd3(kind)
    plain = truth(pack, model, comfyui_session)
    adapter = pack.adapter(plain, [SD3_PROJECTION, SD3_QKV])
    expected = output(pack.apply(adapter, plain)[0])
    patched = pack.apply(adapter, model)[0]
    inputs = models.network_inputs(model)
    with torch.inference_mode():
        patched.load(models.CPU, lowvram_model_memory=1)
        found = patched.model.diffusion_model(**inputs).float()
        patched.detach()
    assert models.relative(found, expected) < (1e-5 if kind == "fp32" else 2e-2)

    if kind == "fp32" and hasattr(comfy.model_patcher.LowVramPatch, "prepare"):
        key = f"{SD3_PROJECTION}.weight"
        patch = comfy.model_patcher.LowVramPatch(key, patched.patches)
        buffer = torch.empty(patch.memory_required(), dtype=torch.uint8)
        patch.prepare(buffer, None)
        base = models.weights(model)[key]
        straight = comfy.model_patcher.LowVramPatch(key, patched.patches)(base.clone())
        assert models.relative(straight, base) > 1e-3
        assert torch.equal(patch(base.clone()), straight)
