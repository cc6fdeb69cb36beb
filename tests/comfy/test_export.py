"""Exported LoRA files under three namings: ComfyUI's own loader, diffusers and transformers against the adapter."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..clips import TOKENS
from . import models
from .pack import Pack
from .test_architectures import NAMES as ARCHITECTURES
from .test_patches import SD3_PROJECTION, SD3_QKV, UNET_LINEAR

NAMINGS = ["comfyui", "kohya", "diffusers"]
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "deft-qr": ("deft", {"projector": "qr"}),
    "deft-relu": ("deft", {"projector": "relu"}),
    "para": ("para", {}),
    "lora": ("lora", {}),
    "svdiff": ("svdiff", {}),
    "dora": ("dora", {}),
    "oft": ("oft", {}),
}
CLIP_CONFIG = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 3}


@pytest.fixture
def exporter(comfyui_session: Any) -> Iterator[Any]:
    """The Export node as ComfyUI calls it; gives the path of its file and its report, and removes the file later."""
    made: list[Path] = []

    def run(adapter: Any, model: Any, clip: Any = None, **options: Any) -> tuple[Path, str]:
        output = comfyui_session.pack_nodes["DEFTExportLoRA"].execute(
            adapter, model, "exported/test", "models/loras", clip=clip, **options
        )
        path, report = Path(output.result[1]), output.result[2]
        made.append(path)
        return path, report

    yield run
    for path in made:
        path.unlink()


def by_core(path: Path, model: Any, clip: Any = None) -> Any:
    """What ComfyUI's Load LoRA node makes of a file of models/loras."""
    import nodes

    model, clip = nodes.LoraLoader().load_lora(model, clip, f"exported/{path.name}", 1.0, 1.0)
    return model if clip is None else (model, clip)


def random_layers(pack: Pack, shapes: dict[str, tuple[int, ...]], method: str, seed: int = 10, **options: Any) -> Any:
    """An adapter of random layers of a method, of the size of `models.filled`'s weights.

    Larger ones saturate a small network's attention, which then answers rounding of 1e-7 with 1e-3. Ranks differ from
    layer to layer unless there is a `rank`.
    """
    module = pack.methods.get(method)
    layers: dict[str, dict[str, Tensor]] = {}
    for index, (name, shape) in enumerate(shapes.items()):
        rank = options.get("rank", 3 + index % 2)
        numbers = models.generator(seed + index)
        out, width = shape[0], torch.Size(shape[1:]).numel()
        if method == "svdiff":
            layers[name] = {"delta": 0.3 * torch.randn(min(out, width), generator=numbers)}
        elif method == "dora":
            layers[name] = {
                "dora_up": 0.2 * torch.randn(out, rank, generator=numbers),
                "dora_down": 0.2 * torch.randn(rank, width, generator=numbers),
                "dora_magnitude": 0.5 + torch.rand(out, generator=numbers),
                "alpha": torch.tensor(2.0),
            }
        elif method == "oft":
            skew = torch.randn(1, 4, 4, generator=numbers)
            layers[name] = {"oft_rotation": torch.matrix_exp(0.2 * (skew - skew.mT))}
        else:
            layers |= models.deft_layers({name: shape}, module, seed=seed + index, **{**options, "rank": rank})
            if "deft_R" in layers[name]:
                layers[name]["deft_R"] /= width**0.5
    return pack.adapters.from_layers(layers)


def layer_shapes(model: Any, method: str) -> dict[str, tuple[int, ...]]:
    """Native layers of a UNet; of an SD3 native and diffusers' ones: slices of fused weights, rows in another order."""
    state = model.model.state_dict()
    shapes = {name: tuple(state[f"{name}.weight"].shape) for name in models.every_layer(model)}
    if "diffusion_model.joint_blocks.0.x_block.attn.qkv" in shapes:
        del shapes[SD3_QKV], shapes["diffusion_model.final_layer.adaLN_modulation.1"]
        shapes |= {
            "transformer_blocks.0.attn.to_q": (128, 128),
            "transformer_blocks.0.attn.to_v": (128, 128),
            "norm_out.linear": (256, 128),
        }
    if method == "oft":
        # PEFT's, which larger kernels do not have (see test_peft_records).
        shapes = {
            name: shape
            for name, shape in shapes.items()
            if torch.Size(shape[1:]).numel() % 4 == 0 and torch.Size(shape[2:]).numel() == 1
        }
    return shapes


