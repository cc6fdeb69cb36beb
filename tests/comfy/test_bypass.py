"""ComfyUI's own bypass loaders read native files: they give what its ordinary Load LoRA gives, or refuse."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from . import models
from .pack import Pack
from .test_activations import METHOD_IDS, METHODS, callable_layers
from .test_adapter_nodes import latent, node, sampling, training_prompt
from .test_export import clip_adapter, encode, random_layers, small_clip
from .test_patches import SD3_MODULATION, SD3_PROJECTION, SD3_QKV, UNET_CONVOLUTION, UNET_LINEAR

FILE = "bypassed.safetensors"
OWN, OWN_IDS = METHODS[:-1], METHOD_IDS[:-1]  # LoRA is ComfyUI's own
BYPASS = ["LoraLoaderBypass", "LoraLoaderBypassModelOnly", "LoraModelLoader"]
LAYERS = [
    nn.Linear(20, 24),
    nn.Linear(20, 24, bias=False),
    nn.Conv1d(6, 24, 3, padding=1),
    nn.Conv2d(6, 24, (3, 2), stride=(2, 1), padding=(1, 0)),
    nn.Conv3d(6, 24, 3, dilation=2, padding=2),
]


@pytest.fixture
def write(comfyui_session: Any) -> Iterator[Callable[[Any], None]]:
    """Writes the file in models/loras, which is removed afterwards."""
    path: Path = comfyui_session.base / "models" / "loras" / FILE
    yield lambda adapter: save_file({name: value.contiguous() for name, value in adapter.items()}, path)
    path.unlink(missing_ok=True)


def loaded(name: str, model: Any, strength: float = 1.0, clip: Any = None) -> Any:
    """The MODEL (and the CLIP) with the file, by one of ComfyUI's own nodes as its executor calls them."""
    import comfy.utils
    import folder_paths
    import nodes

    kind = nodes.NODE_CLASS_MAPPINGS[name]
    with torch.inference_mode():
        if name == "LoraModelLoader":
            lora = comfy.utils.load_torch_file(folder_paths.get_full_path_or_raise("loras", FILE))
            return kind.execute(model, lora, strength, bypass=True).result[0]
        if name.endswith("ModelOnly"):
            return kind().load_lora_model_only(model, FILE, strength)[0]
        patched = kind().load_lora(model, clip, FILE, strength, strength)
        return patched[0] if clip is None else patched


def layers_of(pack: Pack, model: Any, method: str, names: list[str] | None = None, **options: Any) -> Any:
    """Random layers of these names, or all that the model calls, so large that they matter."""
    state = model.model.state_dict()
    shapes = {name: tuple(state[f"{name}.weight"].shape) for name in names or callable_layers(model)}
    return random_layers(pack, shapes, method, **options)


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize(("method", "options"), OWN, ids=OWN_IDS)
@pytest.mark.parametrize("kind", ["sd3", "sd15", "sdxl"])
def test_the_same_as_load_lora(
    pack: Pack, write: Callable[[Any], None], kind: str, method: str, options: dict, strength: float
) -> None:
    model = models.sd3(depth=2) if kind == "sd3" else models.unet(kind)
    base_output, base = models.network_output(model), models.weights(model)
    write(layers_of(pack, model, method, **options))
    expected = models.network_output(loaded("LoraLoaderModelOnly", model, strength))
    assert models.relative(expected, base_output) > 1e-2
    for name in BYPASS:
        patched = loaded(name, model, strength)
        assert not patched.patches
        assert models.relative(models.network_output(patched), expected) < 1e-5, name
        now = models.weights(patched)
        assert all(torch.equal(now[key], base[key]) for key in base)  # loaded, and yet untouched
    assert torch.equal(models.network_output(model), base_output)  # and the original is the base again


