"""Conversions of files whose tensors have names, or a form, that the matcher does not read, into ones that it does.

ComfyUI's own loaders call comfy.lora_convert.convert_lora before anything else, so it is first here too. Two tables
have the conversions that it lacks: RENAMED, where only names change, and COMPUTED, where tensors do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import comfy.lora_convert
import torch
from torch import Tensor

from ..deft_ops.adapter import Adapter, check_shapes, source_of, spelling

_NOTE = "conversion_note"

# A file's tensors by their new names, each with the name that it had.
Renamed = dict[str, tuple[Tensor, str]]


def converted(adapter: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The adapter under names that the matcher reads, or itself if it has such names.

    The adapter is not changed. The metadata is kept, with the notes about the conversion under `_NOTE`; `spelled`
    has the file's own name of each tensor that has another one now.

    Raises ValueError, with the name of the file, if two tensors get the same name or tensors do not fit together.
    """
    source, notes = source_of(adapter), list[str]()
    source = "The adapter" if source == "the adapter" else source
    try:
        result = _by_core(adapter)
        for renaming in RENAMED:
            result = renaming.applied(result)
        for compute in COMPUTED:
            result = compute(result, notes)
    except ValueError as error:
        raise ValueError(f"{source} {error}") from error
    if all(key in adapter and adapter[key] is tensor for key, (tensor, _) in result.items()) and (
        len(result) == len(adapter)
    ):
        return adapter
    renamed = Adapter({key: tensor for key, (tensor, _) in result.items()})
    if isinstance(adapter, Adapter):
        vars(renamed).update(vars(adapter))
    renamed.metadata = dict(renamed.metadata)
    spelled = {key: spelling(adapter, name) for key, (_, name) in result.items()}
    renamed.spelled = {key: name for key, name in spelled.items() if key != name}
    if notes:
        renamed.metadata[_NOTE] = " ".join(notes)
    check_shapes(renamed, source)
    return renamed


def remarks(adapter: Mapping[str, Tensor]) -> list[str]:
    """The notes about an adapter's conversion, for a report."""
    metadata: Mapping[str, str] = getattr(adapter, "metadata", {})
    return [metadata[_NOTE]] if _NOTE in metadata else []


def _by_core(adapter: Mapping[str, Tensor]) -> Renamed:
    """The file after this ComfyUI's own conversion. Newer versions rename within the dictionary that they get."""
    try:
        renamed = comfy.lora_convert.convert_lora(dict(adapter))
    except (KeyError, IndexError) as error:
        raise ValueError(f"is in a format that ComfyUI converts, but a part of it is missing ({error}).") from error
    if renamed.keys() == adapter.keys():
        return {key: (tensor, key) for key, tensor in adapter.items()}
    names = {id(tensor): key for key, tensor in adapter.items()}
    return {key: (tensor, names.get(id(tensor), key)) for key, tensor in renamed.items()}


def _put(result: Renamed, key: str, tensor: Tensor, name: str) -> None:
    if key in result:
        raise ValueError(f"has {key} twice, under two spellings ({result[key][1]} and {name}): remove one of them.")
    result[key] = (tensor, name)


# ----------------------------------------------------------------------------------------------------------- the names


@dataclass(frozen=True)
class Renaming:
    """One spelling: `mark` stands in some name of such a file, `pattern` finds the names to change."""

    mark: str
    pattern: re.Pattern[str]
    replacement: str | Callable[[re.Match[str]], str]

    def applied(self, tensors: Renamed) -> Renamed:
        """The tensors under their new names."""
        if not any(self.mark in key for key in tensors):
            return tensors
        result: Renamed = {}
        for key, (tensor, name) in tensors.items():
            _put(result, self.pattern.sub(self.replacement, key), tensor, name)
        return result