@pytest.fixture(scope="module")
def bases() -> dict[str, Any]:
    """Small models by kind, with the latent that each samples."""
    made = {"sd15": models.unet("sd15"), "sdxl": models.unet("sdxl"), "sd3": models.sd3(depth=2)}
    return {kind: (model, models.sample(model)) for kind, model in made.items()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3"])
def test_core_loader_gives_the_picture_of_the_adapter(
    pack: Pack, exporter: Any, bases: Any, kind: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    name, options = METHODS[method]
    model, base = bases[kind]
    shapes = layer_shapes(model, name)
    adapter = random_layers(pack, shapes, name, **options)
    patched, _, applied = pack.apply(adapter, model)
    assert applied.matched == len(shapes)
    assert not applied.unmatched
    latent = models.sample(patched)
    assert models.relative(base, latent) > 1e-2
    for naming in NAMINGS:
        caplog.clear()
        path, report = exporter(adapter, model, naming=naming)
        assert f"{len(shapes)} layers ({len(shapes)} {name})" in report
        assert "exact" in report
        assert "not read by ComfyUI" not in report
        sampled = models.sample(by_core(path, model))
        assert not [message for message in caplog.messages if "not loaded" in message or "ERROR" in message]
        assert models.relative(sampled, latent) < 1e-4, naming


def test_names_of_the_three_namings(pack: Pack, bases: Any) -> None:
    """Written out, as kohya's sd-scripts and diffusers name the layers."""
    expected = {
        "sd15": (
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora",
        ),
        "sdxl": (
            "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q",
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora",
        ),
    }
    for kind, (kohya, diffusers) in expected.items():
        model = bases[kind][0]
        name = UNET_LINEAR if kind == "sd15" else UNET_LINEAR.replace("input_blocks.1", "input_blocks.3")
        adapter = pack.adapter(model, [name])
        assert set(pack.to_lora(adapter, model)) == {
            f"{name}.{part}" for part in ("lora_up.weight", "lora_down.weight", "alpha")
        }
        assert set(pack.to_lora(adapter, model, naming="kohya")) == {
            f"{kohya}.{part}" for part in ("lora_up.weight", "lora_down.weight", "alpha")
        }
        assert set(pack.to_lora(adapter, model, naming="diffusers")) == {
            f"{diffusers}.{part}.weight" for part in ("up", "down")
        }
    model = bases["sd3"][0]
    lora = pack.to_lora(pack.adapter(model, [SD3_QKV]), model, naming="kohya")
    assert "lora_unet_joint_blocks_0_x_block_attn_qkv.lora_up.weight" in lora
    lora = pack.to_lora(pack.adapter(model, [SD3_QKV]), model, naming="diffusers")
    assert set(lora) == {
        f"transformer.transformer_blocks.0.attn.to_{part}.lora_{side}.weight" for part in "qkv" for side in "AB"
    }
    lora = pack.to_lora(pack.adapter(model, ["diffusion_model.x_embedder.proj"]), model, naming="kohya")
    assert {key.partition(".")[2]: list(value.shape) for key, value in lora.items()} == {
        "lora_up.weight": [128, 4, 1, 1],
        "lora_down.weight": [4, 16, 2, 2],
        "alpha": [],
    }
    with pytest.raises(ValueError, match="Unknown naming 'novel'"):
        pack.to_lora(lora, model, naming="novel")


# ----------------------------------------------------------------------------------------------------------- diffusers


def comfy_sdxl(network: nn.Module) -> Any:
    """ComfyUI's small SDXL with the weights of diffusers' one."""
    import comfy.utils

    model = models.unet("sdxl")
    state = network.state_dict()
    table = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    model.model.diffusion_model.load_state_dict({key: state[name] for name, key in table.items() if name in state})
    return model


@pytest.fixture(scope="module")
def pairs() -> dict[str, Any]:
    """Diffusers' network, the same in ComfyUI, inputs for both, and a call of the first, by kind."""
    made = {}
    for kind in ("sd15", "sdxl", "sd3"):
        network = getattr(models, f"diffusers_{kind}")()
        model = {"sd15": models.comfy_sd15, "sdxl": comfy_sdxl, "sd3": models.comfy_sd3}[kind](network)
        inputs = models.network_inputs(model)
        extra: dict[str, Any] = {}
        if kind == "sdxl":
            pooled, ids = models.random(1, models.POOLED_WIDTH, seed=6), torch.tensor([[64.0, 64, 0, 0, 64, 64]])
            inputs["y"] = torch.cat([pooled, network.add_time_proj(ids.flatten()).reshape(1, -1)], 1)
            extra = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}
        elif kind == "sd3":
            extra = {"pooled_projections": inputs["y"]}

        def output(network: Any = network, inputs: Any = inputs, extra: Any = extra) -> Tensor:
            with torch.no_grad():
                return network(
                    inputs["x"], timestep=inputs["timesteps"], encoder_hidden_states=inputs["context"], **extra
                ).sample

        assert models.relative(models.network_output(model, **inputs), output()) < 1e-5
        made[kind] = types.SimpleNamespace(network=network, model=model, inputs=inputs, output=output)
    return made


@contextlib.contextmanager
def in_diffusers(network: Any, path: Path, prefix: str) -> Iterator[None]:
    """A LoRA file in diffusers' network, loaded by diffusers and taken out again."""
    network.load_lora_adapter(
        str(path.parent), weight_name=path.name, prefix=prefix, local_files_only=True, use_safetensors=True
    )
    try:
        yield
    finally:
        network.unload_lora()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3"])
def test_diffusers_gives_the_output_of_the_adapter_in_comfyui(
    pack: Pack, exporter: Any, pairs: Any, kind: str, method: str
) -> None:
    name, options = METHODS[method]
    pair = pairs[kind]
    adapter = random_layers(pack, layer_shapes(pair.model, name), name, **options)
    expected = models.network_output(pack.apply(adapter, pair.model)[0], **pair.inputs)
    plain = pair.output()
    assert models.relative(expected, plain) > 1e-2
    path, _ = exporter(adapter, pair.model, naming="diffusers")
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["lora_adapter_metadata"])
    component = "transformer" if kind == "sd3" else "unet"
    assert set(record) == {
        f"{component}.{field}"
        for field in (
            "peft_type",
            "r",
            "lora_alpha",
            "rank_pattern",
            "alpha_pattern",
            "target_modules",
            "lora_dropout",
            "bias",
            "use_dora",
            "use_rslora",
        )
    }
    assert record[f"{component}.rank_pattern"]  # the ranks differ
    with in_diffusers(pair.network, path, component):
        assert models.relative(pair.output(), expected) < 1e-4
    assert torch.equal(pair.output(), plain)


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_diffusers_reads_kohyas_names_as_well(pack: Pack, exporter: Any, pairs: Any, kind: str) -> None:
    """An independent reader of kohya's names; it takes attention and convolutions of blocks, so only these are in."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin

    pair = pairs[kind]
    shapes = {name: shape for name, shape in layer_shapes(pair.model, "deft").items() if ".transformer_blocks." in name}
    # Of one rank: diffusers 0.42 mixes up the alphas of its own attention names if they differ.
    adapter = random_layers(pack, shapes, "deft", rank=4)
    expected = models.network_output(pack.apply(adapter, pair.model)[0], **pair.inputs)
    path, _ = exporter(adapter, pair.model, naming="kohya")
    mixin = StableDiffusionLoraLoaderMixin if kind == "sd15" else StableDiffusionXLLoraLoaderMixin
    state, alphas = mixin.lora_state_dict(load_file(path), unet_config=pair.network.config)[:2]
    mixin.load_lora_into_unet(state, alphas, pair.network)
    try:
        assert models.relative(pair.output(), expected) < 1e-4
    finally:
        pair.network.unload_lora()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture(
    pack: Pack, exporter: Any, comfyui_session: Any, architecture_pairs: Any, name: str
) -> None:
    """An adapter under ComfyUI's names, fused layers and all, in diffusers' network, which has other ones."""
    pair = architecture_pairs(name)
    names = comfyui_session.module("models.names")
    table, state = names.diffusers_names(pair.model), pair.model.model.state_dict()
    skipped = re.compile(pair.architecture.without_effect)
    keys = {names.target_key(target) for path, target in table.items() if not skipped.fullmatch(path)}
    shapes = {
        layer: tuple(state[f"{layer}.weight"].shape)
        for layer in models.every_layer(pair.model)
        if f"{layer}.weight" in keys
    }
    adapter = random_layers(pack, shapes, "deft")
    patched, _, report = pack.apply(adapter, pair.model)
    assert report.matched == len(shapes) > 10
    assert not report.unmatched
    expected = pair.architecture.call_comfyui(patched)
    assert models.relative(pair.plain, expected) > 1e-2
    for naming in NAMINGS:
        path, text = exporter(adapter, pair.model, naming=naming)
        if "not read by ComfyUI's own loader" in text:
            loaded = pack.apply(pack.files.read(path), pair.model)[0]
        else:
            loaded = by_core(path, pair.model)
        assert naming == "diffusers" or "not read" not in text
        assert models.relative(pair.architecture.call_comfyui(loaded), expected) < 1e-4, naming
    if hasattr(pair.network, "load_lora_adapter"):
        with in_diffusers(pair.network, path, "unet" if hasattr(pair.network, "mid_block") else "transformer"):
            assert models.relative(pair.output(pair.network), expected) < 1e-4


# ------------------------------------------------------------------------------------------------------- text encoders


def small_clip(kind: str) -> Any:
    """ComfyUI's CLIP object of SD 1.5 or SDXL with small text models and random weights."""
    import comfy.sd
    import comfy.sd1_clip
    import comfy.sdxl_clip

    classes = {
        "sd15": (comfy.sd1_clip.SD1ClipModel, comfy.sd1_clip.SD1Tokenizer),
        "sdxl": (comfy.sdxl_clip.SDXLClipModel, comfy.sdxl_clip.SDXLTokenizer),
    }[kind]
    target = types.SimpleNamespace(params={}, clip=classes[0], tokenizer=classes[1])
    clip = models.clip_of(
        target, {"dtype": torch.float32, "clip_l_model_config": CLIP_CONFIG, "clip_g_model_config": CLIP_CONFIG}
    )
    state = clip.cond_stage_model.state_dict()
    floating = {name: value.shape for name, value in state.items() if value.is_floating_point() and value.ndim}
    clip.cond_stage_model.load_state_dict(state | models.filled(floating, seed=11))
    return clip


