"""The demo's denoiser (SD3's layout) together with its text encoder, trained on captioned compositions."""

from __future__ import annotations

import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .prepare import on_colours, palette, trained_layers
from .train_autoencoder import FILE as AUTOENCODER
from .train_autoencoder import LATENT_CHANNELS, SD3_SCALE, SD3_SHIFT, at_work, channels_last, new_autoencoder
from .training import Limits, Setup, fit, load_float, log, on_device, rows_of, save_half, seeded, write_text
from .vocabulary import COLOURS, TRAINED_NAMES, caption

DEPTH = 3  # blocks, heads and width / 64, as the layout has it
GRID = 8  # patches of 2 x 2 latents on each side of a picture of 128 px
SHIFT = 3.0  # of ComfyUI's SD3 sampling
STEPS, CFG = 24, 4.0  # of the samples
ROWS_IN_A_PART = 20  # objects whose latents are encoded between two marks of how far it got
DENOISER = Path("diffusion_models") / "deft_demo_denoiser.safetensors"
TEXT_ENCODER = Path("deft_demo_text_encoder.safetensors")


def captions(setup: Setup) -> list[str]:
    """The caption of each row of `latents`."""
    return [caption(name, colour) for name in TRAINED_NAMES for colour in COLOURS for _ in range(setup.per_caption)]


@torch.no_grad()
def latents(setup: Setup) -> np.ndarray:
    """What the denoiser sees of each picture, float16 [n, 16, size / 8, size / 8], mean 0 and deviation 1.

    Mapped from a file, which is made in parts; an interrupted run goes on behind the last whole part.
    """
    weights = (setup.models / AUTOENCODER).read_bytes()
    path = setup.work / f"latents-{setup.per_caption}x{setup.size}-{hashlib.sha256(weights).hexdigest()[:8]}.npy"
    if path.is_file():
        return np.load(path, mmap_mode="r")
    layers, colours, per_name = trained_layers(setup), palette(), len(COLOURS) * setup.per_caption
    shape = (len(TRAINED_NAMES) * per_name, LATENT_CHANNELS, setup.size // 8, setup.size // 8)
    part, progress = path.with_suffix(".part"), path.with_suffix(".json")
    done = json.loads(progress.read_text()) if progress.is_file() and part.is_file() else 0
    array = np.lib.format.open_memmap(part, mode="r+" if done else "w+", dtype=np.float16, shape=shape)
    vae = new_autoencoder(setup.device, setup.models / AUTOENCODER)
    encoder = at_work(vae.taesd_encoder)
    log(f"encoding {shape[0]} pictures from number {done * per_name}")
    for row in range(done, len(TRAINED_NAMES)):
        generator = seeded(torch.device("cpu"), 3, row)
        views = torch.randint(layers.shape[1], (per_name,), generator=generator)
        chosen = colours.repeat_interleave(setup.per_caption, dim=0)
        x = on_colours(torch.from_numpy(layers[row][views.numpy()]), chosen, generator)
        with setup.autocast():
            rows = [encoder(channels_last(some.to(setup.device))).float() for some in x.split(32)]
        z = (torch.cat(rows) / vae.vae_scale + vae.vae_shift - SD3_SHIFT) * SD3_SCALE
        array[row * per_name : (row + 1) * per_name] = z.half().cpu().numpy()
        if row % ROWS_IN_A_PART == ROWS_IN_A_PART - 1:
            array.flush()
            write_text(progress, json.dumps(row + 1))
    array.flush()
    part.rename(path)
    progress.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")


def build(depth: int = DEPTH, device: torch.device | None = None) -> torch.nn.Module:
    """The SD3 transformer with every parameter set, adaLN and output layers at zero."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper, get_2d_sincos_pos_embed

    from ..text_encoder import WIDTH

    hidden = 64 * depth
    model = OpenAISignatureMMDITWrapper(
        input_size=None,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        depth=depth,
        adm_in_channels=WIDTH,
        num_patches=GRID**2,
        pos_embed_max_size=GRID,
        pos_embed_scaling_factor=None,
        qk_norm="rms",
        context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": hidden}},
        device="cpu",
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            torch.nn.init.xavier_uniform_(parameter.view(parameter.shape[0], -1))
        elif name.endswith("weight"):
            torch.nn.init.ones_(parameter)
        else:
            torch.nn.init.zeros_(parameter)
        if "adaLN_modulation" in name or name.startswith("final_layer.linear"):
            torch.nn.init.zeros_(parameter)
        if name.startswith(("t_embedder", "y_embedder")) and parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.02)
    model.pos_embed.copy_(torch.from_numpy(get_2d_sincos_pos_embed(hidden, GRID)).float()[None])
    return model.to(device)


def initialise_text(transformer: torch.nn.Module) -> None:
    """CLIP's initialisation; the unused projection is the identity."""
    for name, parameter in transformer.named_parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=0.02 if "embedding" not in name else 0.05)
        elif name.endswith("weight"):
            torch.nn.init.ones_(parameter)
        else:
            torch.nn.init.zeros_(parameter)
    torch.nn.init.eye_(transformer.text_projection.weight)


