"""Folders of PEFT: its own files of every tuner, with damaged records and tensors that do not belong to them."""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import load
from torch import nn

from ...comfy.test_peft_tuners import KINDS, Kind
from .. import applying
from ..kit import Files, Reader
from ..structures import JSON, LEAVES, encoded, near, safetensors, tensor
from .adapters import layers

FOLDER = "duck"
RECORD, WEIGHTS = f"{FOLDER}/adapter_config.json", f"{FOLDER}/adapter_model.safetensors"
# Fields of records of all tuners, each of which any record may get.
_FIELDS = [
    "alpha",
    "alpha_pattern",
    "bias",
    "block_size",
    "block_size_pattern",
    "boft_block_num",
    "boft_block_size",
    "coft",
    "config_A_B",
    "decomposition_method",
    "depth",
    "eps",
    "fan_in_fan_out",
    "feedforward_modules",
    "gralora_k",
    "hybrid_r",
    "init_lora_weights",
    "init_r",
    "init_weights",
    "kasa_config",
    "lora_alpha",
    "lora_bias",
    "mini_r",
    "monteclora_config",
    "n_frequency",
    "n_frequency_pattern",
    "num_cayley_neumann_terms",
    "num_subspaces",
    "num_vectors",
    "para",
    "peft_type",
    "peft_version",
    "projection_prng_key",
    "psoft_svd_lowrank_niter",
    "r",
    "random_loc_seed",
    "rank_pattern",
    "save_indices",
    "save_projection",
    "scaling",
    "sparse_rate",
    "sparsity",
    "subspace_rank",
    "target_modules",
    "target_parameters",
    "theta_d_length",
    "topk",
    "u",
    "unknown",
    "use_bdlora",
    "use_cayley_neumann",
    "use_dora",
    "use_idwt",
    "use_rslora",
    "variant",
    "vector_length",
    "velora_config",
    "wavelet_family",
    "weight_tying",
]


class _Small(nn.Module):
    """The layers that files are made for, under the names of the model that they are applied to."""

    def __init__(self) -> None:
        super().__init__()
        for name, (rows, columns) in applying.SHAPES.items():
            place: nn.Module = self
            *parents, last = name.split(".")
            for part in parents:
                if not hasattr(place, part):
                    place.add_module(part, nn.Module())
                place = getattr(place, part)
            place.add_module(last, nn.Linear(columns, rows))

    def forward(self, x: Any) -> Any:
        return x


_OWN = {
    "deft": Kind("DeftConfig", {"r": 4}),
    "lora": Kind("LoraConfig", {"r": 4, "lora_alpha": 6, "rank_pattern": {"proj": 2}, "alpha_pattern": {"fc1": 3}}),
    "dora": Kind("LoraConfig", {"r": 4, "use_dora": True}),
    "loha": Kind("LoHaConfig", {"r": 4, "alpha": 4}),
    "lokr": Kind("LoKrConfig", {"r": 4, "alpha": 4, "decompose_factor": 4}),
    "oft": Kind("OFTConfig", {"oft_block_size": 4}),
    "oft-coft": Kind("OFTConfig", {"oft_block_size": 4, "coft": True, "eps": 1e-3}),
}
_KINDS = _OWN | {name: kind for name, kind in KINDS.items() if kind.layers == "linear"}


@functools.cache
def made(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The record and the tensors of a tuner as the installed PEFT writes them."""
    import peft

    targets = list(applying.SHAPES)
    with tempfile.TemporaryDirectory() as parent, warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        kind = _KINDS[name]
        model = peft.get_peft_model(_Small(), kind.build(targets[:2] if name.startswith("bd") else targets))
        model.save_pretrained(Path(parent) / FOLDER)
        return json.loads((Path(parent) / RECORD).read_text()), load((Path(parent) / WEIGHTS).read_bytes())


@functools.cache
def valid() -> list[tuple[dict[str, Any], dict[str, torch.Tensor]]]:
    """The folders of each tuner that this PEFT makes for these layers."""
    result = []
    for name in _KINDS:
        with contextlib.suppress(Exception):  # PEFT raises errors of many kinds for layers that a tuner is not for
            result.append(made(name))
    return result


def samples() -> list[Files]:
    """A folder of each tuner."""
    return [{WEIGHTS: safetensors(tensors), RECORD: encoded(record)} for record, tensors in valid()]


@st.composite
def structures(draw: Any) -> Files:
    """A folder whose record or tensors are near those that PEFT writes."""
    record, tensors = draw(st.sampled_from(valid()))
    tensors = dict(tensors)
    if draw(st.booleans()):
        record = draw(near(record))
    elif draw(st.booleans()):
        record = record | draw(st.dictionaries(st.sampled_from(_FIELDS), st.one_of(LEAVES, JSON), max_size=3))
    if draw(st.booleans()):
        key = draw(st.sampled_from(list(tensors)))
        kind = draw(st.sampled_from(("change", "change", "remove", "rename", "add")))
        old = tensors.pop(key)
        if kind == "change":
            tensors[key] = draw(tensor(tuple(old.shape)))
        elif kind == "rename":
            tensors[key + draw(st.sampled_from((".x", ".default", ".0")))] = old
        elif kind == "add":
            tensors |= {f"base_model.model.{name}": value for name, value in draw(layers()).items()} | {key: old}
    files = {WEIGHTS: safetensors(tensors)}
    if isinstance(record, dict) or draw(st.booleans()):
        files[RECORD] = encoded(record)
    return files


def use(folder: Path) -> None:
    """Read and apply it."""
    applying.use(folder / FOLDER)


READER = Reader("peft_folders", samples, structures, use, share=4)
