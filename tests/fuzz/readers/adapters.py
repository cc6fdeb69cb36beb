"""Adapter files in safetensors: this pack's own, kohya's, LyCORIS's, diffusers', the repositories'; and headers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from torch import Tensor

from .. import applying
from ..kit import Files, Reader
from ..structures import METADATA_VALUES, near, safetensors, tensor

FILE = "adapter.safetensors"
RANK = 4
# The tensors of a layer of weight [o, i] for each kind of file, with ranks r; "1" is a number, "" none of that place.
KINDS: dict[str, dict[str, str]] = {
    "deft": {"deft_Q": "o r", "deft_R": "r i", "alpha": ""},
    "deft_right": {"deft_Q": "o r", "deft_right": "o r", "deft_R": "r i"},
    "para": {"deft_Q": "o r"},
    "lora": {"lora_up.weight": "o r", "lora_down.weight": "r i", "alpha": ""},
    "lora_mid": {"lora_up.weight": "o r", "lora_down.weight": "r i", "lora_mid.weight": "r r", "alpha": ""},
    "diffusers": {"lora_B.weight": "o r", "lora_A.weight": "r i", "lora_B.bias": "o"},
    "diffusers_old": {"lora.up.weight": "o r", "lora.down.weight": "r i"},
    "dora": {"lora_up.weight": "o r", "lora_down.weight": "r i", "dora_scale": "o 1", "alpha": ""},
    "dora_own": {"dora_up": "o r", "dora_down": "r i", "dora_magnitude": "o", "alpha": ""},
    "loha": {"hada_w1_a": "o r", "hada_w1_b": "r i", "hada_w2_a": "o r", "hada_w2_b": "r i", "alpha": ""},
    "loha_t": {
        "hada_w1_a": "r o",
        "hada_w1_b": "r i",
        "hada_w2_a": "r o",
        "hada_w2_b": "r i",
        "hada_t1": "r r",
        "hada_t2": "r r",
    },
    "lokr": {"lokr_w1": "2 2", "lokr_w2": "o/2 i/2", "alpha": ""},
    "lokr_ab": {"lokr_w1_a": "2 r", "lokr_w1_b": "r 2", "lokr_w2_a": "o/2 r", "lokr_w2_b": "r i/2", "alpha": ""},
    "lokr_t": {"lokr_w1": "2 2", "lokr_w2_a": "r o/2", "lokr_w2_b": "r i/2", "lokr_t2": "r r 1 1", "dora_scale": "o 1"},
    "oft": {"oft_blocks": "r o/r o/r", "alpha": "", "rescale": "o 1"},
    "oft_diag": {"oft_diag": "r o/r o/r"},
    "oft_rotation": {"oft_rotation": "2 i/2 i/2"},
    "boft": {"oft_blocks": "2 2 o/4 o/4", "alpha": ""},
    "glora": {"a1.weight": "r o", "a2.weight": "i r", "b1.weight": "r o", "b2.weight": "i r", "alpha": ""},
    "diff": {"diff": "o i", "diff_b": "o", "set_weight": "o i"},
    "svdiff": {"spectral_shifts": "m", "delta": "m"},
    "ia3": {"weight": "o", "on_input": ""},
    "tlora": {"q_layer.weight": "r i", "p_layer.weight": "o r", "lambda_layer": "1 r", "alpha": ""},
    "replaced": {"replaced": "o i", "bias.replaced": "o"},
    "authors": {"P": "o r", "R_new": "r i", "gate": "1"},
    "authors_sdxl": {"lora_layer.P": "o r", "lora_layer.R_new": "r i", "lora_layer.gate": "1"},
    "authors_lora": {
        "lora_layer.lora_A": "o r",
        "lora_layer.lora_B": "r i",
        "lora_layer.gate": "1",
        "lora_layer.P": "o r",
    },
    "para_deft": {"B": "o r"},
    "peft_deft": {"deft_P": "o r", "deft_R": "r i"},
    "peft_oft": {"oft_R.weight": "2 6"},
}
_METADATA = {
    "format": "pt",
    "method": "deft",
    "rank": "4",
    "alpha": "4",
    "projector": "qr",
    "base_hash": "v1:0",
    "base_model": "SD3",
    "training": '{"steps": 3, "final_loss": 0.5, "largest_change": 1.0, "learning_rate": 1e-4, "seed": 5}',
    "modelspec.architecture": "stable-diffusion-v3-medium/lora",
    "modelspec.trigger_phrase": "sks, dog",
    "ss_tag_frequency": '{"1_sks": {"sks": 4}, "2_x": {"a": 1}}',
    "ss_dataset_dirs": '{"1_sks": {"n_repeats": 1, "img_count": 4}}',
    "ss_network_module": "lycoris.kohya",
    "ss_network_args": '{"algo": "lokr", "factor": 2}',
    "ss_network_dim": "4",
    "ss_network_alpha": "4",
    "lora_adapter_metadata": '{"transformer.r": 4, "transformer.lora_alpha": 4, "transformer.use_dora": false}',
    "peft_record": '{"": {"peft_type": "VERA", "r": 4, "save_projection": true}}',
    "note": "x",
    "if_nothing_fits": "x",
    "file_format": "native",
}
_STYLES = (
    "diffusion_model.{}",
    "{}",
    "lora_unet_{_}",
    "transformer.{}",
    "base_model.model.{}",
    "lora_transformer_{_}",
    "lycoris_{_}",
)


def sizes(form: str, shape: tuple[int, int]) -> tuple[int, ...]:
    """A shape in letters for a weight."""
    values = {"o": shape[0], "i": shape[1], "r": RANK, "m": min(shape)}

    def value(word: str) -> int:
        letter, _, divisor = word.partition("/")
        by = values.get(divisor, int(divisor) if divisor.isdigit() else 1)
        return values.get(letter, int(letter) if letter.isdigit() else 1) // by

    return tuple(value(word) for word in form.split())


def spelled(layer: str, style: str) -> str:
    """A layer's name as a program writes it."""
    return style.replace("{_}", layer.replace(".", "_")).replace("{}", layer)


