"""Files that ComfyUI's loaders convert first, and names that nobody reads: what is applied is what the writer meant.

The references are ComfyUI's own Load LoRA where it reads the file, diffusers' conversion where that does, and else the
change under the layer that the writer means, written out after the writer's source.
"""

from __future__ import annotations

import itertools
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from . import architectures as small
from . import models
from .bases import BASES
from .pack import Pack
from .test_hooks import hook_of, on_conditioning

NETWORK = "diffusion_model."
Tensors = dict[str, Tensor]


def model_of(name: str) -> Any:
    """A small model with random weights: of tests/comfy/architectures.py, or a class of comfy.supported_models."""
    import comfy.supported_models

    entries = [entry for entry in small.ARCHITECTURES if entry.name == name]
    if not entries:
        if not hasattr(comfy.supported_models, name):
            pytest.skip(f"this ComfyUI has no {name}")
        return next(base for base in BASES if base.name == name).model()
    patcher = entries[0].comfyui()
    network = patcher.model.diffusion_model
    network.load_state_dict(models.filled({key: value.shape for key, value in network.state_dict().items()}, 3))
    return patcher


def applied(pack: Pack, tensors: Tensors, model: Any, folder: Path, methods: dict[str, int], **options: Any) -> Tensors:
    """All weights with a file of these tensors on the model, of which nothing may be left."""
    path = folder / "file.safetensors"
    save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, path)
    patched, _, report = pack.apply(pack.files.read(path), model, **options)
    assert report.methods == methods, report.text()
    assert not report.unmatched, report.text()
    return models.patched_weights(patched)


def by_core(tensors: Tensors, model: Any) -> Tensors:
    """All weights as ComfyUI's own Load LoRA leaves them."""
    import comfy.sd

    return models.patched_weights(comfy.sd.load_lora_for_models(model, None, dict(tensors), 1.0, 0.0)[0])


def assert_same(patched: Tensors, expected: Tensors, base: Tensors, changed: int, tolerance: float = 1e-5) -> None:
    """Equal weights, of which so many differ from the base."""
    assert patched.keys() == expected.keys()
    different = [
        key for key in base if patched[key].shape != base[key].shape or not torch.equal(patched[key], base[key])
    ]
    assert len(different) == changed, different
    for key in different:
        assert patched[key].shape == expected[key].shape, key
        assert models.relative(patched[key], expected[key]) < tolerance, key
        if base[key].shape == expected[key].shape:
            assert models.relative(base[key], expected[key]) > 1e-3, key
    assert all(torch.equal(expected[key], base[key]) for key in base.keys() - set(different))


def matrices(model: Any) -> dict[str, tuple[int, ...]]:
    """Path of each linear layer in ComfyUI's network -> shape of its weight."""
    return {
        key.removeprefix(NETWORK).removesuffix(".weight"): tuple(value.shape)
        for key, value in model.model.state_dict().items()
        if key.startswith(NETWORK) and key.endswith(".weight") and value.ndim == 2
    }


def pairs_for(
    model: Any,
    name_of: Callable[[str], str | None],
    up: str = "lora_B.weight",
    down: str = "lora_A.weight",
    alpha: float | None = None,
) -> tuple[Tensors, Tensors]:
    """A LoRA file with a pair for each linear layer that `name_of` has a name for, and all weights with it applied."""
    expected = models.weights(model)
    tensors: Tensors = {}
    for index, (path, shape) in enumerate(matrices(model).items()):
        name = name_of(path)
        if name is None:
            continue
        B, A = 0.3 * models.random(shape[0], 2, seed=index), models.random(2, shape[1], seed=500 + index)
        tensors |= {f"{name}.{up}": B, f"{name}.{down}": A}
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
        expected[f"{NETWORK}{path}.weight"] += (1.0 if alpha is None else alpha / 2) * B @ A
    assert tensors
    return tensors, expected


# -------------------------------------------------------------------------------------------- what ComfyUI converts too


def wan_fun(model: Any) -> Tensors:
    """Wan-Fun (VideoX-Fun): kohya's names with one more underscore."""
    return pairs_for(
        model,
        lambda path: f"lora_unet__{path.replace('.', '_')}" if "blocks" in path else None,
        "lora_up.weight",
        "lora_down.weight",
        4.0,
    )[0]


def flux_control(model: Any) -> Tensors:
    """BFL's control LoRA: biases of the up matrices, whole norms, and an img_in with twice the inputs."""
    tensors, _ = pairs_for(model, lambda path: path if "embedder" not in path else None)
    rows, columns = matrices(model)["img_in"]
    tensors["img_in.lora_A.weight"] = models.random(2, 2 * columns, seed=8)
    for key, value in models.weights(model).items():
        path = key.removeprefix(NETWORK)
        if path.endswith(".bias"):
            tensors[f"{path.removesuffix('bias')}lora_B.bias"] = 0.3 * models.random(*value.shape, seed=9)
        elif path.endswith("_norm.weight"):
            tensors[f"{path.removesuffix('weight')}scale"] = 1 + 0.3 * models.random(*value.shape, seed=10)
    return tensors


def xlabs(prefix: str = "", double: int = 1, single: int = 2) -> Tensors:
    """XLabs' processors for the small Flux, in so many blocks of each kind."""
    layers = {
        f"double_blocks.{index}.processor.{kind}_lora{number}": rows
        for index in range(double)
        for number in "12"
        for kind, rows in (("qkv", 144), ("proj", 48))
    }
    layers |= {
        f"single_blocks.{index}.processor.{kind}_lora": rows
        for index in range(single)
        for kind, rows in (("qkv", 144), ("proj", 48))
    }
    tensors = {}
    for index, (name, rows) in enumerate(layers.items()):
        columns = 240 if name.endswith("proj_lora") else 48
        tensors[f"{prefix}{name}.up.weight"] = 0.3 * models.random(rows, 2, seed=index)
        tensors[f"{prefix}{name}.down.weight"] = models.random(2, columns, seed=200 + index)
    return tensors


def flux_of_published_depth() -> Any:
    """A small Flux of 19 and 38 blocks, which ComfyUI's conversion of XLabs' and USO's files asks for."""
    config = {
        "image_model": "flux",
        "guidance_embed": True,
        "in_channels": 4,
        "out_channels": 4,
        "patch_size": 2,
        "vec_in_dim": 16,
        "context_in_dim": 48,
        "hidden_size": 48,
        "mlp_ratio": 4.0,
        "num_heads": 2,
        "depth": 19,
        "depth_single_blocks": 38,
        "axes_dim": [8, 8, 8],
        "theta": 10000,
        "qkv_bias": True,
        "txt_ids_dims": [],
    }
    patcher = small.small("Flux", config)
    network = patcher.model.diffusion_model
    network.load_state_dict(models.filled({key: value.shape for key, value in network.state_dict().items()}, 3))
    return patcher


CORE: dict[str, tuple[Callable[[], Any], Callable[[Any], Tensors]]] = {
    "Wan-Fun": (lambda: model_of("Wan 2.1 T2V"), wan_fun),
    "Flux control": (lambda: model_of("Flux.1"), flux_control),
    "USO": (flux_of_published_depth, lambda model: xlabs("", 19, 38)),
}


