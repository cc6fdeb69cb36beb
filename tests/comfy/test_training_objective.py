"""The objective against diffusers: loss and adapter gradients, weightings, noise levels, schedules, moving average."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deft_pack.trainers.settings.optimizers import OPTIMIZERS

from . import models
from .architectures import comfyui_sd3, diffusers_sd3
from .pack import Pack
from .test_training_runs import as_loaded, settings

SD3_LAYERS = r"(attn\.proj|mlp\.fc[12])$"  # ComfyUI's SD3 has the others fused


def scheduler() -> Any:
    """The noise scheduler of SD 1 and 2."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)


# -------------------------------------------------------------------------------------- loss and adapter gradients


def pair(kind: str, names: Any) -> tuple[nn.Module, Any]:
    """diffusers' network and ComfyUI's model with its weights."""
    if kind == "flow":
        from .test_architectures import ARCHITECTURES, NAMES, convert

        network, model = diffusers_sd3(), comfyui_sd3()
        convert(ARCHITECTURES[NAMES.index("SD3")], network, model, names)
        return network, model
    network = models.diffusers_sd15()
    model = models.comfy_sd15(network)
    if kind == "v":
        other = models.unet("v")
        other.model.diffusion_model.load_state_dict(model.model.diffusion_model.state_dict())
        model = other
    return network, model


def with_peft(network: nn.Module, method: str, paths: list[str]) -> nn.Module:
    """PEFT's adapter on the layers, with values that change something."""
    import peft

    config = (
        peft.LoraConfig(r=4, lora_alpha=6, target_modules=paths)
        if method == "lora"
        else peft.DeftConfig(r=4, alpha=6, decomposition_method="qr", target_modules=paths)
    )
    wrapped = peft.get_peft_model(network, config)
    source = models.generator(5)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=source))
            elif "deft_R" in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=source))
    return wrapped


def peft_values(wrapped: nn.Module, path: str, method: str) -> list[nn.Parameter]:
    """The trained tensors of a layer: A and B, or P and R."""
    kinds = ("lora_A", "lora_B") if method == "lora" else ("deft_P", "deft_R")
    return [next(p for name, p in wrapped.named_parameters() if f"{path}.{kind}." in name) for kind in kinds]


