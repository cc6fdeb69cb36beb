"""The demo's autoencoder: TAESD's layout with 16 latent channels, as ComfyUI's Load VAE reads it.

The number of channels is that of ComfyUI's SD3 latents, which the denoiser's layout fixes; the widths are TAESD's.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from .prepare import held_back_layers, on_colours, palette, seen_names, wide_layers
from .training import Limits, Setup, fit, load_float, on_device, rows_of, save_half

LATENT_CHANNELS = 16
# What ComfyUI's SD3 latent format subtracts and multiplies: the file carries their inverse, so latents reach the
# denoiser with mean 0 and deviation 1.
SD3_SHIFT, SD3_SCALE = 0.0609, 1.5305
# Noise that the decoder has to stand, as the denoiser's latents are never exact, and the weight of the squares of the
# latents, which keeps them off the decoder's clamp. Larger ones cost sharpness: 0.05 and 2e-3 ended near 31 dB.
NOISE, PENALTY = 0.02, 1e-4
FILE = Path("vae") / "deft_demo_vae.safetensors"


def use_comfyui(folder: Path, device: torch.device) -> None:
    """Make ComfyUI's modules importable, on the CPU unless the device is another."""
    sys.path.insert(0, str(folder))
    from comfy.cli_args import args

    args.cpu = device.type == "cpu"
    args.use_pytorch_cross_attention = True


def initialise(model: torch.nn.Module) -> None:
    """Initialise the weights as He et al. do; residual branches start at zero: the first model is a plain pyramid."""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    for module in model.modules():
        if type(module).__name__ == "Block":
            torch.nn.init.zeros_(module.conv[-1].weight)


# Blocks at the higher resolutions cost most of the time. On the CPU they stay what `initialise` made them, relu(x), and
# are left out of the computation.
IDLE_ENCODER, IDLE_DECODER = (1, 4, 5), (14, 15, 18)


def without(network: torch.nn.Sequential, idle: tuple[int, ...]) -> torch.nn.Sequential:
    """The network, sharing its layers, with the idle blocks replaced by what they compute."""
    return torch.nn.Sequential(*(torch.nn.ReLU() if index in idle else layer for index, layer in enumerate(network)))


def at_work(network: torch.nn.Sequential) -> torch.nn.Sequential:
    """The network without the blocks that still are relu(x)."""
    idle = (
        index
        for index, layer in enumerate(network)
        if type(layer).__name__ == "Block" and not layer.conv[-1].weight.any() and not layer.conv[-1].bias.any()
    )
    return without(network, tuple(idle))


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """The layout in which convolutions are fast."""
    return x.contiguous(memory_format=torch.channels_last)


def new_autoencoder(device: torch.device, file: Path | None = None) -> torch.nn.Module:
    """TAESD with the file's weights, or with fresh ones."""
    from comfy.taesd.taesd import TAESD

    model = TAESD(latent_channels=LATENT_CHANNELS)
    torch.manual_seed(0)
    initialise(model)
    if file is not None:
        load_float(model, file)
    return model.to(device, memory_format=torch.channels_last)


def check_pictures(setup: Setup, held_out: bool = False) -> Iterator[torch.Tensor]:
    """Compositions that were never trained on, [16, 3, size, size] at a time, 0..1."""
    layers = held_back_layers(setup, held_out)
    rows = torch.from_numpy(layers.reshape(-1, *layers.shape[2:]).copy())
    generator = torch.Generator().manual_seed(2)
    colours = palette()
    chosen = colours[torch.randint(len(colours), (len(rows),), generator=generator)]
    for part in on_colours(rows, chosen, generator).split(16):
        yield channels_last(part.to(setup.device))


@torch.no_grad()
def psnr(encoder: torch.nn.Module, decoder: torch.nn.Module, pictures: Iterator[torch.Tensor]) -> float:
    """Peak signal to noise ratio in dB over all pixels of the pictures."""
    errors = [F.mse_loss(decoder(encoder(x)).clamp(0, 1), x).item() for x in pictures]
    return -10 * math.log10(sum(errors) / len(errors))


