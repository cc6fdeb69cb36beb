"""A fingerprint of a MODEL's base weights: the same for fp32, fp16 and bf16 copies, another for another checkpoint.

A file hash changes with the precision, the container and the header, and a loaded model has no file. So this one is of
weights: 15 matrices spread evenly over the sorted names of the diffusion model, of each a sample of up to 4096 values,
projected on fixed pseudo-random signs and divided by the sample's norm. A weight change of relative size d moves such a
number by d times a standard normal number, whatever the matrix; so does rounding. The root mean square of the 15
differences therefore estimates how far two bases are apart, and a tolerance for each precision tells rounding from
another base. Text encoders are not part of it.

Measured on random matrices (normal and Student-t with 5 degrees of freedom, standard deviation 0.02), mean and largest
of 300: fp16 2.1e-4, 3.7e-4; bf16 1.6e-3, 2.6e-3; fp8 e5m2 0.052, 0.083; fp8 e4m3 0.033, 0.053 (weights of 0.005, near
its smallest steps: 0.11, 0.18); 8-bit integers 0.005 to 0.02, 0.03; 4 bits 0.1, 0.19; 3 bits 0.25, 0.4. Changes of
relative size 1e-3, 1e-2 and 1e-1 gave 1.0e-3, 1.0e-2 and 0.1; unrelated weights 1.4, at least 0.6. With the tolerances
below a fine-tune shows as another base where its weights differ by about 2e-4 (fp32), 1e-3 (fp16), 8e-3 (bf16), 0.25
(fp8 e5m2) or 0.4 (fp8 e4m3); with fewer bits only unrelated weights are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .base_weights import base_weight
from .stored import is_plain
from .titles import recorded_title, title_of

MATRICES = 15
_RUNS, _RUN = 64, 64  # a sample is 64 runs of 64 neighbours: few memory pages are touched
_STEPS = 1 << 13  # of the numbers, in 1; they go from -4 to 4 in 16 bits
_HEAD = "df1"  # tells these fingerprints, of 64 hex digits, from SHA-256 hashes; 1 is the version
# Precisions by what they cost, the header's fourth digit, with the largest difference that rounding to them makes.
_TOLERANCES = (1e-4, 5e-4, 4e-3, 0.12, 0.2, 0.45)
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn)
_QUANTISED = len(_DTYPES)
_TELLING = 0.05  # above this tolerance fine-tunes are not distinguished from their base


def fingerprint(patcher: Any) -> str:
    """The fingerprint of a MODEL's base weights, 64 hex digits: `df1`, the precision, four for each of 15 matrices.

    Patches, hooks and whether the model is loaded do not change it. Nothing is moved but the samples. Empty for a
    network without weight matrices.
    """
    parameters = {
        name: value
        for name, value in patcher.model.diffusion_model.named_parameters(remove_duplicate=False)
        if name.endswith(".weight") and value.ndim > 1
    }
    names = sorted(parameters)
    if not names:
        return ""
    precision, digits = 0, ""
    for index in range(MATRICES):
        name = names[(2 * index + 1) * len(names) // (2 * MATRICES)]
        values, level = _sample(patcher, f"diffusion_model.{name}", parameters[name])
        precision = max(precision, level)
        digits += f"{_number(values):04x}"
    return f"{_HEAD}{precision:x}{digits}"


def compare(recorded: str, current: str) -> float | None:
    """The relative difference of two bases' weights, estimated; 1.4 for unrelated ones. None: not two fingerprints."""
    pair = _parse(recorded), _parse(current)
    if pair[0] is None or pair[1] is None:
        return None
    squares = [((a - b) / _STEPS) ** 2 for a, b in zip(pair[0][1], pair[1][1], strict=True)]
    return float((sum(squares) / MATRICES) ** 0.5)


def tolerance(recorded: str, current: str) -> float:
    """The largest difference that the precisions of two fingerprints explain."""
    return max(_TOLERANCES[int(value[len(_HEAD)], 16)] for value in (recorded, current))


def same_base(recorded: str, patcher: Any) -> bool | None:
    """Whether a recorded fingerprint is of this MODEL's base, in any precision. None: it is not a fingerprint."""
    if _parse(recorded) is None:
        return None
    current = fingerprint(patcher)
    difference = compare(recorded, current)
    return None if difference is None else difference <= tolerance(recorded, current)