@pytest.mark.parametrize("method", ["lora", "deft"])
@pytest.mark.parametrize("kind", ["epsilon", "v", "flow"])
def test_loss_and_gradients_are_those_of_diffusers_training(pack: Pack, kind: str, method: str) -> None:
    """What diffusers' training scripts compute, with PEFT's adapter in diffusers' network, on the same numbers."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    network, model = pair(kind, pack.names)
    chosen = settings(
        pack,
        method=method,
        rank=4,
        alpha=6.0,
        batch_size=2,
        layers="all linear" if kind == "flow" else "paper (to_q, to_k, to_v, to_out.0)",
        pattern=SD3_LAYERS if kind == "flow" else "",
    )
    channels = 16 if kind == "flow" else 4
    x0, noise = models.random(2, channels, 8, 8, seed=1), models.random(2, channels, 8, 8, seed=2)
    text, pooled = models.random(1, 7, models.TOKEN_WIDTH, seed=3), models.random(1, models.POOLED_WIDTH, seed=4)
    with torch.inference_mode(False), torch.enable_grad():
        latents = model.model.latent_format.process_out(x0)
        material = pack.material.Material([{"samples": latents}], [[[text, {"pooled_output": pooled}]]])
        trainer = pack.trainer.Trainer(model, chosen, pack.material.Dataset(model.model, material, chosen))
        keys = {pack.names.target_key(target): path for path, target in pack.names.diffusers_names(model).items()}
        paths = {name: keys[f"diffusion_model.{name}.weight"] for name in trainer.layers}
        wrapped = with_peft(copy.deepcopy(network), method, sorted(paths.values()))
        signs: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, layer in trainer.layers.items():
                one, two = peft_values(wrapped, paths[name], method)
                if method == "lora":
                    layer.params["down"].copy_(one)
                    layer.params["up"].copy_(two)
                else:
                    # PEFT takes Q as torch's QR returns it, we make R's partner positive: R differs by signs.
                    diagonal = torch.linalg.qr(one).R.diagonal()
                    signs[name] = torch.where(diagonal < 0, -1.0, 1.0)[:, None]
                    layer.params["P"].copy_(one)
                    layer.params["R"].copy_(signs[name] * two)
        # diffusers
        if kind == "flow":
            flow = FlowMatchEulerDiscreteScheduler()
            times = flow.timesteps[[200, 700]]
            sigma = times / 1000
            output = wrapped(
                hidden_states=flow.scale_noise(x0, times, noise),
                timestep=times,
                encoder_hidden_states=text.expand(2, -1, -1),
                pooled_projections=pooled.expand(2, -1),
            ).sample
            target = noise - x0
        else:
            times, ddpm = torch.tensor([250, 800]), scheduler()
            sigma = model.model.model_sampling.sigmas[times]
            output = wrapped(ddpm.add_noise(x0, noise, times), times, text.expand(2, -1, -1)).sample
            target = noise if kind == "epsilon" else ddpm.get_velocity(x0, noise, times)
        expected = F.mse_loss(output.float(), target.float())
        expected.backward()
        # ours
        examples = trainer.dataset.examples
        conds = [trainer.conds(0, tuple(examples[0].latent.shape)) for _ in examples]
        trainer.refresh()
        with trainer.prepared():
            loss = trainer.loss(examples, noise, sigma, conds)
            loss.backward()
            trainer.leaves.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    worst = 0.0
    for name, layer in trainer.layers.items():
        one, two = (parameter.grad for parameter in peft_values(wrapped, paths[name], method))
        assert one is not None
        assert two is not None
        if method == "lora":
            pairs = [(layer.params["down"].grad, one), (layer.params["up"].grad, two)]
        else:
            pairs = [(layer.params["P"].grad, one), (layer.params["R"].grad, signs[name] * two)]
        for own, theirs in pairs:
            assert float(theirs.norm()) > 0
            worst = max(worst, models.relative(own, theirs))
    assert len(trainer.layers) >= 8, worst
    assert worst < 1e-3, worst


# ------------------------------------------------------------------------------------------------------- weightings


@pytest.mark.parametrize("kind", ["sd15", "v"])
def test_min_snr_is_that_of_diffusers_scripts(pack: Pack, kind: str) -> None:
    from diffusers.training_utils import compute_snr

    sampling = models.unet(kind).model.model_sampling
    times = torch.tensor([0, 20, 300, 600, 999])
    snr = compute_snr(scheduler(), times)
    expected = snr.clamp(max=5.0) / (snr + (1 if kind == "v" else 0))
    weights = pack.objective.weights(sampling, sampling.sigmas[times], "min-SNR", 5.0)
    assert torch.allclose(weights, expected, rtol=1e-3)
    if kind == "sd15":  # kohya's apply_debiased_estimation
        weights = pack.objective.weights(sampling, sampling.sigmas[times], "debiased")
        assert torch.allclose(weights, 1 / snr.clamp(max=1000).sqrt(), rtol=1e-3)


def test_weightings_of_flow_models_are_those_of_diffusers(pack: Pack) -> None:
    from diffusers.training_utils import compute_loss_weighting_for_sd3

    sampling = models.sd3().model.model_sampling
    sigma = torch.tensor([0.02, 0.3, 0.5, 0.9, 0.999])
    for name in ("sigma_sqrt", "cosmap"):
        weights = pack.objective.weights(sampling, sigma, name)
        assert torch.allclose(weights, compute_loss_weighting_for_sd3(name, sigma))
    # Min-SNR on the clean picture's error, which is sigma times the velocity's.
    snr = ((1 - sigma) / sigma) ** 2
    assert torch.allclose(pack.objective.weights(sampling, sigma, "min-SNR", 5.0), snr.clamp(max=5) * sigma**2)
    assert torch.equal(pack.objective.weights(sampling, sigma, "none"), torch.ones(5))
    with pytest.raises(ValueError, match="The weighting cosmap is for flow models"):
        pack.objective.weights(models.unet().model.model_sampling, sigma, "cosmap")


# ----------------------------------------------------------------------------------------------------- noise levels


@pytest.mark.parametrize(("ours", "theirs"), [("logit-normal", "logit_normal"), ("mode", "mode"), ("uniform", "none")])
def test_noise_levels_are_drawn_as_in_diffusers(pack: Pack, ours: str, theirs: str) -> None:
    from diffusers.training_utils import compute_density_for_timestep_sampling

    count = 40_000
    expected = (
        compute_density_for_timestep_sampling(
            theirs, count, logit_mean=0.0, logit_std=1.0, mode_scale=1.29, generator=models.generator(1)
        )
        .sort()
        .values
    )
    levels = pack.formulas.TIMESTEPS[ours].draw(count, models.generator(2)).sort().values
    assert float((levels - expected).abs().max()) < 0.02  # the two distributions' quantiles


def test_shifts_of_noise_levels(pack: Pack) -> None:
    flow, discrete = models.sd3().model.model_sampling, models.unet().model.model_sampling
    u = pack.formulas.TIMESTEPS["uniform"].draw(500, models.generator(3))
    levels = pack.objective.sample_sigmas(flow, 500, models.generator(3), "uniform", 5.0)
    assert torch.allclose(levels, 5 * u / (1 + 4 * u))
    own = pack.objective.sample_sigmas(flow, 500, models.generator(3), "uniform")
    assert torch.allclose(own, 3 * u / (1 + 2 * u), atol=1e-5)  # SD3's own shift is 3
    plain, shifted = (
        pack.objective.sample_sigmas(discrete, 4000, models.generator(3), "uniform", shift) for shift in (0.0, 3.0)
    )
    assert torch.isin(shifted, discrete.sigmas).all()
    assert shifted.median() > 2 * plain.median()


def test_cosmos_predict_2_is_a_flow_model(pack: Pack) -> None:
    """The sigma goes to 80, and t = sigma / (1 + sigma): logit-normal as its maker draws it, 0.22, 0.50 and 0.78."""
    from .bases import BASES

    model = next(base for base in BASES if base.name == "CosmosT2IPredict2").model()
    sampling = model.model.model_sampling
    assert float(sampling.sigma_max) == pytest.approx(80, rel=1e-3)
    assert pack.objective.is_flow(sampling)
    sigma = pack.objective.sample_sigmas(sampling, 40_000, models.generator(1))
    quantiles = torch.quantile(sigma / (1 + sigma), torch.tensor([0.1, 0.5, 0.9]))
    assert torch.allclose(quantiles, torch.tensor([0.217, 0.5, 0.783]), atol=0.01)
    shifted = pack.objective.sample_sigmas(sampling, 40_000, models.generator(1), "uniform", 3.0)
    u = pack.formulas.TIMESTEPS["uniform"].draw(40_000, models.generator(1))
    assert torch.allclose(shifted / (1 + shifted), (3 * u / (1 + 2 * u)).clamp(max=80 / 81), atol=1e-2)
    # What the network sees and has to give: (1 - t) x0 + t noise, and noise - x0, at the time t.
    sigma = torch.tensor([0.2, 3.0])
    t = (sigma / (1 + sigma)).view(2, 1, 1, 1, 1)
    x0, noise = models.random(2, 16, 1, 4, 4, seed=1), models.random(2, 16, 1, 4, 4, seed=2)
    seen: list[Tensor] = []
    model.model.diffusion_model.forward = lambda x, time, **others: (seen.extend((x, time)), x)[1]
    with torch.no_grad():
        loss = pack.objective.loss(model.model, x0, noise.clone(), sigma, {}, {})
    assert torch.allclose(seen[0], (1 - t) * x0 + t * noise, atol=1e-6)
    assert torch.allclose(seen[1].flatten(), t.flatten())
    assert torch.allclose(loss, (seen[0] - (noise - x0)).square().flatten(1).mean(1), rtol=1e-4)
    weights = pack.objective.weights(sampling, sigma, "cosmap")
    assert torch.allclose(weights, 2 / (math.pi * (1 - 2 * t.flatten() + 2 * t.flatten() ** 2)))


@pytest.mark.parametrize("kind", ["sd3", "unet"])
def test_noise_levels_within_a_range(pack: Pack, kind: str) -> None:
    sampling = getattr(models, kind)().model.model_sampling
    whole = pack.objective.sample_sigmas(sampling, 4000, models.generator(2))
    low, high = (float(torch.quantile(whole, share)) for share in (0.3, 0.6))
    levels = pack.objective.sample_sigmas(sampling, 4000, models.generator(2), within=(low, high))
    assert float(levels.min()) >= low
    assert float(levels.max()) <= high
    inside = whole[(whole >= low) & (whole <= high)]
    assert abs(float(levels.mean()) - float(inside.mean())) < 0.02 * float(inside.mean())
    with pytest.raises(ValueError, match="Almost none of the trained noise levels .* between 5000 and 6000"):
        pack.objective.sample_sigmas(sampling, 2, models.generator(2), within=(5000.0, 6000.0))


# ------------------------------------------------------------------------------------------------- losses and masks


def test_losses(pack: Pack) -> None:
    output, target = models.random(2, 4, 3, 3, seed=1), models.random(2, 4, 3, 3, seed=2)
    d = output - target
    expected = {"mse": d**2, "l1": d.abs(), "huber": 2 * 0.1 * (torch.sqrt(d**2 + 0.1**2) - 0.1)}
    for name, value in expected.items():
        assert torch.allclose(pack.formulas.LOSSES[name].formula(output, target, 0.1), value, atol=1e-7)


@pytest.mark.parametrize("kind", ["mse", "huber", "l1"])
def test_a_masked_loss_is_that_of_its_places(pack: Pack, kind: str) -> None:
    model = models.sd3()
    x0, noise, sigma = models.random(2, 16, 8, 8, seed=1), models.random(2, 16, 8, 8, seed=2), torch.tensor([0.3, 0.8])
    conds = {
        "c_crossattn": models.random(2, 7, models.TOKEN_WIDTH, seed=3),
        "y": models.random(2, models.POOLED_WIDTH, seed=4),
    }
    mask = (models.random(2, 1, 8, 8, seed=5) > 0).float()
    with torch.no_grad():
        noisy = sigma.view(2, 1, 1, 1) * noise + (1 - sigma.view(2, 1, 1, 1)) * x0
        output = model.model.diffusion_model(noisy, sigma * 1000, context=conds["c_crossattn"], y=conds["y"])
        errors = pack.formulas.LOSSES[kind].formula(output, noise - x0, 0.1)
        expected = torch.stack([errors[i][:, mask[i, 0] > 0].mean() for i in range(2)])
        for scale in (1.0, 0.25):
            loss = pack.objective.loss(model.model, x0, noise, sigma, conds, {}, kind, 0.1, scale * mask)
            assert torch.allclose(loss, expected, rtol=1e-4)


def test_masks_of_latents(pack: Pack) -> None:
    mask = torch.arange(64.0).reshape(1, 8, 8)
    small = pack.objective.latent_mask(mask, (4, 2, 2))
    assert small.shape == (1, 2, 2)
    assert torch.allclose(
        small[0],
        torch.stack(
            [torch.stack([mask[0, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean() for j in range(2)]) for i in range(2)]
        ),
    )
    assert pack.objective.latent_mask(mask, (16, 3, 2, 2)).shape == (1, 3, 2, 2)  # the same for each frame


# ----------------------------------------------------------------------------------------------------- optimisation


@pytest.mark.parametrize(
    ("ours", "theirs", "more"),
    [
        ("constant", "constant_with_warmup", {}),
        ("linear", "linear", {}),
        ("cosine", "cosine", {}),
        ("cosine with restarts", "cosine_with_restarts", {"num_cycles": 3}),
    ],
)
def test_schedules_are_those_of_diffusers(pack: Pack, ours: str, theirs: str, more: dict) -> None:
    from diffusers.optimization import get_scheduler

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = get_scheduler(theirs, optimizer, num_warmup_steps=7, num_training_steps=50, **more)
    for step in range(50):
        factor = pack.schedules.rate_factor(ours, step, 50, 7, more.get("num_cycles", 1))
        assert factor == pytest.approx(reference.get_last_lr()[0], abs=1e-6), step
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_optimizers_lower_a_loss_and_mind_their_groups(pack: Pack, name: str) -> None:
    target = models.random(2, 80, 80, seed=1)
    first, second = (nn.Parameter(torch.zeros(80, 80)) for _ in range(2))
    rate, slower = {"Prodigy": 1.0, "Lion": 1e-2}.get(name, 3e-2), 0.0 if OPTIMIZERS[name].one_rate else 0.1
    groups = [{"params": [first], "rate": 1.0}, {"params": [second], "rate": slower}]
    optimizer = pack.optimizers.make_optimizer(name, groups, rate, 0.0, (0.9, 0.99))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, slower * rate])

    def step() -> float:
        optimizer.zero_grad()
        loss = (first - target[0]).square().mean() + (second - target[1]).square().mean()
        loss.backward()
        optimizer.step()
        return float(loss)

    losses = [step() for _ in range(60)]
    assert losses[-1] < 0.95 * losses[0]
    assert float(second.detach().abs().mean()) < 0.5 * float(first.detach().abs().mean())
    if OPTIMIZERS[name].one_rate:
        groups[1]["rate"] = 0.1
        with pytest.raises(ValueError, match=f"{name} finds one learning rate for all"):
            pack.optimizers.make_optimizer(name, groups, rate, 0.0, (0.9, 0.99))


def test_a_package_that_is_missing_is_named(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    packages = {name: record for name, record in OPTIMIZERS.items() if record.package}
    assert {"AdamW 8-bit", "Lion", "Prodigy"} <= set(packages)
    for name, record in packages.items():
        monkeypatch.setitem(sys.modules, record.module, None)
        with pytest.raises(ValueError, match=f"needs the package '{record.package}', which is not installed"):
            pack.optimizers.make_optimizer(name, [], 1e-3, 0.0, (0.9, 0.99))


def test_the_moving_average_is_that_of_diffusers(pack: Pack) -> None:
    from diffusers.training_utils import EMAModel

    parameter = nn.Parameter(models.random(5, 4, seed=1))
    average = pack.average.Average([parameter], 0.95)
    reference = EMAModel([parameter], decay=0.95)
    for step in range(1, 200):
        with torch.no_grad():
            parameter.add_(0.1 * models.random(5, 4, seed=step))
        average.update([parameter], step)
        reference.step([parameter])
    # diffusers counts its first step as no step, and takes the parameters there.
    assert models.relative(average.values[0], reference.shadow_params[0]) < 0.02
    late = average.values[0].clone()
    with torch.no_grad():
        parameter.add_(1.0)
    average.update([parameter], 10_000)
    assert torch.allclose(average.values[0], 0.95 * late + 0.05 * parameter.detach(), atol=1e-6)


def test_model_kinds_are_told_apart(pack: Pack) -> None:
    assert pack.objective.is_flow(as_loaded(models.sd3).model.model_sampling)
    assert not pack.objective.is_flow(models.unet("v").model.model_sampling)
    assert math.isclose(pack.formulas.MODE_SCALE, 1.29)