def tokens_of(tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Token numbers [n, 16] of single-chunk texts."""
    rows = []
    for text in texts:
        (chunk,) = tokenizer.clip_l.tokenize_with_weights(text)
        rows.append([token for token, _ in chunk])
    return torch.tensor(rows)


def encode(transformer: torch.nn.Module, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Context [n, 16, width] and pooled state [n, width], as ComfyUI's CLIP object gives them.

    ComfyUI's own forward adds in place, which autograd does not allow.
    """
    text = transformer.text_model
    x = text.embeddings.token_embedding(tokens) + text.embeddings.position_embedding.weight
    heads = text.encoder.layers[0].self_attn.heads
    for layer in text.encoder.layers:
        h = layer.layer_norm1(x)
        q, k, v = (
            getattr(layer.self_attn, f"{name}_proj")(h).unflatten(-1, (heads, -1)).transpose(1, 2) for name in "qkv"
        )
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + layer.self_attn.out_proj(h)
        x = x + layer.mlp(layer.layer_norm2(x))
    x = text.final_layer_norm(x)
    end = (tokens == text.eos_token_id).int().argmax(dim=-1)  # the first of them; the others are padding
    return x, x[torch.arange(len(x), device=x.device), end]


def flow_loss(
    parts: torch.nn.ModuleDict, x0: torch.Tensor, tokens: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Rectified flow (SD3, arXiv 2403.03206): x_t = (1 - s) x0 + s e, target e - x0, s logit-normal, shifted."""
    device = x0.device
    s = torch.sigmoid(torch.randn(len(x0), generator=generator, device=device))
    shift = 2.0  # between no shift and the sampler's 3: small pictures need less noise than large ones
    s = shift * s / (1 + (shift - 1) * s)
    noise = torch.randn(x0.shape, generator=generator, device=device)
    t = s.view(-1, 1, 1, 1)
    with torch.autocast(device.type, torch.bfloat16):
        context, pooled = encode(parts["text"], tokens)
        v = parts["model"]((1 - t) * x0 + t * noise, s * 1000, context=context, y=pooled)
    return F.mse_loss(v.float(), noise - x0)


@torch.no_grad()
def sample(parts: torch.nn.ModuleDict, tokens: torch.Tensor, empty: torch.Tensor, seed: int, side: int) -> torch.Tensor:
    """Euler samples [n, 16, side, side] with classifier-free guidance."""
    x = torch.randn(len(tokens), LATENT_CHANNELS, side, side, generator=torch.Generator().manual_seed(seed))
    x = x.to(tokens.device)
    s = torch.linspace(1, 0, STEPS + 1)
    s = SHIFT * s / (1 + (SHIFT - 1) * s)
    context, pooled = encode(parts["text"], torch.cat([tokens, empty.expand_as(tokens)]))
    for now, after in zip(s[:-1], s[1:], strict=True):
        t = (now * 1000).expand(2 * len(x)).to(x.device)
        good, bad = parts["model"](torch.cat([x, x]), t, context=context, y=pooled).chunk(2)
        x = x + (after - now) * (bad + CFG * (good - bad))
    return x


@torch.no_grad()
def decoded(vae: torch.nn.Module, z: torch.Tensor) -> torch.Tensor:
    """Pictures [n, 3, h, w], 0..1, of latents as the denoiser has them."""
    return torch.cat([vae.decode(some / SD3_SCALE + SD3_SHIFT).add(1).div(2).clamp(0, 1) for some in z.split(16)])


def write_sheet(pictures: torch.Tensor, path: Path) -> None:
    """Write 16 pictures in four rows."""
    rows = torch.cat([torch.cat(list(pictures[i : i + 4]), dim=2) for i in range(0, 16, 4)], dim=1)
    Image.fromarray((rows.permute(1, 2, 0) * 255).round().byte().cpu().numpy()).save(path)


def sheet_captions(seed: int) -> list[str]:
    """16 trained captions, chosen by the seed."""
    rng = random.Random(seed)
    return [caption(name, rng.choice(list(COLOURS))) for name in rng.sample(TRAINED_NAMES, 16)]


def new_parts(setup: Setup, depth: int, start: Path | None = None) -> torch.nn.ModuleDict:
    """Denoiser and text encoder, fresh or from the two files in a folder."""
    from ..text_encoder import DemoClipModel

    torch.manual_seed(0)
    text = DemoClipModel().clip_l.transformer.requires_grad_(True)
    initialise_text(text)
    parts = torch.nn.ModuleDict({"model": build(depth), "text": text})
    if start is not None:
        load_float(parts["model"], start / DENOISER)
        load_float(parts["text"], start / TEXT_ENCODER)
    return parts.float().to(setup.device)


def train(setup: Setup, limits: Limits, start: Path | None, depth: int = DEPTH) -> None:
    """Train, and write both files and two sheets of samples every half hour."""
    from ..text_encoder import DemoClipTokenizer

    tokenizer = DemoClipTokenizer()
    x0 = on_device(latents(setup), setup.device)
    tokens = tokens_of(tokenizer, captions(setup)).to(setup.device)
    empty = tokens_of(tokenizer, [""]).to(setup.device)
    parts = new_parts(setup, depth, start)
    log(", ".join(f"{name}: {sum(p.numel() for p in part.parameters()) / 1e6:.2f} M" for name, part in parts.items()))
    batch = setup.batch("denoiser", 128, 1024)

    def loss_of(generator: torch.Generator, cooling: bool) -> torch.Tensor:
        rows = torch.randint(len(tokens), (batch,), generator=generator, device=setup.device)
        dropped = torch.rand(batch, generator=generator, device=setup.device) < 0.1
        text = torch.where(dropped[:, None], empty, tokens[rows])
        return flow_loss(parts, rows_of(x0, rows, setup.device).float(), text, generator)

    def measure(average: torch.nn.Module) -> None:
        save_half(average["model"], setup.models / DENOISER)
        save_half(average["text"], setup.models / TEXT_ENCODER)
        vae = new_autoencoder(setup.device, setup.models / AUTOENCODER)
        for seed in (16, 17):
            show = tokens_of(tokenizer, sheet_captions(seed)).to(setup.device)
            pictures = decoded(vae, sample(average, show, empty, seed=1, side=setup.size // 8))
            write_sheet(pictures, setup.work / f"samples-{seed}.png")

    fit(
        "denoiser",
        parts,
        loss_of,
        setup,
        limits,
        learning_rate=min(2e-3, 1e-3 * math.sqrt(batch / 128)),
        weight_decay=0.01,
        seed=2,
        average_over=2000,
        measure=measure,
        measure_every=1800,
    )
