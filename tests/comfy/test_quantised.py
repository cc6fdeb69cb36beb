"""Adapters on quantised and partly loaded bases: nothing is dropped, and how far the result is from the fp32 truth.

The truth is the same network in float32 with the dequantised weights plus the exact change. Errors are of the adapter's
effect: |(y_adapter - y_base) - (truth_adapter - truth_base)| / |truth_adapter - truth_base|. `-s` prints them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from . import models
from .pack import Pack
from .test_patches import SD3_PROJECTION, SD3_QKV

PLAIN = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
ROTATION = {"convrot": True, "convrot_groupsize": 64}
# Ours -> ComfyUI's name of the format, what its marker says besides, and how to make it.
MIXED: dict[str, tuple[str, dict, dict]] = {
    "scaled_fp8": ("", {}, {}),
    "mixed_fp8_e4m3": ("float8_e4m3fn", {}, {"scale": "recalculate"}),
    "mixed_fp8_e5m2": ("float8_e5m2", {}, {"scale": "recalculate"}),
    "mxfp8": ("mxfp8", {}, {}),
    "nvfp4": ("nvfp4", {}, {"scale": "recalculate"}),
    "int8": ("int8_tensorwise", {}, {}),
    "int8_convrot": ("int8_tensorwise", ROTATION, ROTATION | {"per_channel": True}),
    "convrot_w4a4": ("convrot_w4a4", {}, {}),
}
FORMATS = [*PLAIN, *MIXED]
ROUNDS_INPUTS = ("int8", "int8_convrot", "convrot_w4a4")  # ComfyUI quantises what goes into these layers, too
METHODS = [("deft", {"projector": "qr"}), ("deft", {"projector": "relu"}), ("para", {}), ("lora", {})]
METHOD_IDS = ["deft-qr", "deft-relu", "para", "lora"]


@pytest.fixture(autouse=True)
def unloaded() -> Iterator[None]:
    """No quantised model stays loaded: it can be unloaded in inference mode only."""
    yield
    unload()


def depth_of(kind: str) -> int:
    """Rotations of 256 inputs need a wider network."""
    return 4 if kind == "convrot_w4a4" else 1


def quantised_state(kind: str) -> dict[str, Tensor]:
    """The small SD3's weights with all matrices of its blocks in a format of ComfyUI's, as a file would hold them."""
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    state = models.sd3_state(depth=depth_of(kind))
    names = [key for key, value in state.items() if key.startswith("joint_blocks") and value.ndim == 2]
    if kind == "scaled_fp8":  # the older form: a marker, and one scale a layer
        state["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
        for key in names:
            scale = state[key].abs().max() / 448
            state[key] = (state[key] / scale).to(torch.float8_e4m3fn)
            state[key.replace(".weight", ".scale_weight")] = scale
        return state
    name, options, made = MIXED[kind]
    for key in names:
        tensor = QuantizedTensor.from_float(state.pop(key), QUANT_ALGOS[name]["comfy_tensor_layout"], **made)
        state |= {part: value.clone() for part, value in tensor.state_dict(key).items()}
        marker = json.dumps({"format": name, **options}).encode()
        state[key.replace(".weight", ".comfy_quant")] = torch.tensor(list(marker), dtype=torch.uint8)
    return state


def quantised_sd3(kind: str) -> Any:
    """The small SD3 with a quantised base, through ComfyUI's own loader; computes in float32."""
    import comfy.sd
    from comfy.quant_ops import QUANT_ALGOS

    if kind in PLAIN:
        return comfy.sd.load_diffusion_model_state_dict(models.sd3_state(), model_options={"dtype": PLAIN[kind]})
    if MIXED[kind][0] not in ("", *QUANT_ALGOS):
        pytest.skip(f"this ComfyUI has no {kind}")
    with torch.inference_mode():  # as nodes run: quantised tensors cannot change sides
        model = comfy.sd.load_diffusion_model_state_dict(quantised_state(kind))
    assert model is not None
    return model