def test_model_and_text_encoder(pack: Pack, write: Callable[[Any], None]) -> None:
    model, clip = models.unet(), small_clip("sd15")
    write({**clip_adapter(pack, clip, "deft-qr"), **layers_of(pack, model, "deft", [UNET_LINEAR, UNET_CONVOLUTION])})
    expected_model, expected_clip = loaded("LoraLoader", model, 0.7, clip)
    patched_model, patched_clip = loaded("LoraLoaderBypass", model, 0.7, clip)
    expected, base = encode(expected_clip), encode(clip)
    assert models.relative(expected, base) > 1e-2
    assert models.relative(encode(patched_clip), expected) < 1e-5
    assert not patched_clip.patcher.patches
    expected = models.network_output(expected_model)
    assert models.relative(models.network_output(patched_model), expected) < 1e-5
    assert torch.equal(encode(clip), base)


@pytest.mark.parametrize("algorithm", ["DEFT", "PaRa"])
def test_what_train_lora_made(pack: Pack, write: Callable[[Any], None], algorithm: str) -> None:
    """Files of Train LoRA hold P in place of Q."""
    import comfy.weight_adapter

    model = models.sd3()
    weight = model.model.state_dict()[f"{SD3_PROJECTION}.weight"]
    trained = comfy.weight_adapter.adapter_maps[algorithm].create_train(weight, rank=4, alpha=1.0)
    tensors = {f"{SD3_PROJECTION}.{name}": value + 0.1 for name, value in trained.state_dict().items()}
    assert f"{SD3_PROJECTION}.deft_P" in tensors
    write(tensors)
    expected = models.network_output(loaded("LoraLoaderModelOnly", model))
    assert models.relative(expected, models.network_output(model)) > 1e-3
    assert models.relative(models.network_output(loaded("LoraModelLoader", model)), expected) < 1e-5


@pytest.mark.parametrize(("method", "options"), OWN, ids=OWN_IDS)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_kinds_of_layers(pack: Pack, layer: Any, method: str, options: dict) -> None:
    """A large bias is not taken for a part of W x; several entries are summed from the same W x."""
    import comfy.weight_adapter

    if layer.bias is not None:
        layer.bias.data.fill_(7.0)
    weight = layer.weight.detach().clone()
    cls = pack.weight_adapter.DeftWeightAdapter
    first, second = (
        cls.load("a", {f"a.{suffix}": value for suffix, value in factors.items()})
        for seed in (10, 40)
        for factors in models.deft_layers(
            {"a": tuple(weight.shape)}, pack.methods.get(method), seed=seed, **options
        ).values()
    )
    both = cls(first.loaded_keys, (first.weights[0], (*second.weights[0][:4], 0.5)))
    sides = {1: 20, 3: 9, 4: 8, 5: 7}
    x = (
        models.random(2, 5, 20, seed=9)
        if isinstance(layer, nn.Linear)
        else (models.random(2, 6, *[sides[weight.ndim]] * (weight.ndim - 2), seed=9))
    )
    with torch.no_grad():
        plain = layer(x)
        hook = comfy.weight_adapter.BypassForwardHook(layer, both, multiplier=0.8)
        hook.inject()
        output = layer(x)
        hook.eject()
        layer.weight.copy_(both.calculate_weight(weight.clone(), "a", 0.8, 1.0, None, lambda w: w))
        expected = layer(x)
        layer.weight.copy_(weight)
    assert models.relative(expected, plain) > 1e-2
    assert models.relative(output, expected) < 1e-5


def test_among_other_patches_and_on_a_partly_loaded_model(pack: Pack, write: Callable[[Any], None]) -> None:
    """A weight patch of the model, or of its bias, is a part of W x + b, whether it is made now or at each call."""
    model = models.sd3()
    lora = pack.adapter(model, [SD3_PROJECTION], "lora")
    lora[f"{SD3_PROJECTION}.diff_b"] = models.random(64, seed=3)
    write(layers_of(pack, model, "deft"))
    below = pack.apply(lora, model)[0]
    expected = models.network_output(loaded("LoraLoaderModelOnly", below))
    assert models.relative(models.network_output(loaded("LoraLoaderModelOnly", model)), expected) > 1e-3
    patched = loaded("LoraLoaderBypassModelOnly", below)
    assert models.relative(models.network_output(patched), expected) < 1e-5
    import comfy.model_management

    comfy.model_management.unload_all_models()
    with torch.inference_mode():
        patched.load(models.DEVICE, lowvram_model_memory=1)
        patched.inject_model()
        output = models.forward(patched, **models.network_inputs(patched))
        patched.detach()
    assert models.relative(output, expected) < 1e-5


