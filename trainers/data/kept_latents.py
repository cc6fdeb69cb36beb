"""Latents kept on disk by what they are made of, so that a picture is encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from ...deft_ops.files.safe import read_tensors, write_files
from .pictures_folder import Fit

_SAMPLE = 4096  # values of each tensor of a VAE
_FORM = "1"  # of the key; another one where pictures are prepared in another way


def vae_hash(state: Mapping[str, Tensor]) -> str:
    """A hash of a VAE's tensors: names, shapes, types and up to 8192 values of each, spread evenly over it."""
    content = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        tensor = state[name].detach()
        content.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.reshape(-1)
        content.update(flat[:: max(1, len(flat) // _SAMPLE)].cpu().float().numpy().tobytes())
    return content.hexdigest()


def key_of(picture: str, prepared: Fit, flipped: bool, vae: str) -> str:
    """The name of a kept latent. picture: a hash of the picture's pixels, of any length; vae: of its `vae_hash`."""
    parts = f"{_FORM} {picture} {prepared.scaled} {prepared.corner} {prepared.size} {flipped} {vae}"
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


def kept_latent(folder: Path, key: str) -> Tensor | None:
    """The latent that was kept under a key; None if there is none, or its file is damaged or holds something else."""
    try:
        latent = read_tensors(folder / f"{key}.safetensors")[0].get("latent")
    except (OSError, ValueError):
        return None
    return latent if latent is not None and torch.isfinite(latent).all() else None


def keep_latent(folder: Path, key: str, latent: Tensor) -> None:
    """Keep a latent under a key."""
    write_files(folder, {f"{key}.safetensors": save({"latent": latent.detach().cpu().contiguous()})})
