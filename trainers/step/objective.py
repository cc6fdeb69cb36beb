"""The training objective that the model itself was trained with, its noise levels, weights and losses.

ComfyUI's model_sampling turns a network's output into the clean latent: x0 = a(s) x_t + b(s) output, for every kind of
model it knows (epsilon, v, flow, EDM ...). Solved for the output, this gives the target without a case for each kind:
noise for epsilon, sqrt(abar) noise - sqrt(1 - abar) x0 for v, noise - x0 for flow.

A weight w on the error of x0 is b^2 w on the error of the output, so one formula serves all kinds (see
`settings/formulas.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..settings.formulas import LOSSES, TIMESTEPS, WEIGHTINGS, logit_normal, uniform

ValueT = TypeVar("ValueT")

MOST_DRAWS = 1000  # of noise levels, until all lie in a caption's range


@contextmanager
def raw_output(model_sampling: Any) -> Iterator[None]:
    """Let the model return the network's output instead of the clean latent."""
    model_sampling.calculate_denoised = lambda sigma, output, x: output
    try:
        yield
    finally:
        del model_sampling.calculate_denoised


def _linear(function: Callable[[Tensor, Tensor], Tensor], sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The coefficients [n] of a function that is linear in both of its arguments."""
    one, zero = torch.ones_like(sigma), torch.zeros_like(sigma)
    return function(one.clone(), zero.clone()), function(zero, one)  # which may write into them


def _denoised(model_sampling: Any, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """a and b [n] of x0 = a x_t + b output, at sigma [n]."""
    denoised = type(model_sampling).calculate_denoised
    return _linear(lambda xt, output: denoised(model_sampling, sigma, output, xt), sigma)


def _noised(model_sampling: Any, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The coefficients [n] of x0 and noise in x_t, at sigma [n]."""
    return _linear(lambda x0, noise: model_sampling.noise_scaling(sigma, noise, x0), sigma)


def _exact(sigma: Tensor) -> Tensor:
    """Noise levels in float64, on the CPU: some devices do not have it."""
    return sigma.cpu().double()


def target(model_sampling: Any, sigma: Tensor, x0: Tensor, noise: Tensor) -> Tensor:
    """The output that the network should give at sigma [n] for x0 [n, ...] and noise of the same shape.

    With x_t = p x0 + q noise and x0 = a x_t + b output it is ((1 - a p) x0 - a q noise) / b.
    """
    level = _exact(sigma)
    a, b = _denoised(model_sampling, level)
    p, q = _noised(model_sampling, level)
    both = torch.stack([(1 - a * p) / b, -a * q / b]).to(x0)
    of_x0, of_noise = (value.view(-1, *[1] * (x0.ndim - 1)) for value in both)
    return of_x0 * x0 + of_noise * noise


# --------------------------------------------------------------------------------------------------------- noise levels

# What has been read of a model's noise levels, with the tensor that it was read of.
_READ: WeakKeyDictionary[nn.Module, tuple[Tensor, dict[str, Any]]] = WeakKeyDictionary()


def _once(model_sampling: Any, name: str, read: Callable[[], ValueT]) -> ValueT:
    """What `read` gives of a model's noise levels, kept as long as they are the same: a GPU would be waited for."""
    own = getattr(model_sampling, "sigmas", None)
    if not isinstance(model_sampling, nn.Module) or not isinstance(own, Tensor):
        return read()
    of, values = _READ.get(model_sampling, (None, {}))
    if of is not own:
        values = {}
        _READ[model_sampling] = own, values
    if name not in values:
        values[name] = read()
    value: ValueT = values[name]
    return value


def _levels(model_sampling: Any) -> Tensor:
    """The noise levels of a model's steps, float32 on the CPU."""
    return _once(model_sampling, "levels", lambda: model_sampling.sigmas.detach().cpu().float())


def sample_sigmas(
    model_sampling: Any,
    count: int,
    generator: torch.Generator,
    timesteps: str = "auto",
    shift: float | Tensor = 0.0,
    within: tuple[float, float] | None = None,
) -> Tensor:
    """Noise levels [count].

    Flow models: u with the model's own shift, or with `shift` if it is not 0, one for all or one each [count]:
    sigma = s u / (1 + (s - 1) u) (SD3's paper, section 5.3.2). Others: u of the model's own steps (DDPM, arXiv
    2006.11239, section 3.2), shifted only if asked for. `within`: the lowest and the highest sigma; levels outside are
    drawn again.

    Raises:
        ValueError: hardly any level lies within.
    """
    sigmas = _drawn(model_sampling, count, generator, timesteps, shift)
    if within is None:
        return sigmas
    low, high = within
    for _ in range(MOST_DRAWS):
        outside = ((sigmas < low) | (sigmas > high)).nonzero().flatten()
        if not len(outside):
            return sigmas
        theirs = shift[outside] if isinstance(shift, Tensor) else shift
        sigmas[outside] = _drawn(model_sampling, len(outside), generator, timesteps, theirs)
    raise ValueError(
        f"Almost none of the trained noise levels are between {low:.4g} and {high:.4g}, the timestep range of a "
        "caption or of the settings lowest_noise and highest_noise: widen that range."
    )


def _drawn(
    model_sampling: Any, count: int, generator: torch.Generator, timesteps: str, shift: float | Tensor
) -> Tensor:
    """Noise levels [count] of the whole range."""
    flow = is_flow(model_sampling)
    draw = TIMESTEPS[timesteps].draw
    shifted = isinstance(shift, Tensor) or shift != 0
    if draw is None and not flow and not shifted:
        sigmas = _levels(model_sampling)
        return sigmas[torch.randint(len(sigmas), (count,), generator=generator)]
    if draw is None:
        draw = logit_normal if flow else uniform
    u = draw(count, generator)
    if shifted:
        u = shift * u / (1 + (shift - 1) * u)
    if not flow:
        sigmas = _levels(model_sampling)
        return sigmas[(u * len(sigmas)).long().clamp(0, len(sigmas) - 1)]
    if _is_unbounded(model_sampling):
        # Its maker draws log-normal sigmas, which are logit-normal shares, and has no shift.
        smallest = _once(model_sampling, "smallest", lambda: float(model_sampling.sigma_min))
        return (u / (1 - u)).clamp(smallest, _largest(model_sampling))
    return u if shifted else torch.tensor([float(model_sampling.percent_to_sigma(1 - float(p))) for p in u])


def sigma_of(model_sampling: Any, share: float) -> float:
    """The noise level of a share of noise in 0 to 1: t of flow models, a place among the steps of others."""
    if not is_flow(model_sampling):
        steps = len(model_sampling.sigmas)
        return float(model_sampling.sigmas[min(int(share * steps), steps - 1)])
    if not _is_unbounded(model_sampling):
        return share
    return share / (1 - share) if share < 1 else math.inf


def _is_unbounded(model_sampling: Any) -> bool:
    """Whether noise levels go beyond 1."""
    return _largest(model_sampling) > 1.001


def _largest(model_sampling: Any) -> float:
    """The largest noise level."""
    return _once(model_sampling, "largest", lambda: float(model_sampling.sigma_max))


def share_of_noise(model_sampling: Any, sigma: Tensor) -> Tensor:
    """t [n] of a flow model, whose network sees (1 - t) x0 + t noise."""
    return sigma / (1 + sigma) if _is_unbounded(model_sampling) else sigma


def is_flow(model_sampling: Any) -> bool:
    """Whether the model is a rectified flow: its network sees (1 - t) x0 + t noise and gives noise - x0.

    t is sigma, or sigma / (1 + sigma) where sigma goes beyond 1 (Cosmos Predict 2). Noise may have a scale of its own.
    """
    sigma = torch.tensor([0.25, 0.75], dtype=torch.float64)
    p, q = _linear(
        lambda x0, noise: model_sampling.calculate_input(sigma, model_sampling.noise_scaling(sigma, noise, x0)), sigma
    )
    t = share_of_noise(model_sampling, sigma)
    return torch.allclose(p, 1 - t) and torch.allclose(q, t * getattr(model_sampling, "noise_scale", 1.0))


# -------------------------------------------------------------------------------------------------------------- weights


def weights(model_sampling: Any, sigma: Tensor, weighting: str, gamma: float = 5.0) -> Tensor:
    """Weights [n] of the output's error at sigma [n], float32 on sigma's device.

    Raises:
        ValueError: a weighting of flow models on another model.
    """
    record = WEIGHTINGS[weighting]
    if record.flow_only and not is_flow(model_sampling):
        others = ", ".join(name for name, other in WEIGHTINGS.items() if not other.flow_only)
        raise ValueError(f"The weighting {weighting} is for flow models (SD3, Flux ...): choose one of {others}.")
    level = _exact(sigma)
    signal, noise = _noised(model_sampling, level)
    _, b = _denoised(model_sampling, level)
    share = share_of_noise(model_sampling, level)
    return record.formula((signal / noise).square(), b, share, gamma).float().to(sigma.device)


# --------------------------------------------------------------------------------------------------------------- losses


def loss(
    model: Any,
    x0: Tensor,
    noise: Tensor,
    sigma: Tensor,
    conds: dict[str, Any],
    transformer_options: dict[str, Any],
    kind: str = "mse",
    huber: float = 0.1,
    mask: Tensor | None = None,
) -> Tensor:
    """Loss [n] of the network's output against its native target.

    x0 and noise are [n, c, ...] as the network sees latents (behind process_latent_in), sigma is [n], on any device.
    A mask
    [n, 1, ...] of the latents' size weights the places; it is normalised, so that a small mask does not train less.
    """
    sampling = model.model_sampling
    native = target(sampling, sigma, x0, noise)  # sigma may be on the CPU, where this computes: no GPU has to wait
    sigma = sigma.to(x0.device)
    xt = sampling.noise_scaling(sigma, noise.clone(), x0)
    # As the sampler passes it. Mean-flow models look up the level that they go to there: the same one is plain flow.
    transformer_options = transformer_options | {"sigmas": sigma, "sample_sigmas": sigma.repeat_interleave(2)}
    with raw_output(sampling):
        output = model.apply_model(xt, sigma, transformer_options=transformer_options, **conds)
    errors = LOSSES[kind].formula(output.float(), native, huber)
    if mask is None:
        return errors.flatten(1).mean(1)
    mask = mask.to(errors)
    return (errors * mask).flatten(1).sum(1) / (mask.flatten(1).sum(1) * errors.shape[1]).clamp(min=1e-6)


def takes_one(network: Any) -> bool:
    """Whether a network has to see pictures one by one: of mean flow, ComfyUI has one target level for a batch."""
    return getattr(network, "time_r_in", None) is not None


def latent_mask(mask: Tensor, size: tuple[int, ...]) -> Tensor:
    """A picture's mask [1, 1, h, w] or [1, h, w] as one of a latent [c, ..., h, w]: [1, ..., h, w], averaged."""
    flat = mask.float().reshape(-1, 1, *mask.shape[-2:])[:1]
    small = F.interpolate(flat, size=size[-2:], mode="area")[0]
    return small if len(size) == 3 else small[:, None].expand(1, *size[1:]).contiguous()