def _xlabs(name_match: re.Match[str]) -> str:
    """The layer of a processor: 1 is the image's attention, 2 the text's; single blocks have neither."""
    blocks, kind, number, side = name_match.groups()
    if number:
        layer = f"{'img' if number == '1' else 'txt'}_attn.{kind}"
    else:
        layer = {"qkv": "linear1_qkv", "proj": "linear2"}[kind]  # linear1_qkv: ComfyUI's name for its first rows
    return f"diffusion_model.{blocks}.{layer}.lora_{side}.weight"


def _joint_processor(name_match: re.Match[str]) -> str:
    """The layer that a processor of a joint attention changes; to_q_proj is the text's query."""
    path, kind, text, side = name_match.groups()
    layer = f"add_{kind}_proj" if text else _PROCESSED[kind]
    return f"{path}.{layer}.lora_{side}.weight"


_PROCESSED = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}

RENAMED: tuple[Renaming, ...] = (
    # DiffSynth-Studio, diffusion/training_module.py (export_trainable_state_dict), with nothing for remove_prefix.
    Renaming("pipe.", re.compile(r"^pipe\.(?:dit2?|vace|unet|transformer)\."), ""),
    # Ideogram 4: diffusers, loaders/lora_conversion_utils.py (_convert_non_diffusers_ideogram4_lora_to_diffusers).
    Renaming("conditional_transformer.", re.compile(r"^conditional_transformer\."), ""),
    # Some exports for Flux.2: the same file (_convert_non_diffusers_flux2_lora_to_diffusers).
    Renaming("model.sformer_blocks.", re.compile(r"^diffusion_model\.sformer_blocks\."), "transformer_blocks."),
    # TheLastBen's trainer for Flux: ComfyUI issue 4347, sd-scripts issue 1463.
    Renaming("_.", re.compile(r"^(lora_(?:unet|transformer|te\d?)_[^.]*[^._])_\."), r"\1."),
    # XLabs-AI/x-flux, modules/layers.py. ComfyUI's own conversion asks for all blocks of both kinds.
    Renaming(
        ".processor.",
        re.compile(
            r"^(?:diffusion_model\.)?((?:double|single)_blocks\.\d+)\.processor\."
            r"(qkv|proj)_lora([12]?)\.(up|down)\.weight$"
        ),
        _xlabs,
    ),
    # T-LoRA for Flux: ControlGenAI/T-LoRA, flux/model/lora.py. ComfyUI reads such names for UNets only.
    Renaming(
        ".attn.processor.to_",
        re.compile(r"^(.+\.attn)\.processor\.to_(q|k|v|out)(_proj)?_lora\.(up|down)\.weight$"),
        _joint_processor,
    ),
    # A module's own state_dict, with the adapter's name that peft/utils/save_and_load.py takes out. ComfyUI reads the
    # name "default".
    Renaming(".lora_B.", re.compile(r"\.(lora_[AB])\.(?!default\.)[^.]+\.weight$"), r".\1.weight"),
    # LightX2V, tools/extract/lora_extractor.py: the difference of the parameter `modulation`.
    Renaming(
        ".diff_m",
        re.compile(r"^(?:(?:model\.)?diffusion_model\.)?(.+)\.diff_m$"),
        r"diffusion_model.\1.modulation.diff",
    ),
)


# --------------------------------------------------------------------------------------------------------- the tensors


def _having(tensors: Renamed, ending: str) -> list[str]:
    """The layers that have a tensor of this ending."""
    return [key.removesuffix(ending) for key in tensors if key.endswith(ending)]


def _replaced(tensors: Renamed, old: Iterable[str], new: Renamed) -> Renamed:
    """The tensors without the old keys, and with the new ones."""
    gone = set(old)
    result = {key: value for key, value in tensors.items() if key not in gone}
    for key, (tensor, name) in new.items():
        _put(result, key, tensor, name)
    return result


