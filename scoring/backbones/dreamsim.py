"""DreamSim (arXiv 2306.09344): three ViT-B/16 (DINO, CLIP, OpenCLIP) tuned on people's judgements of likeness.

The authors publish the base models and a LoRA. Here it is one file with the LoRA merged, under the names of their own
PerceptualModel; `python -m scoring merge` writes it from what they publish.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..packages import needed_by
from ..preprocessing import IMAGENET, OPENAI_CLIP
from ..weights import read_weights
from .base import Backbone, BackboneSpec, EncoderSettings, WeightFile, load_state

BRANCHES = "extractor_list.{}."
VIT_B = {"embed_dim": 768, "depth": 12, "num_heads": 12}


class Ensemble(torch.nn.Module):
    """The three encoders; the feature is their embeddings side by side, without its mean."""

    def __init__(self, size: Mapping[str, int], projected: Mapping[str, int], side: int) -> None:
        """size: arguments of a ViT. projected: the widths of CLIP's and OpenCLIP's embeddings. side: of pictures."""
        super().__init__()
        with needed_by("DreamSim"):
            from timm.layers import QuickGELU
            from timm.models.vision_transformer import VisionTransformer

        def vit(epsilon: float, gelu: type[torch.nn.Module]) -> VisionTransformer:
            return VisionTransformer(
                img_size=side,
                patch_size=16,
                num_classes=0,
                norm_layer=lambda width, **given: torch.nn.LayerNorm(width, **given | {"eps": epsilon}),
                act_layer=gelu,
                **size,
            )

        self.dino = vit(1e-6, torch.nn.GELU)
        self.dino.norm = torch.nn.Identity()  # the class token of the last block, before the norm
        self.clip, self.open_clip = vit(1e-5, QuickGELU), vit(1e-5, torch.nn.GELU)
        for name, branch in (("clip", self.clip), ("open_clip", self.open_clip)):
            branch.norm_pre = torch.nn.LayerNorm(size["embed_dim"], eps=1e-5)
            self.register_parameter(f"{name}_proj", torch.nn.Parameter(torch.empty(size["embed_dim"], projected[name])))
        for name, (mean, std) in {"imagenet": IMAGENET, "openai": OPENAI_CLIP}.items():
            self.register_buffer(f"{name}_mean", torch.tensor(mean).reshape(3, 1, 1), persistent=False)
            self.register_buffer(f"{name}_std", torch.tensor(std).reshape(3, 1, 1), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pictures of 0 to 1 [n, 3, side, side] -> features [n, d]."""
        as_clip = (pixels - self.openai_mean) / self.openai_std
        features = torch.cat(
            [
                self.dino((pixels - self.imagenet_mean) / self.imagenet_std),
                self.clip(as_clip) @ self.clip_proj,
                self.open_clip(as_clip) @ self.open_clip_proj,
            ],
            dim=1,
        )
        return features - features.mean(dim=1, keepdim=True)


def load(
    spec: BackboneSpec, settings: EncoderSettings, state: dict[str, torch.Tensor], path: Path, weights: WeightFile
) -> Backbone:
    """The ensemble from one merged file. Raises ValueError for another file, also for the LoRA alone."""
    if any("lora_" in key for key in state):
        raise ValueError(
            f"{path} holds the LoRA of DreamSim beside or without its base models: merge them by "
            "`python -m scoring merge` (docs/scoring.md)."
        )
    named = ensemble_state(state)
    projected = {name: named[f"{name}_proj"].shape[-1] for name in ("clip", "open_clip") if f"{name}_proj" in named}
    size = settings.architecture if isinstance(settings.architecture, dict) else VIT_B
    module = Ensemble(size, {"clip": 512, "open_clip": 512} | projected, settings.preprocess.crop)
    load_state(module, named, path, spec.name)
    return Backbone.of(spec, settings, module, weights)


def ensemble_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State of `Ensemble` from the names of the authors' PerceptualModel. DINO's norm and head are not used."""
    result = {}
    for key, value in state.items():
        if key.startswith(("extractor_list.0.proj.", "extractor_list.0.model.norm.")):
            continue
        for place, name in enumerate(("dino", "clip", "open_clip")):
            branch = BRANCHES.format(place)
            key = f"{name}_proj" if key == f"{branch}proj" else key.replace(f"{branch}model.", f"{name}.")
        result[key.replace(".pos_drop.", ".norm_pre.")] = value
    return result


def merge(folder: Path, dino: Path) -> dict[str, torch.Tensor]:
    """The merged state from the authors' unpacked `dreamsim_ensemble_checkpoint.zip` and DINO's own ViT-B/16.

    Raises:
        FileNotFoundError: a file that is not there, by name.
        ValueError: a file of another model, or a LoRA of other layers.
    """
    adapter = folder / "ensemble_lora"
    files = {
        "DINO ViT-B/16": dino,
        "CLIP ViT-B/16": folder / "clip_vitb16_pretrain.pth.tar",
        "OpenCLIP ViT-B/16": folder / "open_clip_vitb16_pretrain.pth.tar",
        "the LoRA's settings": adapter / "adapter_config.json",
    }
    lora = next(
        (
            adapter / f"adapter_model.{end}"
            for end in ("safetensors", "bin")
            if (adapter / f"adapter_model.{end}").is_file()
        ),
        adapter / "adapter_model.safetensors",
    )
    for what, file in (files | {"the LoRA": lora}).items():
        if not file.is_file():
            raise FileNotFoundError(f"{what} is missing: there is no file {file}.")
    result: dict[str, torch.Tensor] = {}
    for place, name in enumerate(list(files)[:3]):
        for key, value in read_weights(files[name]).items():
            branch = BRANCHES.format(place)
            result[f"{branch}proj" if key == "proj" else f"{branch}model.{key}"] = value
    try:
        settings: Any = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8-sig"))
        scale = float(settings["lora_alpha"]) / int(settings["r"])
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{adapter / 'adapter_config.json'} is no LoRA's settings ({error}).") from error
    factors = {key.removeprefix("base_model.model."): value for key, value in read_weights(lora).items()}
    for key in [key for key in factors if key.endswith(".lora_A.weight")]:
        layer = key.removesuffix("lora_A.weight")
        down, up = factors.pop(key), factors.pop(f"{layer}lora_B.weight", None)
        if up is None or f"{layer}weight" not in result or (up @ down).shape != result[f"{layer}weight"].shape:
            raise ValueError(f"{lora} does not belong to these base models: {layer[:-1]}.")
        result[f"{layer}weight"] = result[f"{layer}weight"] + scale * (up @ down)
    if factors:
        raise ValueError(f"{lora} holds more than a LoRA of DreamSim: {next(iter(factors))}.")
    return result