def transformers_clip(clip: Any, part: str) -> nn.Module:
    """transformers' text model of the same weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    weights = getattr(clip.cond_stage_model, part).transformer.state_dict()
    config = CLIPTextConfig(hidden_act="quick_gelu" if part == "clip_l" else "gelu", **TOKENS, **CLIP_CONFIG)
    network = CLIPTextModel(config).eval()
    own = network.state_dict()
    named = {key if key in own else key.removeprefix("text_model."): value for key, value in weights.items()}
    missing, _ = network.load_state_dict({key: value for key, value in named.items() if key in own}, strict=False)
    assert not [key for key in missing if not key.endswith("position_ids")]
    return network


def clip_adapter(pack: Pack, clip: Any, method: str) -> Any:
    """Random layers of all linear layers of the text models' blocks."""
    shapes = {
        f"text_encoders.{name}": tuple(module.weight.shape)
        for name, module in clip.cond_stage_model.named_modules()
        if isinstance(module, nn.Linear) and ".layers." in name
    }
    name, options = METHODS[method]
    return random_layers(pack, shapes, name, seed=60, **options)


def encode(clip: Any, text: str = "a photo of a cat on a red chair") -> Tensor:
    """The conditioning of a text."""
    with torch.inference_mode():
        return clip.encode_from_tokens(clip.tokenize(text)).clone()


