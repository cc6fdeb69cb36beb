"""OFT (arXiv 2306.07280, 2506.19847) in the forms that there are: W' is W with its inputs or its outputs rotated.

| tensors | writer | W' |
|---|---|---|
| `oft_rotation` | the reader of PEFT's files, so that nothing depends on PEFT's settings | W diag(R) |
| `oft_R.weight`, `oft_R.scaled_oft` | OneTrainer | W diag(R)^T, and for convolutions W diag(R) |
| `oft_blocks` [b, k, k], `rescale`, `alpha` | LyCORIS' diag-oft, kohya's scripts | rescale diag(R)^T W |
| `oft_blocks` [steps, b, k, k], `rescale`, `alpha` | LyCORIS' BOFT | rescale times the steps' rotations of W |
| `oft_diag` | LyCORIS up to February 2024 | diag(R)^T W |

Their alpha is the constraint for each output. ComfyUI's own class leaves the rescaling out, takes alpha for the whole
constraint, and squares the strength.

Training makes the third form, of LyCORIS, without rescaling, from blocks of zeros. A constraint of the training (COFT,
section 4 of the first paper) is in the blocks.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..changes import Rotated
from ..host import on_host
from ..settings import WITH_METHOD, Number, entry
from .common import alpha_of, flat, trainable
from .contract import Method, Training, UsualRates
from .factored import exact_pair
from .rotations import block_size, bounded, cayley, neumann, skew, turn_butterfly, turn_columns, turn_rows

NAME = "oft"
_PEFT, _ENTRIES, _BLOCKS, _DIAGONAL = "oft_rotation", "oft_R.weight", "oft_blocks", "oft_diag"
_SCALED, _RESCALE = "oft_R.scaled_oft", "rescale"
# What each form may have beside its first tensor.
_BESIDE: dict[str, set[str]] = {_PEFT: set(), _ENTRIES: {_SCALED}, _BLOCKS: {_RESCALE, "alpha"}, _DIAGONAL: set()}
SUFFIXES = (*_BESIDE, _SCALED, _RESCALE, "alpha")
# The alpha of trained layers. ComfyUI and LyCORIS take 0 for no constraint, but kohya's scripts for no rotation at all;
# all take this for a constraint that no blocks reach. float16 has it, too.
_UNCONSTRAINED = 10000.0


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: the first tensor of its form and that tensor's name, and what is beside it.

    `scaled`: OneTrainer's entries are divided by 2 sqrt(k - 1). `constraint`: alpha, None without one. `rotations`:
    R [b, k, k] while it is trained.
    """

    rotation: Tensor
    form: str = _PEFT
    rescale: Tensor | None = None
    constraint: float | None = None
    scaled: bool = False
    rotations: Tensor | None = None


@dataclass(frozen=True)
class Settings:
    """Settings of an OFT training."""

    block_size: int = entry(
        Number(
            at=WITH_METHOD,
            low=2,
            shown=1024,
            words="Number of a layer's outputs that are rotated together: larger blocks can learn"
            " more. The nearest divisor of a layer's outputs is used. PEFT uses 32.",
        ),
        32,
    )
    constraint: float = entry(
        Number(
            at=WITH_METHOD,
            shown=1.0,
            step=1e-6,
            advanced=True,
            words="How far the blocks of a layer may be rotated in total, per output (COFT): "
            "smaller values keep more of the base. 0: no limit.",
        ),
        0.0,
    )


def claims(suffixes: Collection[str]) -> bool:
    """Whether a layer with these suffixes is an OFT layer of one of the forms."""
    present = set(suffixes)
    return any({form} <= present <= {form} | beside for form, beside in _BESIDE.items())


def rank(tensors: Mapping[str, Tensor]) -> int:
    """The size k of a block."""
    return block_size(tensors[_ENTRIES]) if _ENTRIES in tensors else next(iter(_first(tensors).values())).shape[-1]