def truth(pack: Pack, model: Any, depth: int = 1) -> Any:
    """The float32 network with the same weights, dequantised."""
    plain = models.sd3(depth=depth)
    state = plain.model.state_dict()
    assert len(state) > 20
    for key in state:
        if key.startswith("diffusion_model."):
            state[key].copy_(pack.base_weight(model, key)[0])
    return plain


def block_layers(model: Any) -> list[str]:
    """The layers of the blocks: all that are quantised."""
    return [name for name in models.every_layer(model) if "joint_blocks" in name]


def output(model: Any) -> Tensor:
    """The network's output; float32 in and out."""
    result = models.network_output(model)
    assert result.dtype == torch.float32
    return result


def unload() -> None:
    """Unload what ComfyUI has loaded, before a model is loaded by hand. In inference mode, as all that nodes do."""
    import comfy.model_management

    with torch.inference_mode():
        comfy.model_management.unload_all_models()


def output_of_low_vram(model: Any) -> Tensor:
    """The same with all layers' weights outside, patched at each use."""
    unload()
    with torch.inference_mode():
        model.patch_model(models.DEVICE, lowvram_model_memory=1)
        try:
            assert model.model.model_lowvram
            return models.forward(model, **models.network_inputs(model))
        finally:
            model.detach()


# ------------------------------------------------------------------------------------------------------------ formats


@pytest.mark.parametrize(("method", "options"), METHODS, ids=METHOD_IDS)
@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "convrot_w4a4"])
def test_effect_on_a_quantised_base(pack: Pack, kind: str, method: str, options: dict) -> None:
    """Run for |dW| / |W| of 0.1 and 0.001 on the weights, on the activations and patched at each use (low VRAM)."""
    model = quantised_sd3(kind)
    plain = truth(pack, model, depth_of(kind))
    names = block_layers(plain)
    adapter = pack.adapter(plain, names, method, **options)
    weights = models.weights(plain)
    squares = [
        (pack.delta(adapter, name, weights[f"{name}.weight"]).square().sum(), weights[f"{name}.weight"].square().sum())
        for name in names
    ]
    size = float(sum(change for change, _ in squares) / sum(whole for _, whole in squares)) ** 0.5
    base, expected_base = output(model), output(plain)
    assert models.relative(base, expected_base) < (0.25 if kind in ROUNDS_INPUTS else 1e-5)
    errors: dict[tuple[float, str], float] = {}
    for share in (0.1, 0.001):
        strength = share / size
        expected = output(pack.apply(adapter, plain, strength_model=strength)[0])
        outputs = {}
        for mode in ("weights", "activations"):
            patched, _, report = pack.apply(adapter, model, strength_model=strength, mode=mode)
            assert report.matched == len(names)
            assert not report.unmatched
            outputs[mode] = output(patched)
        low = output_of_low_vram(pack.apply(adapter, model, strength_model=strength)[0])
        low_base = output_of_low_vram(model)
        for mode, change in (*((mode, value - base) for mode, value in outputs.items()), ("low", low - low_base)):
            errors[share, mode] = models.relative(change, expected - expected_base)
        whole = {mode: models.relative(value, expected) for mode, value in outputs.items()}
        print(
            f"\n{kind} {method} {options.get('projector', '')} |dW|/|W| {share}: effect "
            + ", ".join(f"{mode} {errors[share, mode]:.2g}" for mode in ("weights", "activations", "low"))
            + "; output "
            + ", ".join(f"{mode} {value:.2g}" for mode, value in whole.items()),
            end="",
        )
    assert torch.equal(output(model), base)  # and back
    assert errors[0.1, "weights"] < (2.5 if kind == "nvfp4" else 1)  # as far as the format goes
    assert errors[0.001, "weights"] > 1  # drowned in the rounding
    if kind not in ROUNDS_INPUTS:
        assert errors[0.1, "activations"] < 1e-4
        assert errors[0.1, "low"] < 1e-4
        assert errors[0.001, "activations"] < 1e-2
        assert errors[0.001, "low"] < 1e-2
    else:
        assert errors[0.1, "activations"] < 1