def test_gradients_go_through(pack: Pack, write: Callable[[Any], None]) -> None:
    """A file read under a node's inference mode serves a training on the same model."""
    import comfy.model_management

    model = models.sd3()
    write(layers_of(pack, model, "deft"))
    patched = loaded("LoraLoaderBypassModelOnly", model)
    with torch.inference_mode(False):
        comfy.model_management.load_models_gpu([patched])
        inputs = {
            name: None if value is None else value.to(models.DEVICE)
            for name, value in models.network_inputs(patched).items()
        }
        x = inputs["x"].requires_grad_()
        patched.model.diffusion_model(**inputs).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


# ---------------------------------------------------------------------------------------------------- what is refused


def test_svdiff_is_refused_in_the_loader(comfyui: Any, write: Callable[[Any], None]) -> None:
    name = "diffusion_model.joint_blocks.0.x_block.attn.proj"
    write({f"{name}.delta": torch.ones(192)})
    for kind in BYPASS:
        prompt = training_prompt()
        if kind == "LoraModelLoader":
            prompt["file"] = node("DEFTLoadAdapterFile", file=FILE, projector="auto")
            prompt["core"] = node(kind, model=["model", 0], lora=["file", 0], strength_model=1.0, bypass=True)
        else:
            more = {} if kind.endswith("ModelOnly") else {"clip": ["clip", 0], "strength_clip": 1.0}
            prompt["core"] = node(kind, model=["model", 0], lora_name=FILE, strength_model=1.0, **more)
        failed = comfyui.fail(prompt | sampling(["core", 0], "latent"), want=["latent"])
        assert (failed.node_type, failed.kind) == (kind, "ValueError")
        assert failed.message == (
            f"svdiff layers such as {name} need the weight, and bypass does not have it: load the file without bypass."
        )
    prompt["core"] = node("LoraLoaderModelOnly", model=["model", 0], lora_name=FILE, strength_model=1.0)
    prompt |= sampling(["core", 0], "latent") | sampling(["model", 0], "base")
    run = comfyui.run(prompt, want=["latent", "base"])
    assert models.relative(latent(run, "latent"), latent(run, "base")) > 1e-3  # as that message says


def test_strength_zero_needs_nothing(pack: Pack, write: Callable[[Any], None]) -> None:
    model, clip = models.unet(), small_clip("sd15")
    write(layers_of(pack, model, "svdiff", [UNET_LINEAR]))
    base = models.network_output(model)
    with torch.inference_mode():
        import nodes

        patched = nodes.NODE_CLASS_MAPPINGS["LoraLoaderBypass"]().load_lora(model, clip, FILE, 0.0, 1.0)[0]
    assert torch.equal(models.network_output(patched), base)


