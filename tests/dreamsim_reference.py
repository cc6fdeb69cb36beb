"""Small weights in the form in which DreamSim's authors publish theirs, and what their package makes of them.

`python tests/dreamsim_reference.py FOLDER` prints the numbers of VALUES, where dreamsim 0.2.1 and peft are installed.
Only the sizes of its vision transformers are changed. The weights come from numpy's generator, seeded by their names.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

SIZE = {"embed_dim": 128, "depth": 12, "num_heads": 2}
EMBEDDING = 64  # of CLIP's and OpenCLIP's
RANK, ALPHA = 4, 3.0
DINO = "dino_vitbase16_pretrain.pth"
# Of each picture the first four values of the embedding and the last; then the distance of the two.
VALUES = (
    *(0.0380156, 0.0648646, -0.0696112, 0.1987431, -0.0490163),
    *(0.0229096, 0.0723184, -0.0801122, 0.1712665, -0.0508659),
    0.0174123,
)


def drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Weights by their name."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    norm = any(part in name for part in ("norm", "pos_drop")) and name.endswith("weight")
    return torch.from_numpy(1 + 0.1 * noise if norm else 0.06 * noise)


def branch(name: str) -> dict[str, torch.Tensor]:
    """One vision transformer by DINO's names; CLIP's have a norm before the blocks and a projection."""
    width, clip = SIZE["embed_dim"], name != "dino"
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 197, width),
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for block in range(SIZE["depth"]):
        for layer, (rows, columns) in {
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.fc1": (4 * width, width),
            "mlp.fc2": (width, 4 * width),
        }.items():
            shapes |= {f"blocks.{block}.{layer}.weight": (rows, columns), f"blocks.{block}.{layer}.bias": (rows,)}
        shapes |= {f"blocks.{block}.norm{n}.{part}": (width,) for n in (1, 2) for part in ("weight", "bias")}
    if clip:
        shapes |= {"pos_drop.weight": (width,), "pos_drop.bias": (width,), "proj": (width, EMBEDDING)}
    return {key: drawn(f"{name} {key}", shape) for key, shape in shapes.items()}


def make_folder(folder: Path) -> None:
    """The authors' unpacked archive, with DINO's own file in it."""
    torch.save(branch("dino"), folder / DINO)
    for name in ("clip", "open_clip"):
        torch.save({"state_dict": branch(name)}, folder / f"{name}_vitb16_pretrain.pth.tar")
    adapter, width = folder / "ensemble_lora", SIZE["embed_dim"]
    adapter.mkdir()
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.3, "bias": "none"}
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"target_modules": ["qkv"]}))
    factors = {}
    for place in range(3):
        for block in range(SIZE["depth"]):
            layer = f"base_model.model.extractor_list.{place}.model.blocks.{block}.attn.qkv"
            factors[f"{layer}.lora_A.weight"] = drawn(f"{layer} A", (RANK, width))
            factors[f"{layer}.lora_B.weight"] = drawn(f"{layer} B", (3 * width, RANK))
    save_file(factors, adapter / "adapter_model.safetensors")


def pictures() -> list[Image.Image]:
    """Two pictures of other proportions."""
    rng = np.random.default_rng(7)
    return [Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for size in ((37, 53, 3), (64, 40, 3))]


def by_the_package(folder: Path) -> list[float]:
    """The numbers of VALUES by dreamsim 0.2.1, with the LoRA as PEFT applies it."""
    import dreamsim.feature_extraction.load_clip_as_dino as clip
    import dreamsim.feature_extraction.load_open_clip_as_dino as open_clip
    import dreamsim.feature_extraction.vision_transformer as vit
    from dreamsim import dreamsim

    def small(patch_size: int = 16) -> torch.nn.Module:
        norm = lambda width: torch.nn.LayerNorm(width, eps=1e-6)  # noqa: E731
        return vit.VisionTransformer(patch_size=patch_size, qkv_bias=True, norm_layer=norm, **SIZE)

    def from_hub(*_: object) -> torch.nn.Module:
        module = small()
        module.load_state_dict(torch.load(folder / DINO))
        return module

    clip.vit_base = open_clip.vit_base = small
    torch.hub.load = from_hub
    head = {f"module.head.{key}": torch.zeros(1) for key in ("last_layer.weight",)}
    head |= {f"module.head.mlp.{n}.{part}": torch.zeros(1) for n in (0, 2, 4) for part in ("weight", "bias")}
    torch.save({"student": head}, folder / "dino_vitb16_pretrain.pth")
    model, prepare = dreamsim(cache_dir=str(folder), device="cpu")
    with torch.no_grad():
        one, other = (prepare(picture) for picture in pictures())
        rows = [model.embed(pixels)[0] for pixels in (one, other)]
        distance = float(model(one, other))
    return [*(float(row[place]) for row in rows for place in (0, 1, 2, 3, -1)), distance]


if __name__ == "__main__":
    import sys

    place = Path(sys.argv[1])
    make_folder(place)
    print([round(value, 7) for value in by_the_package(place)])