def _ia3(tensors: Renamed, notes: list[str]) -> Renamed:
    """(IA)^3 of LyCORIS, modules/ia3.py: `.weight` and `.on_input` under the suffixes of this pack's method."""
    layers = [name for name in _having(tensors, ".on_input") if f"{name}.weight" in tensors]
    new: Renamed = {}
    for name in layers:
        new[f"{name}.ia3_weight"] = tensors[f"{name}.weight"]
        on_input, key = tensors[f"{name}.on_input"]
        new[f"{name}.ia3_on_input"] = (on_input.float(), key)  # a whole number in the file
    old = [f"{name}.{part}" for name in layers for part in ("weight", "on_input")]
    return _replaced(tensors, old, new) if new else tensors


_TLORA = ("p_layer.weight", "lambda_layer", "q_layer.weight")
_TLORA_START = ("base_p.weight", "base_lambda", "base_q.weight")
_PROCESSOR = re.compile(r"\.processor\.to_(q|k|v|out)_lora$")


def _tlora(tensors: Renamed, notes: list[str]) -> Renamed:
    """T-LoRA (ControlGenAI/T-LoRA, tlora/model/lora.py): P diag(l) Q less that of the start, all ranks at work.

    LyCORIS (modules/tlora.py) leaves the start out of its file: a method of this pack takes it from the base.
    """
    old: list[str] = []
    new: Renamed = {}
    for name in _having(tensors, f".{_TLORA[1]}"):
        keys = [f"{name}.{part}" for part in _TLORA]
        starts = [f"{name}.{part}" for part in _TLORA_START]
        if not all(key in tensors for key in keys):
            continue
        if all(key in tensors for key in starts):
            if not all(tensors[key][0].is_floating_point() for key in keys + starts):
                raise ValueError(f"has whole numbers as factors of layer {name}: save or download it again.")
            P, scale, Q, P0, scale0, Q0 = (tensors[key][0].float() for key in keys + starts)
            fit = P.ndim == Q.ndim == 2 and P.shape[1] == scale.numel() == scale0.numel() == len(Q)
            if not fit or P.shape != P0.shape or Q.shape != Q0.shape:
                raise ValueError(f"does not fit together at layer {name}: save or download it again.")
            layer = _PROCESSOR.sub(lambda name_match: f".{_PROCESSED[name_match[1]]}", name)
            up = torch.cat([P * scale.reshape(1, -1), -P0 * scale0.reshape(1, -1)], dim=1)
            _put(new, f"{layer}.lora_up.weight", up, tensors[keys[0]][1])
            _put(new, f"{layer}.lora_down.weight", torch.cat([Q, Q0]), tensors[keys[2]][1])
            old += keys + starts
        elif not any(key in tensors for key in starts):
            for key, suffix in zip(keys, ("tlora_p", "tlora_lambda", "tlora_q"), strict=True):
                _put(new, f"{name}.{suffix}", *tensors[key])
            old += keys
    if new:
        notes.append(
            "T-LoRA: its authors' sampler leaves out ranks by timestep (most of them at high noise); on weights all "
            "ranks are at work at every step."
        )
    return _replaced(tensors, old, new) if new else tensors


# The parts of a fused weight that sd-scripts turns one by one, by the names that diffusers has for them.
_OFT_PARTS = {
    "double_blocks_{}_img_attn_qkv": [f"transformer.transformer_blocks.{{}}.attn.to_{part}" for part in "qkv"],
    "double_blocks_{}_txt_attn_qkv": [f"transformer.transformer_blocks.{{}}.attn.add_{part}_proj" for part in "qkv"],
    "single_blocks_{}_linear1": [
        *(f"transformer.single_transformer_blocks.{{}}.attn.to_{part}" for part in "qkv"),
        "transformer.single_transformer_blocks.{}.proj_mlp",
    ],
}
_OFT = re.compile(r"^oft_unet_([^.]+)\.oft_blocks(?:\.(\d+))?$")