@torch.no_grad()
def normalise(model: torch.nn.Module, pictures: Iterator[torch.Tensor]) -> None:
    """Set vae_scale and vae_shift so that latents have mean 0 and deviation 1 behind ComfyUI's SD3 latent format."""
    z = torch.cat([model.taesd_encoder(x).flatten() for x in pictures])
    scale = z.std() * SD3_SCALE
    model.vae_scale.copy_(scale)
    model.vae_shift.copy_(SD3_SHIFT - z.mean() / scale)


@torch.no_grad()
def write_sheet(encoder: torch.nn.Module, decoder: torch.nn.Module, setup: Setup) -> None:
    """Eight pictures above their reconstructions: work/autoencoder.png."""
    x = next(check_pictures(setup))[:8]
    rows = torch.cat([torch.cat(list(part), dim=2) for part in (x, decoder(encoder(x)).clamp(0, 1))], dim=1)
    Image.fromarray((rows.permute(1, 2, 0) * 255).round().byte().cpu().numpy()).save(setup.work / "autoencoder.png")


def train(setup: Setup, limits: Limits, start: Path | None, full: bool) -> None:
    """Train, write the model and its reconstructions. `full` trains the idle blocks, too."""
    file = start / FILE if start is not None else None
    model = new_autoencoder(setup.device, file)
    idle = ((), ()) if full else (IDLE_ENCODER, IDLE_DECODER)
    networks = torch.nn.ModuleDict(
        {"encoder": without(model.taesd_encoder, idle[0]), "decoder": without(model.taesd_decoder, idle[1])}
    )
    layers = on_device(wide_layers(setup), setup.device)
    seen = torch.tensor(seen_names(setup.assets), device=setup.device)
    colours = palette(setup.device)
    cuda = setup.device.type == "cuda"
    batch, crop = setup.batch("autoencoder", 8, 64), setup.size if cuda else min(64, setup.size)

    def loss_of(generator: torch.Generator, cooling: bool) -> torch.Tensor:
        def draw(high: int, count: int = batch) -> torch.Tensor:
            return torch.randint(high, (count,), generator=generator, device=setup.device)

        rows = rows_of(layers, (seen[draw(len(seen))], draw(layers.shape[1])), setup.device)
        top, left = (int(draw(setup.size - crop + 1, 1)) for _ in range(2))
        rows = rows[..., top : top + crop, left : left + crop]
        x = channels_last(on_colours(rows, colours[draw(len(colours))], generator))
        with setup.autocast():
            z = networks["encoder"](x)
            y = networks["decoder"](z + NOISE * torch.randn(z.shape, generator=generator, device=setup.device))
        y, z = y.float(), z.float()
        y.register_hook(channels_last)  # keeps the fast convolutions
        return 10 * F.mse_loss(y, x) + PENALTY * z.square().mean()

    def write(average: torch.nn.Module) -> None:
        finished = new_autoencoder(setup.device, file)
        for part, network in (("encoder", finished.taesd_encoder), ("decoder", finished.taesd_decoder)):
            network.load_state_dict(average[part].state_dict(), strict=full)
        normalise(finished, check_pictures(setup))
        save_half(finished, setup.models / FILE)

    def measure(average: torch.nn.Module) -> float:
        write_sheet(average["encoder"], average["decoder"], setup)
        write(average)
        return psnr(average["encoder"], average["decoder"], check_pictures(setup))

    fit(
        "autoencoder",
        networks,
        loss_of,
        setup,
        limits,
        learning_rate=min(1e-3, 5e-4 * math.sqrt(batch / 8)),
        weight_decay=1e-4,
        seed=1,
        measure=measure,
    )


@torch.no_grad()
def report(setup: Setup) -> str:
    """The error of the written file, as ComfyUI uses it."""
    model = new_autoencoder(setup.device, setup.models / FILE)

    def encoder(x: torch.Tensor) -> torch.Tensor:
        return model.encode(x * 2 - 1)

    def decoder(z: torch.Tensor) -> torch.Tensor:
        return model.decode(z).add(1).div(2)

    seen, held_out = (psnr(encoder, decoder, check_pictures(setup, which)) for which in (False, True))
    return f"autoencoder: {seen:.2f} dB on new compositions, {held_out:.2f} dB on held-out objects"