@pytest.mark.parametrize("method", ["deft-qr", "para", "svdiff"])
@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_text_encoders(pack: Pack, exporter: Any, bases: Any, kind: str, method: str) -> None:
    from diffusers.loaders.lora_base import _load_lora_into_text_encoder

    model, clip = bases[kind][0], small_clip(kind)
    parts = {"clip_l": "text_encoder"} | ({} if kind == "sd15" else {"clip_g": "text_encoder_2"})
    networks = {part: transformers_clip(clip, part) for part in parts}  # before anything is patched
    adapter = clip_adapter(pack, clip, method)
    adapter.update(pack.adapter(model, [models.every_layer(model)[5]]))
    encoded = encode(pack.apply(adapter, model, clip)[1])
    assert models.relative(encode(clip), encoded) > 1e-2
    starts = {
        "comfyui": ["text_encoders.clip_l.transformer.text_model.", "text_encoders.clip_g."],
        "kohya": ["lora_te_text_model_" if kind == "sd15" else "lora_te1_text_model_", "lora_te2_text_model_"],
        "diffusers": ["text_encoder.text_model.encoder.", "text_encoder_2.text_model.encoder."],
    }
    for naming in NAMINGS:
        path, report = exporter(adapter, model, clip, naming=naming)
        texts = [key for key in load_file(path) if not key.startswith(("unet.", "lora_unet_", "diffusion_model."))]
        used = starts[naming][: 1 if kind == "sd15" else 2]
        assert all(key.startswith(tuple(used)) for key in texts)
        assert all(any(key.startswith(start) for key in texts) for start in used)
        assert models.relative(encode(by_core(path, model, clip)[1]), encoded) < 1e-4, naming

    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["lora_adapter_metadata"])
    patched = pack.apply(adapter, model, clip)[1]
    ids = torch.tensor([[entry[0] for entry in clip.tokenize("a cat")["l"][0]]])
    for part, prefix in parts.items():
        network = networks[part]
        with torch.inference_mode():
            patched.load_model()
            own = getattr(patched.cond_stage_model, part).transformer
            expected = own(ids, dtype=torch.float32)[0].clone()
            plain = network(ids).last_hidden_state
        _load_lora_into_text_encoder(
            load_file(path), None, network, prefix=prefix, text_encoder_name=prefix, metadata=record
        )
        with torch.inference_mode():
            hidden = network(ids).last_hidden_state
        assert models.relative(plain, expected) > 1e-2
        assert models.relative(hidden, expected) < 1e-4