def size_of_blocks(out: int, size: int) -> int:
    """The divisor of `out` above 1 that is nearest to `size`; 1 of one output. Raises ValueError for less than 2."""
    if size < 2:
        raise ValueError(f"The block size must be at least 2, not {size}: a block of 1 cannot be rotated.")
    return min((k for k in range(1, out + 1) if out % k == 0 and k > 1 or out == 1), key=lambda k: (abs(k - size), k))


def init(weight: Tensor, rank: int, settings: Settings, generator: torch.Generator) -> dict[str, Tensor]:
    """Trainable float32 blocks B = 0 [out / k, k, k] for a weight [out, in, ...], so the change is zero.

    k is the divisor of out that is nearest to the block size. Nothing else is used.
    """
    size = size_of_blocks(len(weight), settings.block_size)
    return trainable({"blocks": torch.zeros(len(weight) // size, size, size, device=weight.device)})


def otherwise(params: Mapping[str, Tensor], settings: Settings) -> str:
    """A remark about a layer whose blocks are of another size; empty if they are of the size asked for."""
    size = params["blocks"].shape[-1]
    return (
        "" if size == settings.block_size else f"blocks of {size}, as {settings.block_size} does not divide the outputs"
    )


def factors_of(layers: Sequence[Mapping[str, Tensor]], settings: Settings) -> list[Factors]:
    """The factors of many layers, to apply and save. The rotations of all blocks of one size are solved for at once."""
    blocks = [params["blocks"] for params in layers]
    if settings.constraint:
        # The files hold blocks within the limit: what programs take a constraint in a file for differs.
        blocks = [bounded(value, settings.constraint * value.shape[0] * value.shape[1]) for value in blocks]
    places: dict[int, list[int]] = {}
    for place, value in enumerate(blocks):
        places.setdefault(value.shape[-1], []).append(place)
    rotations = list(blocks)
    for group in places.values():
        solved = on_host(cayley, torch.cat([blocks[place] for place in group]), 0.0)
        for place, rotation in zip(group, solved.split([len(blocks[place]) for place in group]), strict=True):
            rotations[place] = rotation
    return [
        Factors(value, _BLOCKS, constraint=_UNCONSTRAINED, rotations=rotation)
        for value, rotation in zip(blocks, rotations, strict=True)
    ]


def change(factors: Factors) -> Rotated:
    """The change on activations, of blocks that are trained."""
    assert factors.rotations is not None
    return Rotated(factors.rotations - torch.eye(factors.rotations.shape[-1], device=factors.rotations.device))


def fits(factors: Factors, shape: tuple[int, ...]) -> bool:
    """Whether the adapter is for a weight of this shape."""
    if len(shape) < 2:
        return False
    if factors.form in (_PEFT, _ENTRIES):
        blocks, width = len(factors.rotation), math.prod(shape[1:])
        size = block_size(factors.rotation) if factors.form == _ENTRIES else factors.rotation.shape[1]
        return width % size == 0 and blocks in (1, width // size) and not _of_patches(factors, shape)
    *steps, blocks, size, _ = factors.rotation.shape
    if factors.rescale is not None and factors.rescale.numel() != shape[0]:
        return False
    return blocks * size == shape[0] and not (steps and shape[0] % (2 ** (steps[0] - 1) * size))


def misfit(factors: Factors, shape: tuple[int, ...]) -> str | None:
    """The reason why an adapter whose sizes are right does not belong to a weight of this shape, None without one."""
    if not _of_patches(factors, shape):
        return None
    return (
        f"an {NAME} of PEFT for a convolution of kernel {list(shape[2:])}: PEFT's layer adds up its rotated patches, "
        "which no weight can do: train it without such layers"
    )


def _of_patches(factors: Factors, shape: tuple[int, ...]) -> bool:
    """Whether PEFT's layer would rotate patches of the image and fold them again, summing where they overlap."""
    return factors.form == _PEFT and math.prod(shape[2:]) > 1


def delta(
    factors: Factors, weight: Tensor, *, strength: float = 1.0, removal: float = 1.0, injection: float = 1.0
) -> Tensor:
    """The change of a weight [out, in, ...] times the strength, of the same shape, float32.

    `removal` and `injection` are not used.
    """
    matrix = flat(weight)
    values = factors.rotation.to(matrix)
    if factors.form == _PEFT:
        turned = turn_columns(matrix, values)
    elif factors.form == _ENTRIES:
        size = block_size(values)
        rotation = neumann(skew(values / (2 * math.sqrt(size - 1)) if factors.scaled else values))
        # OneTrainer turns the inputs of a linear layer, x R, but the weight of a convolution, W R.
        turned = turn_columns(matrix, rotation if weight.ndim > 2 else rotation.mT)
    elif factors.form == _DIAGONAL:
        turned = turn_rows(matrix, values)
    else:
        rotation = on_host(cayley, values, (factors.constraint or 0.0) * len(matrix))
        turned = turn_rows(matrix, rotation) if rotation.ndim == 3 else turn_butterfly(matrix, rotation)
        if factors.rescale is not None:
            turned = factors.rescale.to(matrix).reshape(-1, 1) * turned
    return ((turned - matrix) * strength).reshape(weight.shape)


def to_lora(factors: Factors, weight: Tensor, *, removal: float = 1.0, injection: float = 1.0) -> tuple[Tensor, Tensor]:
    """The exact LoRA form at strength 1, of full rank k = min(out, in*): the SVD of the change."""
    return exact_pair(delta(factors, weight))


def to_tensors(factors: Factors) -> dict[str, Tensor]:
    """The layer's file entries, by suffix."""
    tensors = {factors.form: factors.rotation.detach().contiguous()}
    if factors.rescale is not None:
        tensors[_RESCALE] = factors.rescale.detach().contiguous()
    if factors.constraint is not None:
        tensors["alpha"] = torch.tensor(factors.constraint, dtype=torch.float32)
    if factors.scaled:
        tensors[_SCALED] = torch.tensor(True)
    return tensors


def from_tensors(tensors: Mapping[str, Tensor]) -> Factors:
    """The factors of a layer's file entries. Raises ValueError for shapes that hold no rotations."""
    ((form, values),) = _first(tensors).items()
    if form == _ENTRIES:
        block_size(values)
        return Factors(values, form, scaled=_SCALED in tensors)
    dims = (3, 4) if form == _BLOCKS else (3,)
    if values.ndim not in dims or values.shape[-1] != values.shape[-2] or not values.numel():
        raise ValueError(f"{form} has shape {list(values.shape)}, but rotations [blocks, k, k] are needed")
    if values.ndim == 4 and values.shape[-1] % 2:
        raise ValueError(f"{form} has shape {list(values.shape)}, but BOFT's blocks are of an even size")
    return Factors(values, form, tensors.get(_RESCALE), alpha_of(tensors))


def _first(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {form: tensors[form] for form in _BESIDE if form in tensors}


METHOD = Method(
    name=NAME,
    title="OFT",
    source="arXiv 2306.07280",
    suffixes=SUFFIXES,
    claims=claims,
    Factors=Factors,
    from_tensors=from_tensors,
    to_tensors=to_tensors,
    rank=rank,
    fits=fits,
    misfit=misfit,
    delta=delta,
    to_lora=to_lora,
    core_suffixes=(_BLOCKS, _RESCALE, "alpha"),
    marks=(_BLOCKS, _DIAGONAL),
    flags=(_SCALED,),
    of_peft={_ENTRIES: lambda name: name.startswith("base_model.model.")},  # OneTrainer's layers have other names
    peft="PEFT's OFT rotates a layer's inputs, and this one its outputs",
    training=Training(
        words="rotates a layer's outputs in blocks and preserves their lengths and the angles between them, which "
        "keeps most of what the model knows",
        settings=Settings,
        init=init,
        factors_of=factors_of,
        change=lambda factors, weight, kept: change(factors),
        otherwise=otherwise,
        usual_rates=UsualRates(3e-4, 3e-4, "PEFT's picture benchmark"),
    ),
)