@st.composite
def layers(draw: Any, kinds: dict[str, dict[str, str]] = KINDS) -> dict[str, Tensor]:
    """The tensors of one to three layers, some of them missing, strange or of another kind."""
    result: dict[str, Tensor] = {}
    style = draw(st.sampled_from(_STYLES))
    for layer in draw(st.lists(st.sampled_from(list(applying.SHAPES)), min_size=1, max_size=3, unique=True)):
        parts = dict(kinds[draw(st.sampled_from(list(kinds)))])
        if draw(st.sampled_from((False,) * 7 + (True,))):
            parts |= kinds[draw(st.sampled_from(list(kinds)))]
        for part, form in parts.items():
            if draw(st.sampled_from((False,) * 19 + (True,))):
                continue
            result[f"{spelled(layer, style)}.{part}"] = draw(tensor(sizes(form, applying.SHAPES[layer])))
    if draw(st.sampled_from((False,) * 9 + (True,))):
        result[draw(st.sampled_from(("x", "", ".", ".alpha", "a.b.deft_P", "ä.lora_up.weight", "x" * 300)))] = draw(
            tensor((4,))
        )
    return result


@st.composite
def metadata(draw: Any) -> dict[str, str]:
    """A header's metadata, with the words of several programs and what may stand in their place."""
    fields = draw(st.dictionaries(st.sampled_from(list(_METADATA)), st.none(), max_size=5))
    result = {}
    for name in fields:
        text = _METADATA[name]
        if draw(st.booleans()):
            text = json.dumps(draw(near(json.loads(text)))) if text.startswith("{") else draw(METADATA_VALUES)
        result[name] = text
    return result


@st.composite
def structures(draw: Any) -> Files:
    """An adapter file."""
    return {FILE: safetensors(draw(layers()), draw(metadata()))}


def samples() -> list[Files]:
    """A file of each kind."""
    import torch

    result = []
    for number, (_, parts) in enumerate(KINDS.items()):
        style = _STYLES[number % len(_STYLES)]
        tensors = {
            f"{spelled(layer, style)}.{part}": torch.full(sizes(form, applying.SHAPES[layer]), 0.1)
            for layer in list(applying.SHAPES)[:1]
            for part, form in parts.items()
        }
        result.append({FILE: safetensors(tensors, dict(list(_METADATA.items())[number % 5 :: 5]))})
    return result


def use(folder: Path) -> None:
    """Read and apply it."""
    applying.use(folder / FILE)


READER = Reader("adapters", samples, structures, use, share=4)