# ----------------------------------------------------------------------------------------------------- slices and ranks


@pytest.mark.parametrize(
    ("shape", "part"),
    [((6, 8), (0, 2, 3)), ((6, 8), (1, 2, 3)), ((6, 8, 3, 3), (1, 4, 4)), ((6, 8, 3, 3), (0, 1, 2)), ((6, 8), None)],
)
def test_a_slice_in_its_whole_weight_and_back(pack: Pack, shape: tuple[int, ...], part: Any) -> None:
    naming = pack.lora_naming
    piece = list(shape)
    if part is not None:
        piece[part[0]] = part[2]
    up, down = models.random(piece[0], 2, seed=1), models.random(2, torch.Size(piece[1:]).numel(), seed=2)

    def turned(rows: Tensor) -> Tensor:
        return torch.flip(rows, (0,))

    for target in (("key", part), ("key", part, turned)):
        change = naming.LayerPair("name", target, up, down)
        whole_up, whole_down = naming.whole_pair(change, shape)
        expected = torch.zeros(shape)
        product = (up @ down).view(piece)
        rows = turned(product) if len(target) == 3 else product
        (expected if part is None else expected.narrow(*part)).copy_(rows)
        assert models.relative((whole_up @ whole_down).view(shape), expected) < 1e-6
        back = naming.piece_pair(whole_up, whole_down, target, shape)
        assert models.relative(back[0] @ back[1], up @ down) < 1e-6


