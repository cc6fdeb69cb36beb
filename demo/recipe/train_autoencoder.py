"""Train the demo's autoencoder (TAESD layout, 16 latent channels) and write it as ComfyUI's VAE Loader reads it.

python -m demo.recipe.train_autoencoder --comfyui DIR --assets DIR --phase 1 --minutes 15
python -m demo.recipe.train_autoencoder --comfyui DIR --assets DIR --phase 2 --minutes 15
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from .compose import asset_files, compose
from .vocabulary import COLOURS, HELD_OUT, UNICODE_NAMES

LATENT_CHANNELS = 16
# What ComfyUI's SD3 latent format subtracts and multiplies: the file carries their inverse, so latents reach the
# denoiser with mean 0 and deviation 1.
SD3_SHIFT, SD3_SCALE = 0.0609, 1.5305


def use_comfyui(folder: Path) -> None:
    """Make ComfyUI's modules importable, on the CPU where there is no accelerator."""
    sys.path.insert(0, str(folder))
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    args.use_pytorch_cross_attention = True


def pictures(assets: Path, count: int, seed: int) -> torch.Tensor:
    """uint8 [count, 3, 64, 64]: compositions of every emoji but the held-out ones."""
    import numpy as np

    held_out = {UNICODE_NAMES.get(name, name) for name in HELD_OUT}
    names = [name for name in asset_files(assets) if name not in held_out]
    rng = random.Random(seed)
    rows = [
        np.asarray(compose(assets, rng.choice(names), rng.choice(list(COLOURS)), rng, rotation=30.0))
        for _ in range(count)
    ]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()


def initialise(model: torch.nn.Module) -> None:
    """He initialisation; each residual branch starts at zero, so that the first model is a plain pyramid."""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    for module in model.modules():
        if type(module).__name__ == "Block":
            torch.nn.init.zeros_(module.conv[-1].weight)


# Blocks at the higher resolutions cost most of the time and add least on pictures this plain. They stay what
# `initialise` made them, relu(x), and the first phase leaves them out; the second trains those of the decoder.
IDLE_ENCODER, IDLE_DECODER = (1, 4, 5), (14, 15, 18)


def without(network: torch.nn.Sequential, idle: tuple[int, ...]) -> torch.nn.Sequential:
    """The network, sharing its layers, with the idle blocks replaced by what they compute."""
    return torch.nn.Sequential(*(torch.nn.ReLU() if index in idle else layer for index, layer in enumerate(network)))


def gradients(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Horizontal and vertical differences of [b, c, h, w]."""
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """L1 on pixels and on their differences."""
    return F.l1_loss(y, x) + sum(F.l1_loss(a, b) for a, b in zip(gradients(y), gradients(x), strict=True))


def train(
    encoder: torch.nn.Module,
    decoder: torch.nn.Module,
    data: torch.Tensor,
    minutes: float,
    learning_rate: float,
    generator: torch.Generator,
    train_encoder: bool,
) -> None:
    """32 px crops first (cheaper), whole pictures at the end. With a frozen encoder only the decoder learns."""
    networks = torch.nn.ModuleList([encoder, decoder]).to(memory_format=torch.channels_last)
    encoder.requires_grad_(train_encoder)
    parameters = [p for p in networks.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=1e-4, fused=True)
    started, step, smooth = time.monotonic(), 0, 1.0
    while (done := (time.monotonic() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1, (step + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))
        crop, batch = (32, 16) if done < 0.7 and train_encoder else (64, 6)
        rows = torch.randint(len(data), (batch,), generator=generator)
        top, left = (int(torch.randint(64 - crop + 1, (), generator=generator)) for _ in range(2))
        x = (
            data[rows, :, top : top + crop, left : left + crop]
            .float()
            .div(255)
            .contiguous(memory_format=torch.channels_last)
        )
        with torch.autocast("cpu", torch.bfloat16):
            z = encoder(x)
            y = decoder(z + 0.05 * torch.randn(z.shape, generator=generator))
        y, z = y.float(), z.float()
        y.register_hook(lambda g: g.contiguous(memory_format=torch.channels_last))  # keeps the fast convolutions
        loss = reconstruction_loss(y, x) + 2e-3 * z.square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        smooth += 0.02 * (loss.item() - smooth)
        step += 1
        if step % 100 == 0:
            print(f"{step} steps, {time.monotonic() - started:.0f} s, loss {smooth:.4f}", flush=True)


@torch.no_grad()
def normalise(model: torch.nn.Module, data: torch.Tensor) -> None:
    """Set vae_scale and vae_shift so that latents have mean 0 and deviation 1 behind ComfyUI's SD3 latent format."""
    z = torch.cat([model.taesd_encoder(x.float() / 255) for x in data.split(64)])
    scale = z.std() * SD3_SCALE
    model.vae_scale.copy_(scale)
    model.vae_shift.copy_(SD3_SHIFT - z.mean() / scale)


@torch.no_grad()
def report(model: torch.nn.Module, data: torch.Tensor, folder: Path) -> None:
    """Print the reconstruction error and write eight pictures above their reconstructions."""
    x = data.float() / 255
    y = model.decode(model.encode(x * 2 - 1)).add(1).div(2).clamp(0, 1)
    print(f"PSNR {-10 * math.log10(F.mse_loss(y, x)):.2f} dB on {len(x)} pictures")
    rows = torch.cat([torch.cat(list(part[:8]), dim=2) for part in (x, y)], dim=1)
    Image.fromarray((rows.permute(1, 2, 0) * 255).round().byte().numpy()).resize(
        (8 * 128, 256), Image.Resampling.NEAREST
    ).save(folder / "autoencoder.png")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--phase", type=int, choices=(1, 2), default=1, help="2: only the decoder, from phase 1")
    parser.add_argument("--resume", action="store_true", help="go on with phase 1 from its file")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "models")
    args = parser.parse_args()
    use_comfyui(args.comfyui)
    from comfy.taesd.taesd import TAESD
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = TAESD(latent_channels=LATENT_CHANNELS)
    file = args.out / "vae" / "deft_demo_vae.safetensors"
    data, check = pictures(args.assets, 8000, seed=1), pictures(args.assets, 256, seed=2)
    if args.phase == 2 or args.resume:
        model.load_state_dict({key: value.float() for key, value in load_file(file).items()})
    else:
        initialise(model)
    if args.phase == 1:
        train(
            without(model.taesd_encoder, IDLE_ENCODER),
            without(model.taesd_decoder, IDLE_DECODER),
            data,
            args.minutes,
            2e-3,
            generator,
            train_encoder=True,
        )
        normalise(model, check)
    else:
        train(
            without(model.taesd_encoder, IDLE_ENCODER),
            model.taesd_decoder,
            data,
            args.minutes,
            6e-4,
            generator,
            train_encoder=False,
        )
    (args.out / "vae").mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().to(torch.float16).contiguous() for key, value in model.state_dict().items()}
    save_file(state, file)
    report(model, check, args.out.parent)


if __name__ == "__main__":
    main()