@pytest.mark.parametrize("kind", CORE)
def test_what_comfyui_converts_is_what_its_load_lora_makes_of_it(pack: Pack, tmp_path: Path, kind: str) -> None:
    make, file_of = CORE[kind]
    model = make()
    tensors, base = file_of(model), models.weights(model)
    expected = by_core(tensors, model)
    changed = sum(expected[key].shape != base[key].shape or not torch.equal(expected[key], base[key]) for key in base)
    counts = {"lora": sum(key.endswith((".lora_A.weight", "down.weight")) for key in tensors)}
    differences = sum(key.endswith((".bias", ".scale")) for key in tensors)
    counts |= {"diff": differences} if differences else {}
    patched = applied(pack, tensors, model, tmp_path, counts)
    assert_same(patched, expected, base, changed)
    assert changed == sum(counts.values())
    if kind == "Flux control":
        assert patched[f"{NETWORK}img_in.weight"].shape[1] == 2 * base[f"{NETWORK}img_in.weight"].shape[1]


# ------------------------------------------------------------------------------------------------- names of the writers


@pytest.mark.parametrize(("prefix", "double", "single"), [("", 1, 0), ("", 0, 2), ("diffusion_model.", 1, 2)])
def test_xlabs_blocks_of_either_kind(pack: Pack, tmp_path: Path, prefix: str, double: int, single: int) -> None:
    """ComfyUI's loader reads these files as diffusers converts them."""
    from diffusers.loaders.lora_conversion_utils import _convert_xlabs_flux_lora_to_diffusers

    model = model_of("Flux.1")
    tensors = xlabs(prefix, double, single)
    expected = by_core(_convert_xlabs_flux_lora_to_diffusers(dict(tensors)), model)
    patched = applied(pack, tensors, model, tmp_path, {"lora": len(tensors) // 2})
    assert_same(patched, expected, models.weights(model), len(tensors) // 2)


def dots(name: str) -> str:
    """musubi-tuner, convert_lora.py, convert_to_diffusers: what it makes of "lora_unet_<name>"."""
    name = name.replace("_", ".")
    if ".cross.attn." in name or ".self.attn." in name:
        name = name.replace("cross.attn", "cross_attn").replace("self.attn", "self_attn")
        return name.replace("k.img", "k_img").replace("v.img", "v_img")
    if ".attention.to." in name or ".feed.forward." in name:
        for word in ("to.q", "to.k", "to.v", "to.out", "feed.forward"):
            name = name.replace(word, word.replace(".", "_"))
        return name
    if "double.blocks." in name or "single.blocks." in name:
        name = name.replace("double.blocks.", "double_blocks.").replace("single.blocks.", "single_blocks.")
        return name.replace("img.", "img_").replace("txt.", "txt_").replace("attn.", "attn_")
    return name


@pytest.mark.parametrize("prefix", ["diffusion_model.", "transformer."])
@pytest.mark.parametrize(
    "base",
    ["Flux.1", "Flux.2", "Wan 2.1 I2V", "Z-Image", "Kandinsky5", "HunyuanVideo", "Krea2", "Ideogram4", "ErnieImage"],
)
def test_names_that_musubi_tuner_has_converted(pack: Pack, tmp_path: Path, base: str, prefix: str) -> None:
    model = model_of(base)
    tensors, expected = pairs_for(model, lambda path: prefix + dots(path.replace(".", "_")))
    patched = applied(pack, tensors, model, tmp_path, {"lora": len(tensors) // 2})
    assert_same(patched, expected, models.weights(model), len(tensors) // 2)


# Layers of musubi-tuner's own networks, as it names them by default -> ComfyUI's path and the rows there.
OWN_NETWORKS = {
    # hunyuan_model/models.py
    "HunyuanVideo": {
        "double_blocks_1_img_attn_qkv": ("double_blocks.1.img_attn.qkv", None),
        "double_blocks_1_txt_attn_proj": ("double_blocks.1.txt_attn.proj", None),
        "double_blocks_0_img_mlp_fc1": ("double_blocks.0.img_mlp.0", None),
        "double_blocks_0_txt_mlp_fc2": ("double_blocks.0.txt_mlp.2", None),
        "double_blocks_0_img_mod_linear": ("double_blocks.0.img_mod.lin", None),
        "single_blocks_1_modulation_linear": ("single_blocks.1.modulation.lin", None),
        "single_blocks_1_linear1": ("single_blocks.1.linear1", None),
        "time_in_mlp_0": ("time_in.in_layer", None),
        "txt_in_individual_token_refiner_blocks_0_self_attn_qkv": (
            "txt_in.individual_token_refiner.blocks.0.self_attn.qkv",
            None,
        ),
        "txt_in_individual_token_refiner_blocks_0_mlp_fc1": ("txt_in.individual_token_refiner.blocks.0.mlp.0", None),
        "txt_in_t_embedder_mlp_2": ("txt_in.t_embedder.out_layer", None),
        "txt_in_c_embedder_linear_1": ("txt_in.c_embedder.in_layer", None),
    },
    # hunyuan_video_1_5/hunyuan_video_1_5_models.py (networks/convert_hunyuan_video_1_5_lora_to_comfy.py)
    "HunyuanVideo15": {
        "double_blocks_0_img_attn_q": ("double_blocks.0.img_attn.qkv", slice(0, 48)),
        "double_blocks_0_img_attn_k": ("double_blocks.0.img_attn.qkv", slice(48, 96)),
        "double_blocks_1_txt_attn_v": ("double_blocks.1.txt_attn.qkv", slice(96, 144)),
        "double_blocks_1_img_mlp_fc1": ("double_blocks.1.img_mlp.0", None),
        "double_blocks_1_txt_mod_linear": ("double_blocks.1.txt_mod.lin", None),
    },
    # sd-scripts, networks/convert_hunyuan_image_lora_to_comfy.py
    "HunyuanImage21": {
        "double_blocks_0_img_mlp_fc1": ("double_blocks.0.img_mlp.0", None),
        "double_blocks_1_txt_mlp_fc2": ("double_blocks.1.txt_mlp.2", None),
        "double_blocks_1_img_mod_linear": ("double_blocks.1.img_mod.lin", None),
        "single_blocks_0_modulation_linear": ("single_blocks.0.modulation.lin", None),
    },
    # zimage/zimage_model.py (networks/convert_z_image_lora_to_comfy.py)
    "Z-Image": {
        "layers_0_attention_to_q": ("layers.0.attention.qkv", slice(0, None)),
        "layers_0_attention_to_out_0": ("layers.0.attention.out", None),
        "noise_refiner_0_feed_forward_w2": ("noise_refiner.0.feed_forward.w2", None),
    },
}


@pytest.mark.parametrize("base", OWN_NETWORKS)
@pytest.mark.parametrize("converted", [False, True], ids=["default", "other"])
def test_names_of_musubi_tuners_own_networks(pack: Pack, tmp_path: Path, base: str, converted: bool) -> None:
    model = model_of(base)
    weights, expected = models.weights(model), models.weights(model)
    tensors: Tensors = {}
    for index, (name, (path, rows)) in enumerate(OWN_NETWORKS[base].items()):
        key = f"{NETWORK}{path}.weight"
        part = expected[key] if rows is None else expected[key][rows]
        if base == "Z-Image" and rows is not None:
            part = part[: part.shape[0] // 3]
        up, down = 0.3 * models.random(len(part), 2, seed=index), models.random(2, part.shape[1], seed=90 + index)
        part += up @ down
        stem, ends = f"lora_unet_{name}", ("lora_up.weight", "lora_down.weight")
        if converted:
            stem, ends = f"diffusion_model.{dots(name)}", ("lora_B.weight", "lora_A.weight")
        tensors |= {f"{stem}.{ends[0]}": up, f"{stem}.{ends[1]}": down}
    changed = len({path for path, _ in OWN_NETWORKS[base].values()})
    patched = applied(pack, tensors, model, tmp_path, {"lora": len(tensors) // 2})
    assert_same(patched, expected, weights, changed)


def diffsynth(path: str) -> str | None:
    """DiffSynth-Studio, utils/lora/flux.py: the layers of its Flux by the names that kohya's files have for them."""
    match = re.fullmatch(r"(double|single)_blocks\.(\d+)\.(.+)", path)
    layers = {
        "img_mod.lin": "norm1_a.linear",
        "txt_mod.lin": "norm1_b.linear",
        "img_attn.qkv": "attn.a_to_qkv",
        "txt_attn.qkv": "attn.b_to_qkv",
        "img_attn.proj": "attn.a_to_out",
        "txt_attn.proj": "attn.b_to_out",
        "img_mlp.0": "ff_a.0",
        "img_mlp.2": "ff_a.2",
        "txt_mlp.0": "ff_b.0",
        "txt_mlp.2": "ff_b.2",
        "modulation.lin": "norm.linear",
        "linear1": "to_qkv_mlp",
        "linear2": "proj_out",
    }
    if match is None or match[3] not in layers:
        return None
    return f"{'blocks' if match[1] == 'double' else 'single_blocks'}.{match[2]}.{layers[match[3]]}"


def in_pipe(path: str) -> str:
    return f"pipe.dit.{path}"


# A model, the name of each of its layers, the endings of up and down, alpha.
WRITERS: dict[str, tuple[str, Callable[[str], str | None], tuple[Any, ...]]] = {
    "DiffSynth-Studio, Flux": ("Flux.1", diffsynth, ("lora_B.default.weight", "lora_A.default.weight")),
    "DiffSynth-Studio, Wan": ("Wan 2.1 T2V", in_pipe, ("lora_B.default.weight", "lora_A.default.weight")),
    "DiffSynth-Studio, Qwen": ("Qwen-Image", in_pipe, ("lora_B.default.weight", "lora_A.default.weight", 4.0)),
    "DiffSynth-Studio, VACE": (
        "WAN21_Vace",
        lambda path: f"pipe.vace.{path}" if path.startswith("vace_blocks") else None,
        ("lora_B.default.weight", "lora_A.default.weight"),
    ),
    "Ideogram 4": ("Ideogram4", lambda path: f"conditional_transformer.{path}", ()),
    "TheLastBen, Flux": (
        "Flux.1",
        lambda path: f"lora_unet_{path.replace('.', '_')}_",
        ("lora_up.weight", "lora_down.weight", 4.0),
    ),
    "Flux.2 export": (
        "Flux.2",
        {
            "double_blocks.0.img_attn.proj": "diffusion_model.sformer_blocks.0.attn.to_out.0",
            "single_blocks.1.linear2": "diffusion_model.single_transformer_blocks.1.attn.to_out",
        }.get,
        (),
    ),
    "ai-toolkit, HiDream": ("HiDream", lambda path: f"diffusion_model.{path}", ()),
    "LTX-Video": ("LTXV", lambda path: f"diffusion_model.{path}", ()),
    "LTX-2": ("LTXAV", lambda path: f"diffusion_model.{path}", ()),
    "kohya, Qwen": (
        "Qwen-Image",
        lambda path: f"lora_unet_{path.replace('.', '_')}",
        ("lora_up.weight", "lora_down.weight", 4.0),
    ),
    "kohya, Anima": (
        "Anima",
        lambda path: f"lora_unet_{path.replace('.', '_')}",
        ("lora_up.weight", "lora_down.weight", 4.0),
    ),
    "kohya, Lumina 2": (
        "Lumina 2",
        lambda path: f"lora_unet_{path.replace('.', '_')}",
        ("lora_up.weight", "lora_down.weight", 4.0),
    ),
    "ai-toolkit, Lumina 2": ("Lumina 2", lambda path: f"diffusion_model.{path}", ()),
    "musubi-tuner, Wan": (
        "Wan 2.1 I2V",
        lambda path: f"lora_unet_{path.replace('.', '_')}",
        ("lora_up.weight", "lora_down.weight", 4.0),
    ),
    "diffusion-pipe, HunyuanVideo": (
        "HunyuanVideo",
        lambda path: f"transformer.{path.replace('.img_attn.qkv', '.img_attn_qkv')}",
        (),
    ),
    "LyCORIS on the original's Wan": (
        "Wan 2.1 T2V",
        lambda path: f"lycoris_{path.replace('.', '_')}",
        ("lora_up.weight", "lora_down.weight", 4.0),
    ),
    "PEFT's names in Wan": ("Wan 2.1 T2V", lambda path: path, ("lora_B.my style.weight", "lora_A.my style.weight")),
    "fal, Flux Kontext": ("Flux.1", lambda path: f"base_model.model.{path}", ()),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_names_of_other_programs(pack: Pack, tmp_path: Path, writer: str) -> None:
    base, name_of, options = WRITERS[writer]
    model = model_of(base)
    tensors, expected = pairs_for(model, name_of, *options)
    count = sum(".lora_B." in key or ".lora_up." in key for key in tensors)
    patched = applied(pack, tensors, model, tmp_path, {"lora": count})
    assert_same(patched, expected, models.weights(model), count)


# Layers of text encoders by the names of kohya's scripts and of ComfyUI's own files.
TEXT = {
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (
        "clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj"
    ),
    "lora_te1_text_model_encoder_layers_2_mlp_fc1": "clip_l.transformer.text_model.encoder.layers.2.mlp.fc1",
    "text_encoders.clip_l.transformer.text_model.encoder.layers.1.self_attn.out_proj": (
        "clip_l.transformer.text_model.encoder.layers.1.self_attn.out_proj"
    ),
    "text_encoders.clip_l.transformer.text_model.embeddings.position_embedding": (
        "clip_l.transformer.text_model.embeddings.position_embedding"
    ),
    "lora_te3_encoder_block_0_layer_0_SelfAttention_q": "t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q",
    "lora_te3_encoder_block_1_layer_1_DenseReluDense_wo": "t5xxl.transformer.encoder.block.1.layer.1.DenseReluDense.wo",
    "text_encoders.t5xxl.transformer.encoder.block.1.layer.0.SelfAttention.v": (
        "t5xxl.transformer.encoder.block.1.layer.0.SelfAttention.v"
    ),
}


def test_text_encoders_of_kohyas_files_for_flux(pack: Pack, tmp_path: Path) -> None:
    """The files have T5 and position embeddings, which diffusers leaves out."""
    import comfy.model_management

    clip = small.text_model("comfy.text_encoders.flux", "FluxClipModel")
    network = clip.cond_stage_model
    network.load_state_dict(models.filled({key: value.shape for key, value in network.state_dict().items()}, 3))
    weights, expected = models.weights(clip.patcher), models.weights(clip.patcher)
    tensors: Tensors = {}
    for index, (name, path) in enumerate(TEXT.items()):
        shape = weights[f"{path}.weight"].shape
        up, down = 0.3 * models.random(shape[0], 2, seed=index), models.random(2, shape[1], seed=70 + index)
        tensors |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(1.0)}
        expected[f"{path}.weight"] += 0.5 * up @ down
    save_file(tensors, tmp_path / "a.safetensors")
    _, patched, report = pack.apply(pack.files.read(tmp_path / "a.safetensors"), None, clip)
    assert report.methods == {"lora": len(TEXT)}
    assert not report.unmatched
    comfy.model_management.load_models_gpu([patched.patcher])
    assert_same(models.weights(patched.patcher), expected, weights, len(TEXT))


def test_fused_projections_under_diffusers_names(pack: Pack, tmp_path: Path) -> None:
    """diffusers' LoKr files for Flux.2 (its _convert_non_diffusers_flux2_lokr_to_diffusers)."""
    model = model_of("Flux.2")
    weights, expected = models.weights(model), models.weights(model)
    tensors: Tensors = {}
    for index, (name, side) in enumerate((("to_qkv", "img"), ("to_added_qkv", "txt"))):
        w1, w2 = models.random(4, 4, seed=index), 0.3 * models.random(48, 16, seed=9 + index)
        stem = f"transformer.transformer_blocks.0.attn.{name}"
        tensors |= {f"{stem}.lokr_w1": w1, f"{stem}.lokr_w2": w2}
        expected[f"{NETWORK}double_blocks.0.{side}_attn.qkv.weight"] += torch.kron(w1, w2)
    patched = applied(pack, tensors, model, tmp_path, {"lokr": 2})
    assert_same(patched, expected, weights, 2)


def test_hunyuan_video_as_diffusers_converts_it(pack: Pack, tmp_path: Path) -> None:
    """The original's names and diffusers' mean the same layers. (diffusers counts on 3072 channels in linear1.)"""
    from diffusers.loaders.lora_conversion_utils import _convert_hunyuan_video_lora_to_diffusers

    model = model_of("HunyuanVideo")
    weights = models.weights(model)
    table = pack.models.names.architectures.hunyuan_video.spellings(model.model, list(matrices(model)))
    named = {path: name for name, path in table.items() if isinstance(path, str)}

    def original(path: str) -> str | None:
        return None if path.endswith("linear1") or "self_attn.qkv" in path else f"diffusion_model.{named[path]}"

    tensors, expected = pairs_for(model, original)
    count = len(tensors) // 2
    patched = applied(pack, tensors, model, tmp_path, {"lora": count})
    assert_same(patched, expected, weights, count)
    theirs = _convert_hunyuan_video_lora_to_diffusers(dict(tensors))
    # It leaves the rows of A in place for the swapped norm, and halves A too: an error of its own.
    key = "transformer.norm_out.linear.lora_A.weight"
    theirs[key] = tensors["diffusion_model.final_layer.adaLN_modulation.1.lora_A.weight"]
    patched = applied(pack, theirs, model, tmp_path, {"lora": len(theirs) // 2})
    assert_same(patched, expected, weights, count)


# A model, which of its layers diffusers' conversion knows, and that conversion.
CONVERTED: dict[str, tuple[str, str]] = {
    "ACEStep15": (r"decoder\..*", "_convert_non_diffusers_ace_step_lora_to_diffusers"),
    "LTXAV": (r"(?!.*connector).*", "_convert_non_diffusers_ltx2_lora_to_diffusers"),
    "Anima": (r"(?!.*embed$).*", "_convert_non_diffusers_anima_lora_to_diffusers"),
    "CosmosT2IPredict2": (r".*", "_convert_non_diffusers_anima_lora_to_diffusers"),
    "Ideogram4": (r"layers\..*", "_convert_non_diffusers_ideogram4_lora_to_diffusers"),
    "MiniMaxH3": (r".*", "_convert_non_diffusers_minimax_h3_lora_to_diffusers"),
    # It leaves the last norm as it is, though diffusers' own has its rows in the other order (test_architectures.py).
    "Flux.2": (r"(?!final_layer\.adaLN).*", "_convert_non_diffusers_flux2_lora_to_diffusers"),
    "Krea2": (
        r"(blocks|first|last\.linear|tmlp|txtmlp|tproj|txtfusion).*",
        "_convert_non_diffusers_krea2_lora_to_diffusers",
    ),
}


@pytest.mark.parametrize("base", CONVERTED)
def test_names_that_diffusers_makes_of_the_originals(pack: Pack, tmp_path: Path, base: str) -> None:
    """A file under the original's names, and what diffusers converts it to, mean the same layers."""
    from diffusers.loaders import lora_conversion_utils

    pattern, name = CONVERTED[base]
    model = SMALL[base]() if base in SMALL else model_of(base)
    prefix = "base_model.model." if base == "ACEStep15" else "diffusion_model."
    tensors, expected = pairs_for(
        model, lambda path: prefix + path.removeprefix("decoder.") if re.fullmatch(pattern, path) else None
    )
    weights, count = models.weights(model), len(tensors) // 2
    assert_same(applied(pack, tensors, model, tmp_path, {"lora": count}), expected, weights, count)
    theirs = getattr(lora_conversion_utils, name)(dict(tensors))
    assert not any(key.startswith(prefix) for key in theirs)
    assert_same(applied(pack, theirs, model, tmp_path, {"lora": len(theirs) // 2}), expected, weights, count)


def made(kind: str, config: dict[str, Any]) -> Any:
    """A small model of a class that tests/comfy/bases has not, because it makes sound."""
    import comfy.supported_models

    if not hasattr(comfy.supported_models, kind):
        pytest.skip(f"this ComfyUI has no {kind}")
    patcher = small.small(kind, config)
    network = patcher.model.diffusion_model
    network.load_state_dict(models.filled({key: value.shape for key, value in network.state_dict().items()}, 3))
    return patcher


SMALL: dict[str, Callable[[], Any]] = {
    "MiniMaxH3": lambda: made(
        "MiniMaxH3",
        {
            "image_model": "minimax_h3",
            "num_layers": 2,
            "token_refiner_num_layers": 1,
            "hidden_size": 48,
            "latents_dim": 8,
            "audio_latents_dim": 8,
            "attention_head_dim": 24,
            "num_attention_heads": 2,
            "ffn_hidden_size": 40,
            "text_dim": 32,
            "timestep_input_dim": 16,
            "time_embed_hidden_size": 32,
            "time_embed_dim": 24,
        },
    ),
    "ACEStep15": lambda: made(
        "ACEStep15",
        {
            "audio_model": "ace1.5",
            "hidden_size": 64,
            "num_dit_layers": 2,
            "num_lyric_layers": 1,
            "num_timbre_layers": 1,
            "num_tokenizer_layers": 1,
            "num_heads": 4,
            "num_kv_heads": 2,
            "head_dim": 8,
            "intermediate_size": 64,
            "text_hidden_dim": 32,
            "encoder_hidden_size": 64,
            "encoder_intermediate_size": 64,
            "encoder_num_heads": 4,
            "fsq_dim": 64,
        },
    ),
}


def test_rows_of_fused_layers_of_hunyuan_video(pack: Pack, tmp_path: Path) -> None:
    """What its test against diffusers' conversion leaves out."""
    model = model_of("HunyuanVideo")
    weights, expected = models.weights(model), models.weights(model)
    tensors: Tensors = {}
    single, refiner = "single_transformer_blocks.1", "context_embedder.token_refiner.refiner_blocks.0"
    for index, (name, path, rows) in enumerate(
        (
            (f"{single}.attn.to_q", "single_blocks.1.linear1", slice(0, 48)),
            (f"{single}.attn.to_v", "single_blocks.1.linear1", slice(96, 144)),
            (f"{single}.proj_mlp", "single_blocks.1.linear1", slice(144, 336)),
            (f"{refiner}.attn.to_k", "txt_in.individual_token_refiner.blocks.0.self_attn.qkv", slice(48, 96)),
        )
    ):
        part = expected[f"{NETWORK}{path}.weight"][rows]
        up, down = 0.3 * models.random(len(part), 2, seed=index), models.random(2, 48, seed=9 + index)
        part += up @ down
        tensors |= {f"transformer.{name}.lora_B.weight": up, f"transformer.{name}.lora_A.weight": down}
    patched = applied(pack, tensors, model, tmp_path, {"lora": 4})
    assert_same(patched, expected, weights, 2)


# ----------------------------------------------------------------------------------------------- changes of other kinds


@pytest.mark.parametrize("prefix", ["diffusion_model.", ""])
def test_differences_of_the_modulation(pack: Pack, tmp_path: Path, prefix: str) -> None:
    """LightX2V, utils/lora_loader.py: `.diff_m` is added to `.modulation`, as `.diff_b` is to the bias."""
    model = model_of("Wan 2.1 T2V")
    weights, expected = models.weights(model), models.weights(model)
    tensors: Tensors = {}
    for index, (path, part, ending) in enumerate(
        (
            ("blocks.0", "modulation", "diff_m"),
            ("head", "modulation", "diff_m"),
            ("blocks.1.self_attn.q", "bias", "diff_b"),
            ("blocks.1.norm3", "weight", "diff"),
        )
    ):
        key = f"{NETWORK}{path}.{part}"
        tensors[f"{prefix}{path}.{ending}"] = 0.3 * models.random(*weights[key].shape, seed=index)
        expected[key] += tensors[f"{prefix}{path}.{ending}"]
    patched = applied(pack, tensors, model, tmp_path, {"diff": 4})
    assert_same(patched, expected, weights, 4)


def test_the_modulation_is_what_the_model_computes_with(pack: Pack) -> None:
    """ComfyUI itself patches no parameter of a module that holds others; two adapters add up, and all is undone."""
    model = model_of("Wan 2.1 T2V")
    keys = ["blocks.0.modulation", "head.modulation"]
    weights = models.weights(model)
    plain = small.call_wan_natively(model)
    adapters = [
        pack.adapters.Adapter(
            {
                f"diffusion_model.{key.removesuffix('.modulation')}.diff_m": models.random(
                    *weights[f"{NETWORK}{key}"].shape, seed=7 + index
                )
                for key in keys
            }
        )
        for index in range(2)
    ]
    once = pack.apply(adapters[0], model, strength_model=0.5)[0]
    twice = pack.apply(adapters[1], once)[0]
    output = small.call_wan_natively(twice)
    assert torch.equal(small.call_wan_natively(model), plain)
    changed = model_of("Wan 2.1 T2V")
    state = changed.model.state_dict()
    for key in keys:
        stem = f"diffusion_model.{key.removesuffix('.modulation')}.diff_m"
        state[f"{NETWORK}{key}"] += 0.5 * adapters[0][stem] + adapters[1][stem]
    assert models.relative(output, small.call_wan_natively(changed)) < 1e-5
    assert models.relative(plain, output) > 1e-2
    assert all(torch.equal(value, weights[key]) for key, value in models.weights(model).items())


def test_a_hook_of_the_modulation(pack: Pack) -> None:
    """ComfyUI puts hooks on every weight: a run with one is the run with the adapter applied."""
    import nodes

    base = next(base for base in BASES if base.name == "WAN21_T2V")
    model = base.model()
    positive, negative = base.conditioning(20), base.conditioning(30)
    adapter = pack.adapters.Adapter(
        {
            "diffusion_model.blocks.0.diff_m": models.random(
                *models.weights(model)[f"{NETWORK}blocks.0.modulation"].shape, seed=7
            )
        }
    )

    def sampled(model: Any, *captions: list) -> Tensor:
        with torch.inference_mode():
            latent = {"samples": torch.zeros(1, *base.latent)}
            return nodes.KSampler().sample(model, 5, 2, 3.0, "euler", "simple", *captions, latent)[0]["samples"].clone()

    plain = sampled(model, positive, negative)
    hook = hook_of(pack, adapter, model)
    hooked = sampled(model, on_conditioning(positive, hook), on_conditioning(negative, hook))
    assert models.relative(hooked, sampled(pack.apply(adapter, model)[0], positive, negative)) < 1e-5
    assert models.relative(plain, hooked) > 1e-2
    assert torch.equal(sampled(model, positive, negative), plain)


@pytest.mark.parametrize("alpha", [None, 4.0])
def test_a_bias_beside_the_up_matrix(pack: Pack, tmp_path: Path, alpha: float | None) -> None:
    """PEFT's lora_B with a bias: the scale of the layer is the bias's too (tuners/lora/layer.py, get_delta_weight)."""
    model = model_of("Wan 2.1 T2V")
    weights = models.weights(model)
    tensors, expected = pairs_for(
        model, lambda path: f"diffusion_model.{path}" if path == "blocks.0.ffn.2" else None, alpha=alpha
    )
    bias = models.random(48, seed=7)
    tensors["diffusion_model.blocks.0.ffn.2.lora_B.bias"] = bias
    expected[f"{NETWORK}blocks.0.ffn.2.bias"] += bias if alpha is None else alpha / 2 * bias
    patched = applied(pack, tensors, model, tmp_path, {"lora": 1, "diff": 1})
    assert_same(patched, expected, weights, 2)


def turned(blocks: Tensor, alpha: float, weight: Tensor) -> Tensor:
    """sd-scripts, networks/oft_flux.py, OFTModule.get_weight and forward, of one part of a layer."""
    Q = blocks - blocks.transpose(1, 2)
    norm = torch.norm(Q.flatten())
    Q = Q * ((torch.clamp(norm, max=alpha * len(weight)) + 1e-8) / (norm + 1e-8))
    identity = torch.eye(Q.shape[1])[None]
    R = torch.matmul(identity + Q, (identity - Q).inverse())
    parts = weight.reshape(len(blocks), -1, weight.shape[1])
    return torch.einsum("k n m, k n p -> k m p", R, parts).reshape(weight.shape)


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("alpha", [1.0, 1e-3], ids=["free", "bounded"])
def test_oft_of_kohyas_scripts_for_flux(pack: Pack, tmp_path: Path, alpha: float, strength: float) -> None:
    """Parts of fused layers are turned one by one, other layers are lists of one."""
    model = model_of("Flux.1")
    weights, expected = models.weights(model), models.weights(model)
    layers = {
        "double_blocks.0.img_attn.qkv": [48, 48, 48],
        "double_blocks.0.txt_attn.qkv": [48, 48, 48],
        "double_blocks.0.img_attn.proj": [48],
        "double_blocks.0.txt_mlp.0": [192],
        "single_blocks.1.linear1": [48, 48, 48, 192],
        "single_blocks.0.linear2": [48],
        "single_blocks.0.modulation.lin": [144],
    }
    tensors: Tensors = {}
    for path, sizes in layers.items():
        name, W = f"oft_unet_{path.replace('.', '_')}", weights[f"{NETWORK}{path}.weight"]
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
        start, parts = 0, []
        for index, size in enumerate(sizes):
            blocks = 0.1 * models.random(4, size // 4, size // 4, seed=len(tensors))
            tensors[f"{name}.oft_blocks.{index}"] = blocks
            parts.append(turned(blocks, alpha, W[start : start + size]))
            start += size
        expected[f"{NETWORK}{path}.weight"] += strength * (torch.cat(parts) - W)
    patched = applied(pack, tensors, model, tmp_path, {"oft": 14}, strength_model=strength)
    assert_same(patched, expected, weights, 7)


def test_oft_of_kohyas_scripts_for_unets(pack: Pack, tmp_path: Path) -> None:
    """sd-scripts, networks/oft.py: the same, and a convolution."""
    model = models.unet()
    weights, expected = models.weights(model), models.weights(model)
    layers = {
        "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (
            "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
        ),
        "down_blocks_0_resnets_0_conv1": "input_blocks.1.0.in_layers.2",
    }
    tensors: Tensors = {}
    for index, (name, path) in enumerate(layers.items()):
        W = weights[f"{NETWORK}{path}.weight"]
        blocks = 0.1 * models.random(4, len(W) // 4, len(W) // 4, seed=index)
        tensors |= {f"oft_unet_{name}.oft_blocks": blocks, f"oft_unet_{name}.alpha": torch.tensor(1e-2)}
        expected[f"{NETWORK}{path}.weight"] = turned(blocks, 1e-2, W.flatten(1)).reshape(W.shape)
    patched = applied(pack, tensors, model, tmp_path, {"oft": 2})
    assert_same(patched, expected, weights, 2)


IA3 = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k": (
        "input_blocks.1.1.transformer_blocks.0.attn1.to_k",
        False,
    ),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_2": (
        "input_blocks.1.1.transformer_blocks.0.ff.net.2",
        True,
    ),
    "lora_unet_down_blocks_0_resnets_0_conv1": ("input_blocks.1.0.in_layers.2", False),
    "lora_unet_down_blocks_0_resnets_0_conv2": ("input_blocks.1.0.out_layers.3", True),
}


def ia3(model: Any) -> tuple[Tensors, dict[str, Tensor]]:
    """(IA)^3 of LyCORIS: a file, and the change of each weight (modules/ia3.py, make_weight with diff)."""
    tensors, changes = {}, {}
    for index, (name, (path, on_input)) in enumerate(IA3.items()):
        W = models.weights(model)[f"{NETWORK}{path}.weight"]
        size = W.shape[1 if on_input else 0]
        w = 0.3 * models.random(size, seed=index)
        w = w if W.ndim == 2 else w.reshape(1, size, 1, 1)
        tensors |= {f"{name}.weight": w, f"{name}.on_input": torch.tensor(int(on_input))}
        changes[f"{NETWORK}{path}.weight"] = W * w if on_input else (W.transpose(0, 1) * w).transpose(0, 1)
    return tensors, changes


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_ia3_of_lycoris(pack: Pack, tmp_path: Path, strength: float) -> None:
    model = models.unet()
    weights = models.weights(model)
    tensors, changes = ia3(model)
    expected = weights | {key: weights[key] + strength * change for key, change in changes.items()}
    patched = applied(pack, tensors, model, tmp_path, {"ia3": 4}, strength_model=strength)
    assert_same(patched, expected, weights, 4)


def test_ia3_exported_inspected_and_saved(pack: Pack, tmp_path: Path) -> None:
    model = models.unet()
    weights = models.weights(model)
    tensors, changes = ia3(model)
    save_file(tensors, tmp_path / "a.safetensors")
    adapter = pack.files.read(tmp_path / "a.safetensors")
    lora, _ = pack.export(adapter, model)
    patched = models.patched_weights(pack.apply(lora, model)[0])
    info = pack.inspect(adapter, model)
    assert info.matched == 4
    assert info.method == "ia3"
    assert not info.unmatched
    assert not info.unused
    again = pack.files.read(pack.native.write(adapter, tmp_path / "native.safetensors"))
    again, _, report = pack.apply(again, model)
    assert report.methods == {"ia3": 4}
    assert not report.unmatched
    for key, change in changes.items():
        assert models.relative(patched[key], weights[key] + change) < 1e-5
        assert models.relative(models.patched_weights(again)[key], weights[key] + change) < 1e-5


def test_ia3_of_another_size_is_reported(pack: Pack, tmp_path: Path) -> None:
    model = models.unet()
    tensors, _ = ia3(model)
    names = list(IA3)
    tensors[f"{names[0]}.weight"] = models.random(7, seed=1)
    save_file(tensors, tmp_path / "a.safetensors")
    _, _, report = pack.apply(pack.files.read(tmp_path / "a.safetensors"), model)
    assert report.methods == {"ia3": 3}
    assert [text.partition(" ")[0] for text in report.misfits] == names[:1]
    assert report.unmatched == report.misfits


def tlora(model: Any, prefix: str) -> tuple[Tensors, Tensors]:
    """ControlGenAI/T-LoRA, tlora/model/lora.py, OrthogonalLoRALinearLayer without a mask: a file and all weights."""
    weights = models.weights(model)
    tensors: Tensors = {}
    for attention in ("attn1", "attn2"):
        for layer in ("to_q", "to_k", "to_v", "to_out"):
            path = f"input_blocks.1.1.transformer_blocks.0.{attention}.{layer}{'.0' if layer == 'to_out' else ''}"
            W = weights[f"{NETWORK}{path}.weight"]
            seed = len(tensors)
            group = {
                "q_layer.weight": models.random(4, W.shape[1], seed=seed),
                "p_layer.weight": 0.3 * models.random(len(W), 4, seed=seed + 1),
                "lambda_layer": models.random(1, 4, seed=seed + 2),
            }
            start = {
                "base_q.weight": group["q_layer.weight"] + 0.1,
                "base_p.weight": group["p_layer.weight"] + 0.1,
                "base_lambda": group["lambda_layer"] + 0.1,
            }
            stem = f"{prefix}down_blocks.0.attentions.0.transformer_blocks.0.{attention}.processor.{layer}_lora"
            tensors |= {f"{stem}.{key}": value for key, value in (group | start).items()}
            W += group["p_layer.weight"] @ (group["lambda_layer"].T * group["q_layer.weight"])
            W -= start["base_p.weight"] @ (start["base_lambda"].T * start["base_q.weight"])
    return tensors, weights


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_t_lora_of_its_authors(pack: Pack, tmp_path: Path, prefix: str) -> None:
    model = models.unet()
    tensors, expected = tlora(model, prefix)
    patched = applied(pack, tensors, model, tmp_path, {"lora": 8})
    assert_same(patched, expected, models.weights(model), 8)
    adapter = pack.adapters.Adapter(tensors)
    on_weights, _, report = pack.apply(adapter, model)
    assert "all ranks are at work at every step" in report.text()
    on_activations = models.network_output(pack.apply(adapter, model, mode="activations")[0])
    assert models.relative(on_activations, models.network_output(on_weights)) < 1e-4
    assert models.relative(models.network_output(model), on_activations) > 1e-2


def lycoris_tlora(weights: Tensors, part: str, rank: int = 4) -> tuple[Tensors, Tensors]:
    """T-LoRA of LyCORIS, modules/tlora.py: a file and the changes of the weights.

    _initialize_from_svd with use_data_init, sig_type `part`; custom_state_dict; get_diff_weight without a mask.
    """
    tensors, changes = {}, {}
    for index, layer in enumerate(("attn1_to_q", "attn2_to_k", "ff_net_2", "proj_in")):
        path = "input_blocks.1.1." + (
            "proj_in"
            if layer == "proj_in"
            else "transformer_blocks.0."
            + {"attn1_to_q": "attn1.to_q", "attn2_to_k": "attn2.to_k", "ff_net_2": "ff.net.2"}[layer]
        )
        W = weights[f"{NETWORK}{path}.weight"]
        u, s, vh = torch.linalg.svd(W.flatten(1), full_matrices=False)
        first = {"principal": 0, "last": len(s) - rank, "middle": (len(s) - rank) // 2}[part]
        P0, s0, Q0 = u[:, first : first + rank], s[None, first : first + rank], vh[first : first + rank]
        P, s1, Q = (
            value + 0.03 * models.random(*value.shape, seed=3 * index + place)
            for place, value in enumerate((P0, s0, Q0))
        )
        kernel = [1] * (W.ndim - 2)
        stem = "lora_unet_down_blocks_0_attentions_0_" + (
            layer if layer == "proj_in" else f"transformer_blocks_0_{layer}"
        )
        tensors |= {
            f"{stem}.q_layer.weight": Q.reshape(*Q.shape, *kernel),
            f"{stem}.p_layer.weight": P.reshape(*P.shape, *kernel),
            f"{stem}.lambda_layer": s1,
            f"{stem}.alpha": torch.tensor(2.0),
        }
        change = 2.0 / rank * (P @ (s1.T * Q) - P0 @ (s0.T * Q0))
        changes[f"{NETWORK}{path}.weight"] = change.reshape(W.shape)
    return tensors, changes


@pytest.mark.parametrize("part", ["principal", "last", "middle"])
def test_t_lora_of_lycoris(pack: Pack, tmp_path: Path, part: str) -> None:
    """The start is not in the file: it is taken from the base, as LyCORIS takes it."""
    model = models.unet()
    weights = models.weights(model)
    tensors, changes = lycoris_tlora(weights, part)
    patched = applied(pack, tensors, model, tmp_path, {"tlora": 4}, strength_model=0.5)
    adapter = pack.files.read(tmp_path / "file.safetensors")
    lora, _ = pack.export(adapter, model)
    exported = models.patched_weights(pack.apply(lora, model)[0])
    again = pack.files.read(pack.native.write(adapter, tmp_path / "native.safetensors"))
    again = models.patched_weights(pack.apply(again, model)[0])
    for key, change in changes.items():
        assert change.norm() > 1e-3 * weights[key].norm()
        assert models.relative(patched[key] - weights[key], 0.5 * change) < 1e-3
        assert models.relative(exported[key] - weights[key], change) < 1e-3
        assert models.relative(again[key] - weights[key], change) < 1e-3


def test_t_lora_of_another_base_is_refused(pack: Pack) -> None:
    tensors, _ = lycoris_tlora(models.weights(models.unet(seed=1)), "principal")
    with pytest.raises(ValueError, match=r"T-LoRA layer .* did not start from this weight"):
        pack.export(pack.adapters.Adapter(tensors), models.unet())


def test_t_lora_that_does_not_fit_together_is_refused(pack: Pack) -> None:
    model = models.unet()
    tensors, _ = tlora(model, "")
    key = next(key for key in tensors if key.endswith("base_lambda"))
    with pytest.raises(ValueError, match=r"does not fit together at layer .*processor\.to_q_lora"):
        pack.apply(pack.adapters.Adapter(tensors | {key: torch.ones(1, 3)}), model)


@pytest.mark.parametrize("blocks", ["transformer_blocks.0", "single_transformer_blocks.1"])
def test_t_lora_for_flux(pack: Pack, tmp_path: Path, blocks: str) -> None:
    """ControlGenAI/T-LoRA, flux/model/lora.py, FluxLoraAttnProcessor: names as diffusers' for the same layers."""
    model = model_of("Flux.1")
    layers = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v"}
    if blocks.startswith("transformer"):
        layers |= {"to_out": "to_out.0", **{f"to_{part}_proj": f"add_{part}_proj" for part in "qkv"}}
    tensors, theirs = {}, {}
    for index, (processor, layer) in enumerate(layers.items()):
        up, down = 0.3 * models.random(48, 2, seed=index), models.random(2, 48, seed=50 + index)
        stem = f"{blocks}.attn.processor.{processor}_lora"
        tensors |= {f"{stem}.up.weight": up, f"{stem}.down.weight": down}
        theirs |= {
            f"transformer.{blocks}.attn.{layer}.lora_B.weight": up,
            f"transformer.{blocks}.attn.{layer}.lora_A.weight": down,
        }
    patched = applied(pack, tensors, model, tmp_path, {"lora": len(layers)})
    assert_same(patched, by_core(theirs, model), models.weights(model), 3 if blocks.startswith("transformer") else 1)


def test_z_image_with_query_key_and_value_both_apart_and_fused(pack: Pack, tmp_path: Path) -> None:
    """Read as diffusers reads it: the fused copies are not added once more."""
    from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_z_image_lora_to_diffusers

    model = model_of("Z-Image")
    width = matrices(model)["layers.0.attention.out"][0]
    tensors: Tensors = {}
    rows = {"to_q": width, "to_k": width, "to_v": width, "to_out_0": width, "qkv": 3 * width, "out": width}
    for index, (name, size) in enumerate(rows.items()):
        stem = f"lora_unet_layers_0_attention_{name}"
        tensors |= {
            f"{stem}.lora_up.weight": 0.3 * models.random(size, 2, seed=index),
            f"{stem}.lora_down.weight": models.random(2, width, seed=9 + index),
        }
    theirs = _convert_non_diffusers_z_image_lora_to_diffusers(dict(tensors))
    assert len(theirs) == 8
    patched = applied(pack, tensors, model, tmp_path, {"lora": 4})
    assert_same(patched, by_core(theirs, model), models.weights(model), 2)


def test_minimax_h3_of_diffsynth_studio(pack: Pack) -> None:
    """Rows head by head become query, key and value, as diffusers takes them apart."""
    from diffusers.loaders import lora_conversion_utils

    convert = getattr(lora_conversion_utils, "_convert_non_diffusers_minimax_h3_lora_to_diffusers", None)
    if convert is None:
        pytest.skip("this diffusers has no MiniMax H3")
    stem = "blocks.0.attn.qkv_proj"
    tensors = {
        f"{stem}.lora_A.default.weight": models.random(2, 16, seed=1),
        f"{stem}.lora_B.default.weight": models.random(3 * 2 * 128, 2, seed=2),
    }
    theirs = convert(dict(tensors))
    parts = [theirs[f"transformer.transformer_blocks.0.attn.to_{part}.lora_B.weight"] for part in "qkv"]
    adapter = pack.adapters.Adapter(tensors)
    converted = pack.matching.conversions.converted(adapter)
    assert torch.equal(converted[f"{stem}.lora_B.default.weight"], torch.cat(parts))
    assert adapter == tensors
    assert converted.keys() == tensors.keys()


# ------------------------------------------------------------------------------------------------------ the conversion


def test_the_adapter_stays_as_it_is_and_the_names_of_the_file_are_kept(pack: Pack) -> None:
    conversions = pack.matching.conversions
    tensors, _ = tlora(models.unet(), "")
    tensors |= xlabs("diffusion_model.", 1, 0)
    adapter = pack.adapters.Adapter(tensors, {"alpha": "4"})
    adapter.spelled = {"diffusion_model.double_blocks.0.processor.qkv_lora1.up.weight": "in the file"}
    adapter.training_seconds = 3.0
    before = dict(adapter)
    converted = conversions.converted(adapter)
    assert adapter.keys() == before.keys()
    assert all(adapter[key] is value for key, value in before.items())
    assert converted.metadata["alpha"] == "4"
    assert "alpha" not in converted
    assert converted.training_seconds == 3.0
    assert adapter.metadata == {"alpha": "4"}
    assert any("timestep" in note for note in conversions.remarks(converted))
    assert converted.spelled["diffusion_model.double_blocks.0.img_attn.qkv.lora_up.weight"] == "in the file"
    assert converted.spelled["diffusion_model.double_blocks.0.txt_attn.proj.lora_down.weight"] == (
        "diffusion_model.double_blocks.0.processor.proj_lora2.down.weight"
    )
    assert all(pack.adapters.spelling(converted, key) in {*before, "in the file"} for key in converted)


def test_newer_conversions_of_comfyui(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer ComfyUI's function (TwinFlow's) renames within the dictionary that it gets."""
    import comfy.lora_convert

    def convert_lora(tensors: Tensors) -> Tensors:
        for key in list(tensors):
            if key.startswith("t_embedder."):
                tensors[key.replace("t_embedder.", "t_embedder_2.", 1)] = tensors.pop(key)
        return tensors

    monkeypatch.setattr(comfy.lora_convert, "convert_lora", convert_lora)
    adapter = pack.adapters.Adapter({"t_embedder.mlp.0.lora_A.weight": torch.ones(2, 4)})
    converted = pack.matching.conversions.converted(adapter)
    assert list(adapter) == ["t_embedder.mlp.0.lora_A.weight"]
    assert converted.spelled == {"t_embedder_2.mlp.0.lora_A.weight": "t_embedder.mlp.0.lora_A.weight"}


def test_an_adapter_with_names_that_are_read_is_returned_itself(pack: Pack) -> None:
    conversions = pack.matching.conversions
    for tensors in (
        pairs_for(model_of("Flux.1"), lambda path: f"diffusion_model.{path}")[0],
        pairs_for(models.unet(), lambda path: f"lora_unet_{path.replace('.', '_')}")[0],
    ):
        adapter = pack.adapters.Adapter(tensors)
        assert conversions.converted(adapter) is adapter


BROKEN: dict[str, tuple[Callable[[], Tensors], str]] = {
    "two spellings": (
        lambda: {f"{stem}.lora_A.weight": torch.ones(2, 4) for stem in ("pipe.dit.blocks.0.ffn.0", "blocks.0.ffn.0")},
        r"has blocks.0.ffn.0.lora_A.weight twice, .*pipe.dit.blocks.0.ffn.0.*remove one",
    ),
    "control without a part": (
        lambda: {"img_in.lora_A.weight": torch.ones(2, 4), "single_blocks.0.norm.key_norm.scale": torch.ones(4)},
        r"is in a format that ComfyUI converts, but a part of it is missing .*img_in.lora_B.weight",
    ),
    "two numbers for on_input": (
        lambda: {"lora_unet_x.weight": torch.ones(4), "lora_unet_x.on_input": torch.ones(2)},
        r"does not fit together at layer lora_unet_x\b.*: on_input has shape \[2\]",
    ),
    "T-LoRA in whole numbers": (
        lambda: {
            f"lora_unet_x.{name}": torch.ones(shape, dtype=torch.int64)
            for name, shape in {
                "q_layer.weight": (2, 8),
                "p_layer.weight": (8, 2),
                "lambda_layer": (1, 2),
                "base_q.weight": (2, 8),
                "base_p.weight": (8, 2),
                "base_lambda": (1, 2),
            }.items()
        },
        r"has whole numbers as factors of layer lora_unet_x",
    ),
    "T-LoRA of three ranks": (
        lambda: {
            "lora_unet_x.q_layer.weight": torch.ones(2, 8),
            "lora_unet_x.p_layer.weight": torch.ones(8, 3),
            "lora_unet_x.lambda_layer": torch.ones(1, 4),
        },
        r"does not fit together at layer lora_unet_x\b.*: p_layer, lambda_layer and q_layer have the shapes",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_converted_is_refused_by_name(pack: Pack, kind: str) -> None:
    make, message = BROKEN[kind]
    adapter = pack.adapters.Adapter(make())
    converted = pack.matching.conversions.converted
    with pytest.raises(ValueError, match=f"^The adapter {message}"):
        converted(adapter)
    adapter.source = "style.safetensors"
    with pytest.raises(ValueError, match=f"^style.safetensors {message}"):
        converted(adapter)


def lines(work: Callable[[], object]) -> int:
    """How many lines of Python a call runs; each turn of a loop is one."""
    count, before = itertools.count(), sys.gettrace()

    def trace(frame: types.FrameType, event: str, _: object) -> Any:
        if event == "line":
            next(count)
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return next(count)


def test_a_conversion_takes_work_in_proportion_to_the_file(pack: Pack) -> None:
    """Counted, not timed. The larger file has some 600 layers, as the largest ones that people have."""

    def of_blocks(blocks: int) -> tuple[int, int]:
        """The tensors of a file of so many blocks, and the lines that its conversion runs."""
        adapter = pack.adapters.Adapter(
            {
                f"pipe.dit.blocks.{index}.{layer}.{part}.default.weight": torch.zeros(1)
                for index in range(blocks)
                for layer in ("ffn.0", "ffn.2", *(f"{kind}_attn.{x}" for kind in ("self", "cross") for x in "qkvo"))
                for part in ("lora_A", "lora_B")
            }
        )
        return len(adapter), lines(lambda: pack.matching.conversions.converted(adapter))

    of_blocks(1)  # imports and compiles
    (fewer, few), (more, many) = of_blocks(30), of_blocks(60)
    assert many / few == pytest.approx(more / fewer, rel=0.05)
    assert many / more < 200