@pytest.mark.parametrize("naming", NAMINGS)
def test_two_parts_of_one_module_are_one_layer(pack: Pack, bases: Any, naming: str) -> None:
    """Slices of what is whole in all namings, as a file with finer names may have them."""
    side = pack.lora_naming.Side(bases["sd15"][0], clip=False)
    key = f"{UNET_LINEAR}.weight"
    halves = [
        pack.lora_naming.LayerPair(
            f"half {start}",
            (key, (0, start, 16)),
            models.random(16, 2, seed=start),
            models.random(2, 32, seed=start + 1),
        )
        for start in (0, 16)
    ]
    (layer,) = pack.lora_naming.named(side, {key: halves}, naming)
    expected = torch.cat([half.up @ half.down for half in halves])
    assert layer.shape == (32, 32)
    assert models.relative(layer.up @ layer.down, expected) < 1e-6


def test_a_limited_rank_and_its_energy(pack: Pack) -> None:
    """The best approximation of the change, by numpy's SVD, and the share of its squared norm."""
    import numpy

    model = models.sd3(depth=2)
    names = [SD3_PROJECTION, "diffusion_model.joint_blocks.1.x_block.attn.proj"]
    adapter = pack.adapter(model, names, rank=8)
    base = models.weights(model)
    lora, report = pack.export(adapter, model, rank=3)
    kept = total = 0.0
    for name in names:
        change = pack.delta(adapter, name, base[f"{name}.weight"]).double().numpy()
        U, sigma, Vh = numpy.linalg.svd(change)
        best = torch.from_numpy((U[:, :3] * sigma[:3]) @ Vh[:3])
        product = lora[f"{name}.lora_up.weight"] @ lora[f"{name}.lora_down.weight"]
        assert lora[f"{name}.alpha"] == 3
        assert models.relative(product, best) < 1e-5
        kept, total = kept + (sigma[:3] ** 2).sum(), total + (sigma**2).sum()
    assert report.energy == pytest.approx(kept / total, rel=1e-6)
    assert 0.1 < report.energy < 0.99
    assert f"{report.energy:.4%}" in report.text()
    assert report.ranks == [3, 3]
    assert pack.export(adapter, model, rank=8)[1].energy == 1
    with pytest.raises(ValueError, match="rank limit"):
        pack.export(adapter, model, rank=-1)


# -------------------------------------------------------------------------------------------------- what is not exact


def test_a_patched_base_is_refused_by_name(pack: Pack) -> None:
    model = models.sd3()
    adapter = pack.adapter(model, [SD3_PROJECTION])
    with pytest.raises(ValueError, match=r"already patched at diffusion_model\.joint_blocks"):
        pack.to_lora(adapter, pack.apply(adapter, model)[0])
    with pytest.raises(ValueError, match="not in the base"):
        pack.to_lora(adapter, models.unet())
    large = pack.adapter(model, [SD3_QKV], shapes={SD3_QKV: (192, 96)})
    with pytest.raises(ValueError, match="1 layers of .* do not fit the base"):
        pack.to_lora(large, model)


def test_a_base_that_another_clone_has_patched_in_place(pack: Pack) -> None:
    """Clones share their weights: the export is of the base, though the patched ones are in memory."""
    import comfy.model_management

    model = models.sd3()
    adapter = pack.adapter(model, [SD3_PROJECTION])
    expected = pack.to_lora(adapter, model)
    patched = pack.apply(pack.adapter(model, [SD3_PROJECTION], "lora", seed=80), model)[0]
    key = f"{SD3_PROJECTION}.weight"
    before = models.weights(model)[key]
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([patched])
    assert models.relative(models.weights(model)[key], before) > 1e-3
    lora = pack.to_lora(adapter, model)
    assert all(torch.equal(lora[name], value) for name, value in expected.items())