def test_slices_are_left_out_with_a_warning(
    pack: Pack, write: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    model = models.sd3()
    slices = {f"transformer.transformer_blocks.0.attn.to_{part}": (64, 64) for part in "qkv"}
    slices["transformer.norm_out.linear"] = (128, 64)  # its rows are in another order
    whole = layers_of(pack, model, "deft", [SD3_PROJECTION])
    write(whole)
    expected = models.network_output(loaded("LoraLoaderModelOnly", model))
    write({**whole, **random_layers(pack, slices, "deft")})
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        patched = loaded("LoraLoaderBypassModelOnly", model)
    for name, count in ((SD3_QKV, 3), (SD3_MODULATION, 1)):
        assert len([text for text in caplog.messages if "NOT LOADED" in text and f"{name}.weight" in text]) == count
    assert models.relative(models.network_output(patched), expected) < 1e-5  # and what is no slice is applied
    assert models.relative(models.network_output(loaded("LoraLoaderModelOnly", model)), expected) > 1e-2


def test_layers_of_another_model_and_of_another_kind(pack: Pack) -> None:
    import comfy.weight_adapter

    adapter = pack.weight_adapter.DeftWeightAdapter.load
    other = adapter("some.layer", {"some.layer.deft_Q": torch.eye(24)[:, :3], "some.layer.deft_R": torch.ones(3, 19)})
    table = adapter("some.table", {"some.table.deft_Q": torch.eye(24)[:, :3]})
    grouped = adapter("some.grouped", {"some.grouped.deft_Q": torch.eye(24)[:, :3]})
    for patch, layer, x, message in (
        (other, nn.Linear(20, 24), torch.ones(2, 20), r"^some\.layer is not for a weight of \[24, 20\]: the file"),
        (table, nn.Embedding(24, 20), torch.tensor([1]), r"^some\.table: Embedding layers cannot .* without bypass"),
        (grouped, nn.Conv2d(4, 24, 1, groups=2), torch.ones(1, 4, 5, 5), r"^some\.grouped: A Conv2d with 2 groups"),
    ):
        hook = comfy.weight_adapter.BypassForwardHook(layer, patch)
        hook.inject()
        with pytest.raises(ValueError, match=message):
            layer(x)
        hook.eject()
    layer = nn.Linear(20, 24)
    plain = layer.forward
    layer.forward = lambda x: plain(x)  # as other extensions do
    hook = comfy.weight_adapter.BypassForwardHook(layer, grouped)
    hook.inject()
    with pytest.raises(ValueError, match=r"Another extension has replaced the layer of some\.grouped: load the file"):
        layer(torch.ones(2, 20))


def test_without_registration(
    pack: Pack, write: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """DEFT_REGISTER=0 leaves ComfyUI as it is: it says which tensors it does not read."""
    import comfy.weight_adapter

    kept = [cls for cls in comfy.weight_adapter.adapters if cls.__name__ != "DeftWeightAdapter"]
    monkeypatch.setattr(comfy.weight_adapter, "adapters", kept)
    monkeypatch.setenv("DEFT_REGISTER", "0")
    pack.weight_adapter.register()
    model = models.sd3()
    write(layers_of(pack, model, "deft", [SD3_PROJECTION]))
    with caplog.at_level(logging.WARNING):
        patched = loaded("LoraLoaderBypassModelOnly", model)
    assert f"lora key not loaded: {SD3_PROJECTION}.deft_Q" in caplog.messages
    assert torch.equal(models.network_output(patched), models.network_output(model))


@pytest.mark.parametrize("node", ["LoraLoaderModelOnly", "LoraLoaderBypassModelOnly"])
@pytest.mark.parametrize(
    "tensors",
    [
        {"deft_P": models.random(64, 4, seed=1), "deft_R": models.random(4, 64, seed=2)},
        {"deft_P": models.random(64, 4, seed=1)},
        {"oft_R.weight": models.random(8, 28, seed=3)},
    ],
    ids=["deft", "para", "oft"],
)
def test_pefts_tensors_in_comfyuis_own_loaders(
    comfyui_session: Any, node: str, tensors: dict[str, torch.Tensor]
) -> None:
    """What they mean is in a record, which those loaders do not read: a relu would become a qr without a word."""
    name = "base_model.model.transformer_blocks.0.attn.to_out.0"
    path = comfyui_session.base / "models" / "loras" / FILE
    save_file({f"{name}.{end}": value for end, value in tensors.items()}, path)
    try:
        with pytest.raises(ValueError, match=f"^{name}.{next(iter(tensors))} is PEFT's.*: use Load Adapter"):
            loaded(node, models.sd3())
    finally:
        path.unlink()