@pytest.mark.parametrize("mode", ["weights", "activations"])
def test_a_format_of_four_bits_and_rotated_inputs(pack: Pack, mode: str) -> None:
    """Everything in it is rounded to four bits, inputs too, so only a large change is seen: the layers are matched."""
    kind = "convrot_w4a4"
    model = quantised_sd3(kind)
    plain = truth(pack, model, depth_of(kind))
    adapter = pack.adapter(plain, block_layers(plain))
    expected = output(pack.apply(adapter, plain)[0]) - output(plain)
    patched, _, report = pack.apply(adapter, model, mode=mode)
    assert report.matched == len(block_layers(plain))
    assert not report.unmatched
    assert models.relative(output(patched) - output(model), expected) < 0.5


@pytest.mark.parametrize("kind", ["fp8_e4m3", "scaled_fp8", "nvfp4"])
def test_slices_of_quantised_weights(pack: Pack, kind: str) -> None:
    model = quantised_sd3(kind)
    plain = truth(pack, model)
    names = [f"transformer_blocks.0.attn.to_{part}" for part in "qv"]
    adapter = pack.adapter(plain, names, shapes=dict.fromkeys(names, (64, 64)))
    expected = output(pack.apply(adapter, plain)[0])
    patched, _, report = pack.apply(adapter, model, mode="activations")
    assert report.matched == 2
    assert models.relative(expected, output(plain)) > 1e-2
    assert models.relative(output(patched), expected) < 1e-5
    assert models.relative(output_of_low_vram(pack.apply(adapter, model)[0]), expected) < 1e-5
    assert models.relative(output(pack.apply(adapter, model)[0]), expected) < (0.3 if kind == "nvfp4" else 0.1)


@pytest.mark.parametrize("kind", FORMATS)
def test_dequantised_values(pack: Pack, kind: str) -> None:
    """What base_weight gives is what the format means, with a note that says so, patched, half loaded or not."""
    model = quantised_sd3(kind)
    depth = depth_of(kind)
    key = f"{SD3_QKV}.weight"
    original = models.sd3_state(depth=depth)[key.removeprefix("diffusion_model.")]
    value, note = pack.base_weight(model, key)
    assert note
    assert note.startswith("dequantised from ")
    assert value.shape == original.shape
    assert value.dtype == torch.float32
    assert type(value) is Tensor
    if kind in PLAIN:
        assert note == f"dequantised from {str(PLAIN[kind]).removeprefix('torch.')}"
        assert torch.equal(value, original.to(PLAIN[kind]).float())
    elif kind == "scaled_fp8":
        scale = original.abs().max() / 448
        assert torch.equal(value, (original / scale).to(torch.float8_e4m3fn).float() * scale)
    elif kind == "int8":
        scale = original.abs().max() / 127
        assert torch.allclose(value, (original / scale).round() * scale, atol=1e-6)
    assert models.relative(value, original) < {"nvfp4": 0.15, "convrot_w4a4": 0.15}.get(kind, 0.06)
    value, note = pack.base_weight(models.sd3(depth=depth), key)
    assert note is None
    assert torch.equal(value, original)

    value, _ = pack.base_weight(model, key)
    unload()
    patched = pack.apply(pack.adapter(models.sd3(depth=depth), [SD3_QKV]), model)[0]
    with torch.inference_mode():
        for memory in (0, 1):
            patched.patch_model(models.DEVICE, lowvram_model_memory=memory)
            assert torch.equal(pack.base_weight(patched, key)[0], value)
            patched.detach()
    assert torch.equal(pack.base_weight(model, key)[0], value)


def test_a_quantised_embedding_or_bias_is_read(pack: Pack) -> None:
    model = quantised_sd3("scaled_fp8")
    bias, note = pack.base_weight(model, f"{SD3_QKV}.bias")
    assert note is None
    assert bias.shape == (192,)


