"""The training objective that the model itself was trained with.

ComfyUI's model_sampling turns a network's output into the clean latent: x0 = a(s) x_t + b(s) output, for every kind of
model it knows (epsilon, v, flow, EDM ...). Solved for the output, this gives the target without a case for each kind:
noise for epsilon, sqrt(abar) noise - sqrt(1 - abar) x0 for v, noise - x0 for flow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def raw_output(model_sampling: Any) -> Iterator[None]:
    """Let the model return the network's output instead of the clean latent."""
    model_sampling.calculate_denoised = lambda sigma, output, x: output
    try:
        yield
    finally:
        del model_sampling.calculate_denoised


def target(model_sampling: Any, sigma: Tensor, x0: Tensor, xt: Tensor) -> Tensor:
    """What the network should have returned for x_t [n, ...] at sigma [n], given x0."""
    one = torch.ones([len(sigma)] + [1] * (x0.ndim - 1), device=x0.device, dtype=torch.float64)
    denoised = type(model_sampling).calculate_denoised
    sigma = sigma.double()
    a = denoised(model_sampling, sigma, torch.zeros_like(one), one)
    b = denoised(model_sampling, sigma, one, torch.zeros_like(one))
    return ((x0.double() - a * xt.double()) / b).float()


def sample_sigmas(model_sampling: Any, count: int, generator: torch.Generator) -> Tensor:
    """Noise levels [count]: uniform over the model's own steps, or logit-normal with the model's shift for flow models.

    Sources: DDPM (arXiv 2006.11239) section 3.2; SD3 (arXiv 2403.03206) section 3.1.
    """
    if is_flow(model_sampling):
        u = torch.sigmoid(torch.randn(count, generator=generator))
        return torch.tensor([float(model_sampling.percent_to_sigma(1 - float(p))) for p in u])
    sigmas = model_sampling.sigmas
    return sigmas.detach().cpu().float()[torch.randint(len(sigmas), (count,), generator=generator)]


def is_flow(model_sampling: Any) -> bool:
    """Whether the model is a rectified flow: its pure noise has level 1."""
    return abs(float(model_sampling.sigma_max) - 1.0) < 1e-3


def loss(
    model: Any, x0: Tensor, noise: Tensor, sigma: Tensor, conds: dict[str, Any], transformer_options: dict[str, Any]
) -> Tensor:
    """Mean squared error [n] of the network's output against its native target.

    x0 and noise are [n, ...] as the network sees latents (behind process_latent_in), sigma is [n].
    """
    sampling = model.model_sampling
    xt = sampling.noise_scaling(sigma, noise.clone(), x0)
    with raw_output(sampling):
        output = model.apply_model(xt, sigma, transformer_options=transformer_options, **conds)
    return (output.float() - target(sampling, sigma, x0, xt)).square().flatten(1).mean(1)