def _kohya_oft(tensors: Renamed, notes: list[str]) -> Renamed:
    """OFT of sd-scripts, networks/oft.py and, with a list of blocks for each layer, networks/oft_flux.py.

    Its alpha is the constraint for each output, which holds for the outputs of a part too.
    """
    old: list[str] = []
    new: Renamed = {}
    for key in tensors:
        name_match = _OFT.match(key) if key.startswith("oft_unet_") else None
        if name_match is None:
            continue
        layer, part = name_match.groups()
        target, alpha = _oft_layer(layer, None if part is None else int(part)), f"oft_unet_{layer}.alpha"
        for name, suffix in ((key, "oft_blocks"), (alpha, "alpha")):
            if name in tensors:
                old.append(name)
                _put(new, f"{target}.{suffix}", *tensors[name])
    return _replaced(tensors, old, new)


def _oft_layer(layer: str, part: int | None) -> str:
    """The name of a layer, or of a part of a fused one; a part that no model has keeps its number."""
    number = re.search(r"\d+", layer)
    if part is not None and number is not None:
        parts = _OFT_PARTS.get(layer.replace(number[0], "{}", 1), [])
        if part < len(parts):
            return parts[part].format(number[0])
    return f"lora_unet_{layer}" if not part else f"lora_unet_{layer}.{part}"


def _apart(tensors: Renamed, notes: list[str]) -> Renamed:
    """Z-Image with query, key and value both apart and fused, or its output under two names: the first are kept.

    Source: diffusers, loaders/lora_conversion_utils.py (_convert_non_diffusers_z_image_lora_to_diffusers).
    """
    old = []
    for fused, parts in (("attention_qkv", ("to_q", "to_k", "to_v")), ("attention_out", ("to_out_0",))):
        for key in tensors:
            if f"_{fused}." in key:
                block, _, suffix = key.partition(f"{fused}.")
                if all(f"{block}attention_{part}.{suffix}" in tensors for part in parts):
                    old.append(key)
    return _replaced(tensors, old, {}) if old else tensors


_HEAD = 128  # rows of a head of MiniMax H3


def _by_heads(tensors: Renamed, notes: list[str]) -> Renamed:
    """MiniMax H3 of DiffSynth-Studio: rows of the fused weight are head by head, in ComfyUI query, key, value.

    Source: diffusers, loaders/lora_conversion_utils.py (_convert_non_diffusers_minimax_h3_lora_to_diffusers).
    """
    ending = ".attn.qkv_proj.lora_B.default.weight"
    new: Renamed = {}
    for key in (key for key in tensors if key.endswith(ending)):
        up, name = tensors[key]
        if up.ndim == 2 and len(up) % (3 * _HEAD) == 0:
            new[key] = (up.reshape(-1, 3, _HEAD, up.shape[1]).transpose(0, 1).reshape(up.shape), name)
    return {**tensors, **new} if new else tensors


_BIAS = re.compile(r"\.(lora_B|lora_up)(\.[^.]+)?\.bias$")


def _lora_bias(tensors: Renamed, notes: list[str]) -> Renamed:
    """The bias of an up matrix, which PEFT scales as it scales the matrix (lora_bias): a difference of the bias."""
    old: list[str] = []
    new: Renamed = {}
    for key in (key for key in tensors if key.endswith(".bias")):
        name_match = _BIAS.search(key)
        up = key.removesuffix("bias") + "weight"
        layer = key[: name_match.start()] if name_match else ""
        if name_match is None or up not in tensors or tensors[up][0].ndim < 2 or f"{layer}.diff_b" in tensors:
            continue
        bias, name = tensors[key]
        if f"{layer}.alpha" in tensors:
            alpha, rank = tensors[f"{layer}.alpha"][0], tensors[up][0].shape[1]
            if alpha.numel() != 1 or not rank:
                continue
            bias = bias.float() * (float(alpha) / rank)
        old.append(key)
        _put(new, f"{layer}.diff_b", bias, name)
    return _replaced(tensors, old, new) if new else tensors


COMPUTED: tuple[Callable[[Renamed, list[str]], Renamed], ...] = (
    _ia3,
    _tlora,
    _kohya_oft,
    _apart,
    _by_heads,
    _lora_bias,
)