@pytest.mark.parametrize("kind", ["fp8_e4m3", "scaled_fp8", "nvfp4"])
def test_the_exported_lora_is_of_the_dequantised_base(pack: Pack, kind: str) -> None:
    import comfy.sd

    model = quantised_sd3(kind)
    plain = truth(pack, model)
    adapter = pack.adapter(plain, [SD3_PROJECTION, SD3_QKV])
    lora, report = pack.export(adapter, model)
    assert "dequantised from" in report.text()
    with_lora = comfy.sd.load_lora_for_models(plain, None, dict(lora), 1.0, 0)[0]
    assert models.relative(output(with_lora), output(pack.apply(adapter, plain)[0])) < 1e-5


@pytest.mark.parametrize("kind", ["scaled_fp8", "nvfp4", "convrot_w4a4"])
def test_a_peft_folder_is_for_the_size_of_the_values(pack: Pack, kind: str, tmp_path: Path) -> None:
    """LoKr's folder needs the sizes of the weights, which 4 bits keep in half the columns."""
    model = quantised_sd3(kind)
    rows, columns = models.weights(truth(pack, model, depth_of(kind)))[f"{SD3_PROJECTION}.weight"].shape
    tensors = {"lokr_w1": models.random(4, 4, seed=1), "lokr_w2": models.random(rows // 4, columns // 4, seed=2)}
    adapter = pack.adapters.from_layers({SD3_PROJECTION: tensors})
    pack.saving.write_peft(adapter, tmp_path / "folder", model, {})
    read = pack.files.read(tmp_path / "folder")
    _, _, report = pack.apply(read, model)
    assert (report.matched, report.unmatched) == (1, [])


def test_another_size_is_told_by_the_values_not_the_storage(pack: Pack) -> None:
    model = quantised_sd3("nvfp4")  # two values a byte
    adapter = pack.adapter(models.sd3(), [SD3_PROJECTION, SD3_QKV], shapes={SD3_QKV: (192, 32)})
    _, _, report = pack.apply(adapter, model)
    assert report.matched == 1
    assert "this weight is [192, 64]" in report.text()


# ------------------------------------------------------------------------------------------- formats of other loaders


class BlockTensor(torch.Tensor):
    """Packed blocks of 32 values, as GGUF's Q8_0: a scale in fp16 and 32 bytes. Its shape is that of the values.

    Patches hang on the tensor, and are applied where it is dequantised: the way of the GGUF loader that is in use.
    """

    @staticmethod
    def __new__(cls, data: Tensor, values: torch.Size) -> BlockTensor:
        tensor = torch.Tensor._make_subclass(cls, data)
        tensor.values_shape, tensor.patches = values, []
        return tensor

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        return self.values_shape

    def to(self, *args: Any, **kwargs: Any) -> BlockTensor:
        tensor = super().to(*args, **kwargs)
        tensor.values_shape, tensor.patches = self.values_shape, self.patches.copy()
        return tensor

    def detach(self) -> BlockTensor:
        return self

    def clone(self, *args: Any, **kwargs: Any) -> BlockTensor:
        return self

    tensor_type = type("Kind", (), {"name": "Q8_0"})


def packed(weight: Tensor) -> BlockTensor:
    """A matrix as blocks of bytes."""
    blocks = weight.reshape(-1, 32)
    scale = (blocks.abs().amax(1, keepdim=True) / 127).half()
    data = torch.cat([scale.view(torch.uint8), (blocks / scale.float()).round().to(torch.int8).view(torch.uint8)], 1)
    return BlockTensor(data.reshape(len(weight), -1), weight.shape)


def unpacked(tensor: BlockTensor) -> Tensor:
    """The values of such a tensor."""
    data = torch.Tensor.view(tensor.as_subclass(Tensor), -1, 34)
    values = data[:, 2:].contiguous().view(torch.int8).float() * data[:, :2].contiguous().view(torch.float16).float()
    return values.reshape(tuple(tensor.shape))


def lazy_operations() -> Any:
    """ComfyUI operations whose linear layers dequantise at each call."""
    import comfy.lora
    import comfy.ops

    class Lazy(comfy.ops.manual_cast):
        class Linear(comfy.ops.manual_cast.Linear):
            def _load_from_state_dict(self, state: dict, prefix: str, *others: Any) -> None:
                self.weight = nn.Parameter(state[f"{prefix}weight"], requires_grad=False)
                if f"{prefix}bias" in state:
                    self.bias = nn.Parameter(state[f"{prefix}bias"], requires_grad=False)

            def get_weight(self, tensor: Any, dtype: torch.dtype) -> Any:
                if not isinstance(tensor, BlockTensor):
                    return tensor.to(dtype)
                weight = unpacked(tensor).to(dtype)
                for patches, key in tensor.patches:
                    weight = comfy.lora.calculate_weight(patches, weight, key)
                return weight

            def forward_comfy_cast_weights(self, x: Tensor) -> Tensor:
                bias = None if self.bias is None else self.bias.to(x)
                return nn.functional.linear(x, self.get_weight(self.weight, x.dtype), bias)

    return Lazy


def lazy_sd3() -> Any:
    """The small SD3 with packed blocks, and a model patcher that leaves patches to the layers."""
    import comfy.model_patcher
    import comfy.sd
    import comfy.utils

    class LazyPatcher(comfy.model_patcher.ModelPatcher):
        def patch_weight_to_device(self, key: str, device_to: Any = None, *others: Any, **more: Any) -> Any:
            weight = comfy.utils.get_attr(self.model, key)
            if key not in self.patches or not isinstance(weight, BlockTensor):
                return super().patch_weight_to_device(key, device_to, *others, **more)
            weight.patches = [(self.patches[key], key)]
            return None

        def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:
            for weight in self.model.parameters() if unpatch_weights else ():
                if isinstance(weight, BlockTensor):
                    weight.patches = []
            super().unpatch_model(device_to, unpatch_weights)

        def load(self, *args: Any, force_patch_weights: bool = False, **kwargs: Any) -> None:
            super().load(*args, force_patch_weights=True, **kwargs)

    state = models.sd3_state()
    for key, value in state.items():
        if key.startswith("joint_blocks") and value.ndim == 2:
            state[key] = packed(value)
    model = comfy.sd.load_diffusion_model_state_dict(state, model_options={"custom_operations": lazy_operations()})
    model.__class__ = LazyPatcher
    return model


@pytest.mark.parametrize(("method", "options"), METHODS, ids=METHOD_IDS)
def test_a_loader_that_dequantises_lazily(pack: Pack, method: str, options: dict) -> None:
    """Packed weights, patched by their layers at each call: exact on the weights and on the activations."""
    model = lazy_sd3()
    key = f"{SD3_QKV}.weight"
    original = models.sd3_state()[key.removeprefix("diffusion_model.")]
    value, note = pack.base_weight(model, key)
    assert note == "dequantised from Q8_0"
    assert value.shape == original.shape
    assert type(value) is Tensor
    assert 0 < models.relative(value, original) < 1e-2
    plain = truth(pack, model)
    slices = [f"transformer_blocks.0.attn.to_{part}" for part in "qk"]
    names = [name for name in block_layers(plain) if name != SD3_QKV] + slices
    adapter = pack.adapter(plain, names, method, shapes=dict.fromkeys(slices, (64, 64)), **options)
    expected = output(pack.apply(adapter, plain, strength_model=0.3)[0])
    base = output(model)
    assert models.relative(base, output(plain)) < 1e-6 < 1e-2 < models.relative(base, expected)
    for mode in ("weights", "activations"):
        patched, _, report = pack.apply(adapter, model, strength_model=0.3, mode=mode)
        assert report.matched == len(names)
        assert not report.unmatched
        assert models.relative(output(patched), expected) < 1e-5
        assert torch.equal(pack.base_weight(patched, key)[0], value)  # without what is patched at the moment
        assert models.relative(output(patched), expected) < 1e-5  # and the patches are still there
        assert models.relative(output_of_low_vram(patched), expected) < 1e-5
    assert torch.equal(output(model), base)


def test_a_format_that_is_not_known(pack: Pack) -> None:
    """Weights are stored as by NF4 loaders: bytes of another shape. Activations need none; reading them is refused."""

    class Nibbles(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.kept, self.bias)

    model = models.sd3()
    attention = model.model.diffusion_model.joint_blocks[0].x_block.attn
    layer = Nibbles(64, 64)
    layer.kept, layer.bias = attention.proj.weight.detach(), attention.proj.bias
    layer.weight = nn.Parameter(torch.zeros(64 * 32, 1, dtype=torch.uint8), requires_grad=False)
    attention.proj = layer
    adapter = pack.adapter(models.sd3(), [SD3_PROJECTION])
    expected = output(pack.apply(adapter, models.sd3())[0])
    patched, _, report = pack.apply(adapter, model, mode="activations")
    assert report.matched == 1
    assert models.relative(output(patched), expected) < 1e-5
    with pytest.raises(
        ValueError, match=rf"{SD3_PROJECTION}.weight is stored as torch.uint8, which is not supported: load"
    ):
        pack.base_weight(model, f"{SD3_PROJECTION}.weight")


# ------------------------------------------------------------------------------------------------------ partly loaded


@pytest.mark.parametrize("kind", ["fp32", "fp8_e4m3", "scaled_fp8"])
@pytest.mark.parametrize("mode", ["weights", "activations"])
def test_partly_loaded(pack: Pack, kind: str, mode: str) -> None:
    """All outside, a part outside, and more loaded step by step: no layer is dropped."""
    model = models.sd3(depth=2) if kind == "fp32" else quantised_sd3(kind)
    plain = truth(pack, model, 2 if kind == "fp32" else 1)
    adapter = pack.adapter(plain, block_layers(plain))
    expected, base = output(pack.apply(adapter, plain)[0]), output(model)
    patched = pack.apply(adapter, model, mode=mode)[0]
    inputs = models.network_inputs(model)
    unload()
    size = patched.model_size()
    exact = 1e-5 if kind == "fp32" or mode == "activations" else 0.2  # loaded fp8 weights are rounded
    with torch.inference_mode():
        patched.patch_model(models.DEVICE, lowvram_model_memory=1)
        assert models.relative(models.forward(model, **inputs), expected) < 1e-5
        for share in (0.3, 0.6, 0.9):
            patched.partially_load(models.DEVICE, int(share * size))
            assert models.relative(models.forward(model, **inputs), expected) < exact
        patched.partially_unload(models.CPU, size // 2)
        assert models.relative(models.forward(model, **inputs), expected) < exact
        patched.detach()
    assert torch.equal(output(model), base)


@pytest.mark.parametrize("method", ["deft", "deft-relu", "para", "lora"])
def test_patches_from_a_prefetch_buffer(pack: Pack, method: str) -> None:
    """What low-VRAM streaming does with an adapter, and dynamic VRAM in two steps: room first, then the values."""
    import comfy.model_patcher

    model = models.sd3()
    name, _, projector = method.partition("-")
    slices = ["transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_v"]
    patched = model
    for stacking in ("sequential", "from_base"):
        adapter = pack.adapter(
            model,
            [*slices, SD3_PROJECTION],
            name,
            shapes=dict.fromkeys(slices, (64, 64)),
            **({"projector": projector} if projector else {}),
        )
        patched = pack.apply(adapter, patched, stacking=stacking)[0]
    for key in (f"{SD3_QKV}.weight", f"{SD3_PROJECTION}.weight"):
        base = models.weights(model)[key]
        straight = comfy.model_patcher.LowVramPatch(key, patched.patches)(base.clone())
        assert models.relative(straight, base) > 1e-3
        patch = comfy.model_patcher.LowVramPatch(key, patched.patches)
        room = torch.empty(patch.memory_required(), dtype=torch.uint8)
        patch.prepare(room, None)
        assert torch.equal(patch(base.clone()), straight)
        patch = comfy.model_patcher.LowVramPatch(key, patched.patches)
        room.zero_()
        patch.prepare(room, None, copy=False, commit=True)
        assert torch.equal(patch(base.clone()), base)  # nothing there yet
        patch.prepare(room, None, copy=True, commit=False)
        assert torch.equal(patch(base.clone()), straight)
        patch.clear_prepared()
        assert torch.equal(patch(base.clone()), straight)