def test_a_quantised_base_is_read_with_a_note(pack: Pack) -> None:
    model = models.sd3(dtype=torch.float32)
    with torch.inference_mode():
        weight = model.model.diffusion_model.joint_blocks[0].x_block.attn.proj.weight
        quantised = weight.to(torch.float8_e4m3fn)
        model.model.diffusion_model.joint_blocks[0].x_block.attn.proj.weight = nn.Parameter(quantised, False)
    adapter = pack.adapter(model, [SD3_PROJECTION])
    lora, report = pack.export(adapter, model)
    product = lora[f"{SD3_PROJECTION}.lora_up.weight"] @ lora[f"{SD3_PROJECTION}.lora_down.weight"]
    assert models.relative(product, pack.delta(adapter, SD3_PROJECTION, quantised.float())) < 1e-6
    assert f"dequantised from float8_e4m3fn (1 weights, such as {SD3_PROJECTION}.weight)" in report.text()


def test_another_base_is_said(pack: Pack, exporter: Any) -> None:
    model, other = models.sd3(), models.sd3(seed=1)
    adapter = pack.adapter(model, [SD3_PROJECTION])
    adapter.metadata["base_hash"] = pack.to_lora(adapter, model).metadata["base_hash"]
    assert "WARNING" not in exporter(adapter, model)[1]
    assert "WARNING: the adapter was trained on another base" in exporter(adapter, other)[1]


def test_two_layers_of_one_weight_are_refused(pack: Pack) -> None:
    model = models.sd3()
    adapter = pack.adapter(model, [SD3_QKV])
    adapter.update(
        pack.adapter(model, ["transformer_blocks.0.attn.to_q"], shapes={"transformer_blocks.0.attn.to_q": (64, 64)})
    )
    with pytest.raises(ValueError, match="same part of diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"):
        pack.to_lora(adapter, model)


# ------------------------------------------------------------------------------------------------------- foreign layers