def base_note(adapter: Mapping[str, Tensor], model: Any) -> str | None:
    """The note about an adapter's base: a warning if MODEL is another one, or that this is unknown; or None."""
    metadata: Mapping[str, str] = getattr(adapter, "metadata", {})
    recorded = metadata.get("base_hash", "")
    if _parse(recorded) is None:
        return None
    current = fingerprint(model)
    difference, allowed = compare(recorded, current), tolerance(recorded, current)
    if difference is None:
        return None
    if difference <= allowed:
        return _untold(recorded, current) if allowed > _TELLING else None
    title = recorded_title(metadata)
    base = f" ({title})" if title else ""
    apart = "are unrelated to" if difference > 0.5 else f"differ by about {100 * difference:.2g} % from"
    return (
        f"WARNING: the adapter was trained on another base{base}: the weights of the connected "
        f"{title_of(model.model)} {apart} that one's. Load the checkpoint that it was trained on; on this one its "
        "effect differs."
    )


def _untold(recorded: str, current: str) -> str:
    """The note that a fine-tune of the base would have looked like the base."""
    coarse = max(recorded, current, key=lambda text: int(text[len(_HEAD)], 16))
    which = "the connected model" if coarse == current else "the model that the adapter was trained on"
    return (
        f"Could not check whether the adapter was trained on this base: {which} is stored in so few bits (fp8, GGUF or "
        "the like) that a fine-tune looks like its base. Only an unrelated base would have been noticed."
    )


def _parse(text: str) -> tuple[int, list[int]] | None:
    """The precision and the numbers of a fingerprint."""
    length = len(_HEAD) + 1
    if len(text) != length + 4 * MATRICES or not text.startswith(_HEAD):
        return None
    try:
        precision = int(text[length - 1], 16)
        numbers = [int(text[at : at + 4], 16) for at in range(length, len(text), 4)]
    except ValueError:
        return None
    return (precision, numbers) if precision < len(_TOLERANCES) else None


def _sample(patcher: Any, key: str, parameter: Tensor) -> tuple[Tensor, int]:
    """A sample of up to 4096 values of a base weight, float64 on the CPU, and its precision (index of _TOLERANCES)."""
    weight = parameter
    if key in patcher.backup:  # patches are in the weight itself
        weight = patcher.backup[key].weight
    elif key in patcher.hook_backup:
        weight = patcher.hook_backup[key][0]
    plain = is_plain(weight) and weight.is_floating_point()
    if not plain:
        weight, _ = base_weight(patcher, key)
    flat = weight.detach().reshape(-1)
    stride = (flat.numel() // _RUNS - 1) | 1  # odd, so that the runs do not begin in the same columns
    if stride > _RUN:
        flat = flat[: _RUNS * stride].view(_RUNS, stride)[:, :_RUN].reshape(-1)
    values = flat[: _RUNS * _RUN].cpu().float()
    return values.double(), _coarseness(values) if plain else _QUANTISED


def _coarseness(values: Tensor) -> int:
    """The coarsest precision that holds the values exactly: files are loaded in finer ones than they were saved in."""
    if len(values.abs().unique()) < 16:  # zeros, ones: any precision holds them
        return 0
    fits = [level for level, dtype in enumerate(_DTYPES) if torch.equal(values.to(dtype).float(), values)]
    return max(fits, default=0)


def _number(values: Tensor) -> int:
    """The sample's projection on the signs, in 16 bits; zeros, or values that are not finite, give the middle."""
    norm = float(values.norm())
    projection = float(_signs(len(values)) @ values) / norm if 0 < norm < math.inf else 0.0
    return max(0, min(0xFFFF, round((projection + 4) * _STEPS)))


def _signs(count: int) -> Tensor:
    """Pseudo-random signs +1 and -1, float64: the top bits of a multiplicative hash, the same on every platform."""
    hashed = torch.arange(1, count + 1, dtype=torch.int64)
    for factor in (0x7FEB352D, 0x046CA68B):  # below 2**31, so that no product of 32 bits leaves 64
        hashed = (hashed ^ (hashed >> 16)) * factor & 0xFFFFFFFF
    return 1.0 - 2.0 * ((hashed >> 31) & 1).double()
