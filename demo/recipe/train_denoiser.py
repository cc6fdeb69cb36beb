"""Train the demo's denoiser (SD3 layout, depth 3) together with its text encoder, on captioned compositions.

    python -m demo.recipe.train_denoiser --comfyui DIR --assets DIR --minutes 70

Needs deft_demo_vae.safetensors (train_autoencoder). Writes the two model files and a sheet of 16 samples.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .compose import compose
from .train_autoencoder import IDLE_ENCODER, LATENT_CHANNELS, SD3_SCALE, SD3_SHIFT, use_comfyui, without
from .vocabulary import COLOURS, TRAINED, caption

DEPTH = 3
SHIFT = 3.0  # of ComfyUI's SD3 sampling


def dataset(assets: Path, vae: torch.nn.Module, per_caption: int, seed: int) -> tuple[torch.Tensor, list[str]]:
    """Latents [n, 16, 8, 8] as the denoiser sees them (mean 0, deviation 1) and their captions."""
    rng = random.Random(seed)
    captions, latents, rows = [], [], []
    encoder = without(vae.taesd_encoder, IDLE_ENCODER).to(memory_format=torch.channels_last)
    for name in TRAINED:
        for colour in COLOURS:
            for _ in range(per_caption):
                captions.append(caption(name, colour))
                rows.append(np.asarray(compose(assets, name, colour, rng)))
        if len(rows) >= 256 or name == TRAINED[-1]:
            x = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float().div(255)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                z = encoder(x.contiguous(memory_format=torch.channels_last)).float()
            latents.append(((z / vae.vae_scale + vae.vae_shift - SD3_SHIFT) * SD3_SCALE).detach())
            rows = []
    return torch.cat(latents).contiguous(), captions


def build(clip: object) -> torch.nn.Module:
    """The SD3 transformer of depth 3 with every parameter set, adaLN and output layers at zero."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper, get_2d_sincos_pos_embed

    from ..text_encoder import WIDTH

    hidden = 64 * DEPTH
    model = OpenAISignatureMMDITWrapper(
        input_size=None,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        depth=DEPTH,
        adm_in_channels=WIDTH,
        num_patches=64,
        pos_embed_max_size=8,
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
    model.pos_embed.copy_(torch.from_numpy(get_2d_sincos_pos_embed(hidden, 8)).float()[None])
    return model


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


def tokens_of(tokenizer: object, texts: list[str]) -> torch.Tensor:
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
    return x, x[torch.arange(len(x)), end]


def flow_loss(
    model: torch.nn.Module,
    transformer: torch.nn.Module,
    x0: torch.Tensor,
    tokens: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Rectified flow (SD3, arXiv 2403.03206): x_t = (1 - s) x0 + s e, target e - x0, s logit-normal, shifted."""
    s = torch.sigmoid(torch.randn(len(x0), generator=generator))
    shift = 1.8  # between no shift and the sampler's 3: 64 px pictures need less noise than 1024 px ones
    s = shift * s / (1 + (shift - 1) * s)
    noise = torch.randn(x0.shape, generator=generator)
    t = s.view(-1, 1, 1, 1)
    context, pooled = encode(transformer, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        v = model((1 - t) * x0 + t * noise, s * 1000, context=context, y=pooled)
    return F.mse_loss(v.float(), noise - x0)


@torch.no_grad()
def sample(
    model: torch.nn.Module,
    transformer: torch.nn.Module,
    tokens: torch.Tensor,
    empty: torch.Tensor,
    seed: int,
    steps: int = 24,
    cfg: float = 4.0,
) -> torch.Tensor:
    """Euler samples [n, 16, 8, 8] with classifier-free guidance."""
    x = torch.randn(len(tokens), LATENT_CHANNELS, 8, 8, generator=torch.Generator().manual_seed(seed))
    s = torch.linspace(1, 0, steps + 1)
    s = SHIFT * s / (1 + (SHIFT - 1) * s)
    context, pooled = encode(transformer, torch.cat([tokens, empty.expand_as(tokens)]))
    for now, after in zip(s[:-1], s[1:], strict=True):
        v = model(torch.cat([x, x]), (now * 1000).expand(2 * len(x)), context=context, y=pooled)
        good, bad = v.chunk(2)
        x = x + (after - now) * (bad + cfg * (good - bad))
    return x


def sheet(vae: torch.nn.Module, latents: torch.Tensor, path: Path) -> None:
    """Write 16 decoded samples as a 4 x 4 picture."""
    with torch.no_grad():
        x = vae.decode(latents / SD3_SCALE + SD3_SHIFT).add(1).div(2).clamp(0, 1)
    rows = torch.cat([torch.cat(list(x[i : i + 4]), dim=2) for i in range(0, 16, 4)], dim=1)
    Image.fromarray((rows.permute(1, 2, 0) * 255).round().byte().numpy()).resize(
        (512, 512), Image.Resampling.BICUBIC
    ).save(path)


def sheet_captions() -> list[str]:
    """The 16 trained captions of the sheet, chosen by a fixed seed."""
    rng = random.Random(16)
    return [caption(name, rng.choice(list(COLOURS))) for name in rng.sample(TRAINED, 16)]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=70)
    parser.add_argument("--per-caption", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1.2e-3, help="the highest")
    parser.add_argument("--resume", action="store_true", help="go on from the files of an earlier run")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "models")
    parser.add_argument("--cache", type=Path, help="file to keep the encoded data set in")
    args = parser.parse_args()
    use_comfyui(args.comfyui)
    from comfy.taesd.taesd import TAESD
    from safetensors.torch import load_file, save_file

    from ..text_encoder import DemoClipModel, DemoClipTokenizer

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    vae = TAESD(latent_channels=LATENT_CHANNELS)
    vae.load_state_dict({k: v.float() for k, v in load_file(args.out / "vae" / "deft_demo_vae.safetensors").items()})
    if args.cache and args.cache.is_file():
        latents, captions = torch.load(args.cache, weights_only=True)
    else:
        latents, captions = dataset(args.assets, vae, args.per_caption, seed=3)
        if args.cache:
            torch.save((latents, captions), args.cache)
    print(f"{len(latents)} latents, mean {latents.mean():.3f}, deviation {latents.std():.3f}", flush=True)

    clip, tokenizer = DemoClipModel(), DemoClipTokenizer()
    transformer = clip.clip_l.transformer.requires_grad_(True)
    initialise_text(transformer)
    model = build(clip)
    files = {
        "model": args.out / "diffusion_models" / "deft_demo_denoiser.safetensors",
        "text": args.out / "deft_demo_text_encoder.safetensors",
    }
    if args.resume:
        for part, file in ((model, files["model"]), (transformer, files["text"])):
            part.load_state_dict({key: value.float() for key, value in load_file(file).items()})
    tokens, empty = tokens_of(tokenizer, captions), tokens_of(tokenizer, [""])
    show = tokens_of(tokenizer, sheet_captions())
    parts = torch.nn.ModuleDict({"model": model, "text": transformer})
    average = copy.deepcopy(parts).requires_grad_(False)
    optimizer = torch.optim.AdamW(parts.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M denoiser, "
        f"{sum(p.numel() for p in transformer.parameters()) / 1e6:.2f} M text encoder",
        flush=True,
    )

    def write() -> None:
        for name, file in files.items():
            file.parent.mkdir(exist_ok=True)
            save_file({k: v.to(torch.float16).contiguous() for k, v in average[name].state_dict().items()}, file)
        sheet(vae, sample(average["model"], average["text"], show, empty, seed=1), args.out.parent / "samples.png")

    started, step, smooth, written = time.monotonic(), 0, 1.0, 0.0
    while (done := (time.monotonic() - started) / (60 * args.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = (
                args.learning_rate * min(1, (step + 1) / 200) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * done)))
            )
        rows = torch.randint(len(latents), (args.batch,), generator=generator)
        text = tokens[rows]
        dropped = torch.rand(args.batch, generator=generator) < 0.1
        text = torch.where(dropped[:, None], empty, text)
        loss = flow_loss(model, transformer, latents[rows], text, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        decay = min(0.998, (step + 1) / (step + 20))
        with torch.no_grad():
            for kept, new in zip(average.parameters(), parts.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        smooth += 0.02 * (loss.item() - smooth)
        step += 1
        if step % 50 == 0:
            print(f"{step} steps, {time.monotonic() - started:.0f} s, loss {smooth:.4f}", flush=True)
        if done - written > 0.1:
            written = done
            write()
    write()


if __name__ == "__main__":
    main()