def foreign_layers(model: Any) -> dict[str, Tensor]:
    """A LoHa on a linear layer, a LoKr on a convolution, a full difference, a LoRA in PEFT's form, a bias."""
    loha, lokr = UNET_LINEAR, "diffusion_model.input_blocks.1.0.in_layers.2"
    full, lora = UNET_LINEAR.replace("to_q", "to_k"), UNET_LINEAR.replace("to_q", "to_v")
    shape = {name: tuple(model.model.state_dict()[f"{name}.weight"].shape) for name in (loha, lokr, full, lora)}
    seeds = itertools.count(200)

    def numbers(*size: int) -> Tensor:
        return 0.3 * models.random(*size, seed=next(seeds))

    return {
        f"{loha}.hada_w1_a": numbers(shape[loha][0], 2),
        f"{loha}.hada_w1_b": numbers(2, shape[loha][1]),
        f"{loha}.hada_w2_a": numbers(shape[loha][0], 2),
        f"{loha}.hada_w2_b": numbers(2, shape[loha][1]),
        f"{loha}.alpha": torch.tensor(1.0),
        f"{lokr}.lokr_w1": numbers(4, 4),
        f"{lokr}.lokr_w2": numbers(shape[lokr][0] // 4, shape[lokr][1] // 4, 3, 3),
        f"{full}.diff": 0.1 * numbers(*shape[full]),
        f"{lora}.lora_A.weight": numbers(2, shape[lora][1]),
        f"{lora}.lora_B.weight": numbers(shape[lora][0], 2),
    }


def test_layers_of_other_methods(pack: Pack, exporter: Any, bases: Any) -> None:
    """Kept as they are where ComfyUI reads their names, else a LoRA of full rank; LoRA of any form a LoRA."""
    model, base = bases["sd15"]
    adapter = pack.adapters.Adapter(foreign_layers(model))
    adapter.update(pack.adapter(model, [UNET_LINEAR.replace("attn1", "attn2")]))
    latent = models.sample(pack.apply(adapter, model)[0])
    assert models.relative(base, latent) > 1e-2
    for naming in NAMINGS:
        path, report = exporter(adapter, model, naming=naming)
        tensors = load_file(path)
        carried = {key for key in tensors if "hada" in key or "lokr" in key or key.endswith(".diff")}
        assert len(carried) == (7 if naming == "comfyui" else 0)
        assert all(torch.equal(tensors[key], adapter[key]) for key in carried)
        assert ("8 tensors copied unchanged" in report) == (naming == "comfyui")
        assert models.relative(models.sample(by_core(path, model)), latent) < 1e-4, naming
    adapter[f"{UNET_LINEAR.replace('to_q', 'to_out.0')}.diff_b"] = torch.ones(32)
    assert "diff_b" in " ".join(pack.to_lora(adapter, model))
    written = pack.to_lora(adapter, model, naming="kohya")
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
    assert torch.allclose(written[f"{name}.diff_b"], torch.ones(32))
    with pytest.raises(ValueError, match="vectors .*which a LoRA under diffusers' names cannot hold"):
        pack.to_lora(adapter, model, naming="diffusers")


def test_vectors_of_svdiff(pack: Pack, exporter: Any, bases: Any) -> None:
    model, base = bases["sd15"]
    norm = "diffusion_model.input_blocks.1.1.transformer_blocks.0.norm1"
    adapter = pack.adapters.Adapter({f"{norm}.delta": torch.tensor([0.7]), f"{UNET_LINEAR}.delta": torch.ones(32)})
    latent = models.sample(pack.apply(adapter, model)[0])
    assert models.relative(base, latent) > 1e-3
    for naming in ("comfyui", "kohya"):
        path, _ = exporter(adapter, model, naming=naming)
        assert models.relative(models.sample(by_core(path, model)), latent) < 1e-4
    with pytest.raises(ValueError, match=r"1 vectors .*norm1"):
        pack.to_lora(adapter, model, naming="diffusers")


def test_the_node_in_a_graph(comfyui: Any) -> None:
    """A file loaded and exported under diffusers' names, on the demo model."""
    loras = comfyui.base / "models" / "loras"
    model = {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "deft_demo_denoiser.safetensors", "weight_dtype": "default"},
    }
    name = "joint_blocks.0.x_block.attn.proj"
    save_file(
        {
            f"diffusion_model.{name}.lora_up.weight": models.random(192, 2, seed=1),
            f"diffusion_model.{name}.lora_down.weight": models.random(2, 192, seed=2),
        },
        loras / "plain.safetensors",
    )
    prompt = {
        "model": model,
        "file": {"class_type": "DEFTLoadAdapterFile", "inputs": {"file": "plain.safetensors", "projector": "auto"}},
        "export": {
            "class_type": "DEFTExportLoRA",
            "inputs": {
                "adapter": ["file", 0],
                "model": ["model", 0],
                "filename_prefix": "exported/graph",
                "place": "models/loras",
                "naming": "diffusers",
                "rank_limit": 0,
            },
        },
    }
    try:
        run = comfyui.run(prompt, want=["export"])
        path = Path(run.output("export", 1))
        assert "1 layers (1 lora)" in run.output("export", 2)
        assert "1 layers (1 lora)" in run.text("export")
        assert set(load_file(path)) == {
            f"transformer.transformer_blocks.0.attn.to_out.0.lora_{part}.weight" for part in "AB"
        }
        path.unlink()
        bad = comfyui.fail(
            prompt | {"export": prompt["export"] | {"inputs": prompt["export"]["inputs"] | {"naming": "novel"}}}
        )
        assert bad.stage == "validation"
    finally:
        (loras / "plain.safetensors").unlink()
