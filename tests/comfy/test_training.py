"""The training loop on ComfyUI's own model object: gradients, objective, reproducibility, and what it leaves behind."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from . import models
from .pack import Pack

METHODS = [
    ("deft", {"projector": "qr"}),
    ("deft", {"projector": "relu", "identity": False}),
    ("para", {}),
    ("lora", {}),
    ("svdiff", {}),
    ("dreambooth", {}),
]
METHOD_IDS = ["deft-qr", "deft-relu-paper", "para", "lora", "svdiff", "dreambooth"]
FULL_RANK = ("svdiff", "dreambooth")


def as_loaded(make: Callable[[], Any]) -> Any:
    """A model as nodes get it: made in inference mode, so that its weights are inference tensors."""
    with torch.inference_mode():
        model = make()
    assert next(model.model.diffusion_model.parameters()).is_inference()
    return model


def settings(
    pack: Pack, method: str = "deft", rank: int = 3, steps: int = 3, learning_rate: float = 1e-2, **others: Any
) -> Any:
    others = {"layers": "all linear", "precision": "fp32"} | others
    return pack.settings.Settings.of(method, rank, steps, learning_rate, **others)


def train(
    pack: Pack,
    model: Any,
    latents: list | None = None,
    captions: list | None = None,
    on_step: Callable[[Any], None] = lambda progress: None,
    **chosen: Any,
) -> Any:
    """trainers.run.loop.train as a node calls it: in inference mode."""
    with torch.inference_mode():
        latents = [models.latents(model, 3)] if latents is None else latents
        captions = [models.conditioning()] if captions is None else captions
        return pack.loop.train(model, pack.material.Material(latents, captions), settings(pack, **chosen), on_step)


def backward(repairs: Any, value: Callable[[], Tensor], leaves: list[Tensor]) -> int:
    """The gradients of a value by the leaves through ComfyUI's code, as a trainer takes them; the number of passes."""
    for passes in range(1, 20):
        for leaf in leaves:
            leaf.grad = None
        try:
            with repairs.active():
                with repairs.network.watching():
                    loss = value()
                loss.backward()
        except RuntimeError as error:
            assert repairs.learn(error), error
        else:
            if not repairs.learnt():
                return passes
    raise AssertionError("the repairs find no end")


def losses_fall(losses: list[float]) -> bool:
    """Whether the last third of the losses is clearly below the first."""
    third = len(losses) // 3
    return sum(losses[-third:]) < 0.95 * sum(losses[:third])


# --------------------------------------------------------------------------------------------------------- gradients


def one_step(pack: Pack, model: Any, latents: dict, captions: list, chosen: Any) -> tuple[Any, float]:
    """The trainer after one step that changes nothing (the learning rate is 0), with its gradients; and the loss."""
    import comfy.model_management

    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])
        with torch.inference_mode(False), torch.enable_grad():
            material = pack.material.Material([latents], [captions])
            trainer = pack.trainer.Trainer(model, chosen, pack.material.Dataset(model.model, material, chosen))
            with trainer.prepared():
                return trainer, trainer.take_step()[0]


def reference_step(pack: Pack, model: Any, latents: dict, captions: list, chosen: Any) -> tuple[dict, Tensor]:
    """Loss and gradients by plain autograd through W + delta(W) on an ordinary model, for the same random numbers.

    Returns the leaves by layer and name (with .grad) and the loss. The noising and the targets are written out.
    """
    network, sampling = model.model.diffusion_model, model.model.model_sampling
    source = torch.Generator().manual_seed(chosen.seed)
    method = pack.methods.get(chosen.method)
    layers = pack.targets.select(network, chosen.layers)
    params = {
        name: method.training.init(layer.weight, chosen.rank, chosen.own, source) for name, layer in layers.items()
    }
    samples = latents["samples"]
    rows = torch.randperm(len(samples), generator=source)[: chosen.batch_size].tolist()
    sigma = pack.objective.sample_sigmas(sampling, len(rows), source)
    x0 = model.model.process_latent_in(samples)[rows]
    noise = torch.randn(x0.shape, generator=source)
    merged = {}
    for name, layer in layers.items():
        factors = method.training.factors(params[name], chosen.own)
        merged[f"{name}.weight"] = layer.weight.detach() + method.delta(factors, layer.weight.detach())
        if method.training.init_bias is not None and getattr(layer, "bias", None) is not None:
            params[name] |= method.training.init_bias(layer.bias)
            merged[f"{name}.bias"] = layer.bias.detach() + params[name]["bias"]
    total = torch.zeros(())
    for index, row in enumerate(rows):
        level = sigma[index]
        if models.channels(model) == 16:
            noisy, time, target = level * noise[index] + (1 - level) * x0[index], level * 1000, noise[index] - x0[index]
        else:
            noisy = (x0[index] + level * noise[index]) / (level**2 + 1) ** 0.5
            time, target = sampling.timestep(level), noise[index]
        text, extra = captions[row if len(captions) > 1 else 0]
        y = extra["pooled_output"] if models.channels(model) == 16 else None
        inputs = (noisy[None], time.float()[None])
        output = torch.func.functional_call(network, merged, inputs, {"context": text, "y": y})
        total = total + (output[0] - target).square().mean() / len(rows)
    total.backward()
    return params, total.detach()


def same_gradients(trainer: Any, params: dict[str, dict[str, Tensor]]) -> bool:
    """Whether all gradients agree, measured against the gradient of the layer's whole tensor.

    Some are zero but for rounding: a group norm of one channel a group removes what is added before it.
    """
    assert trainer.layers.keys() == params.keys()
    checked = 0
    for name, layer in trainer.layers.items():
        for key, leaf in params[name].items():
            own = layer.params[key]
            assert torch.equal(own.detach(), leaf.detach()), f"{name} starts elsewhere"
            assert own.grad.stride() == own.stride(), f"{name}: fused optimizers go through both side by side"
            if float((own.grad - leaf.grad).norm()) > 1e-4 * float(leaf.grad.norm()) + 1e-6:
                return False
            checked += float(leaf.grad.norm()) > 1e-3
    assert checked > len(params) / 2  # gradients that are all zero would agree as well
    return True


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize(("method", "options"), METHODS, ids=METHOD_IDS)
@pytest.mark.parametrize("kind", ["sd3", "unet"])
def test_loss_and_gradients_are_those_of_plain_autograd(
    pack: Pack, kind: str, method: str, options: dict, checkpointing: bool
) -> None:
    make = (lambda: models.sd3(depth=2)) if kind == "sd3" else models.unet
    chosen = settings(
        pack,
        method,
        3,
        1,
        0.0,
        batch_size=2,
        options=options,
        seed=11,
        max_grad_norm=math.inf,
        layers="everything" if method in FULL_RANK else "all linear" if kind == "sd3" else "all linear and convolution",
        gradient_checkpointing=checkpointing,
        alpha=None if method == "para" else 6.0,
    )
    ordinary = make()
    latents = models.latents(ordinary, 3)
    captions = [entry for seed in (20, 30, 40) for entry in models.conditioning(seed)]
    params, expected = reference_step(pack, ordinary, latents, captions, chosen)
    trainer, loss = one_step(pack, as_loaded(make), latents, captions, chosen)
    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert same_gradients(trainer, params)
    modules = dict(ordinary.model.diffusion_model.named_modules())
    assert kind == "sd3" or any(isinstance(modules[name], nn.Conv2d) for name in params)


def test_captions_of_different_lengths_go_in_groups(pack: Pack) -> None:
    chosen = settings(pack, "deft", 3, 1, 0.0, batch_size=3, seed=4, max_grad_norm=math.inf)
    ordinary = models.sd3()
    latents = models.latents(ordinary, 3)
    captions = [entry for seed, tokens in ((20, 7), (30, 11), (40, 7)) for entry in models.conditioning(seed, tokens)]
    conds = pack.batches.encode_conditioning(ordinary.model, captions + captions[1:2], (1, 16, 8, 8), models.CPU)
    assert pack.batches.groups(conds) == [[0, 2], [1, 3]]
    params, expected = reference_step(pack, ordinary, latents, captions, chosen)
    trainer, loss = one_step(pack, as_loaded(models.sd3), latents, captions, chosen)
    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert same_gradients(trainer, params)


def test_an_ordinary_model_trains_too_and_gets_no_gradients(pack: Pack) -> None:
    """Weights that are no inference tensors (a loader outside of the executor)."""
    model = models.sd3()
    result = train(pack, model)
    assert result.losses == train(pack, as_loaded(models.sd3)).losses
    assert all(parameter.grad is None for parameter in model.model.parameters())


def test_checkpointing_recomputes_blocks(pack: Pack) -> None:
    with pack.network.checkpointing(models.sd3(depth=2).model.diffusion_model, {}) as blocks:
        assert blocks == 2
    with pack.network.checkpointing(models.unet().model.diffusion_model, {}) as blocks:
        assert blocks >= 8


@pytest.mark.parametrize("padding", [1, "same"], ids=["number", "word"])
@pytest.mark.parametrize("mode", ["zeros", "replicate", "circular", "reflect"])
@pytest.mark.parametrize("size", [3, 16], ids=["product", "convolution"])
def test_frozen_convolutions_of_any_padding(pack: Pack, size: int, mode: str, padding: Any) -> None:
    """Nodes for seamless pictures set circular padding; some of ComfyUI's models replicate."""
    import comfy.ops

    with torch.inference_mode():
        root = nn.Sequential(comfy.ops.manual_cast.Conv2d(4, 64, 3, padding=padding, padding_mode=mode))
        for parameter in root.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    x, grad = torch.randn(1, 4, size, size, requires_grad=True), torch.randn(1, 64, size, size)
    with pack.network.frozen(root, {}):
        y = root(x)
        (gradient,) = torch.autograd.grad(y, x, grad)
    ordinary = nn.Conv2d(4, 64, 3, padding=padding, padding_mode=mode)
    ordinary.load_state_dict({name: value.clone() for name, value in root[0].state_dict().items()})
    expected = ordinary(x)
    assert torch.allclose(y, expected, rtol=1e-5, atol=1e-5)
    assert torch.allclose(gradient, torch.autograd.grad(expected, x, grad)[0], rtol=1e-5, atol=1e-4)


def test_convolutions_of_few_pixels_are_products(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and gradient are; a forward of somebody else, and weights that are patched on the fly, are left alone."""
    import comfy.ops

    calls: list[str] = []
    product = pack.frozen.convolution.Product
    for name in ("forward", "input_gradient"):
        own = getattr(product, name)
        monkeypatch.setattr(product, name, lambda *args, own=own, name=name: (calls.append(name), own(*args))[1])

    def run(change: Callable[[Any], None]) -> tuple[Tensor, list[str]]:
        calls.clear()
        with torch.inference_mode():
            layer = comfy.ops.manual_cast.Conv2d(4, 64, 3, padding=1)
            layer.weight.fill_(1.0)
            layer.bias.fill_(0.0)
            change(layer)
        x = torch.ones(1, 4, 1, 1, requires_grad=True)
        root = nn.Sequential(layer)
        with pack.network.frozen(root, {}):
            y = root(x)
            y.sum().backward()
        return y, list(calls)

    def forward(layer: Any) -> None:
        before = layer.forward
        layer.forward = lambda x: 2 * before(x)

    def weight(layer: Any) -> None:
        layer.weight_function = [lambda value: 3 * value]

    def bias(layer: Any) -> None:
        layer.bias_function = [lambda value: value + 1]

    expected = {
        "plain": (lambda layer: None, 4.0, ["forward", "input_gradient"]),
        "forward": (forward, 8.0, ["input_gradient"]),
        "weight": (weight, 12.0, ["input_gradient"]),
        "bias": (bias, 5.0, ["input_gradient"]),
    }
    for name, (change, value, expected_products) in expected.items():
        y, products = run(change)
        assert (float(y.detach().mean()), products) == (value, expected_products), name


def test_bf16(pack: Pack) -> None:
    exact = train(pack, as_loaded(models.sd3), steps=4)
    half = train(pack, as_loaded(lambda: models.sd3(dtype=torch.bfloat16)), steps=4, precision="bf16")
    assert all(tensor.dtype == torch.float32 for tensor in half.adapter.values())
    assert half.losses != exact.losses
    assert half.losses == pytest.approx(exact.losses, rel=0.05)


# --------------------------------------------------------------------------------------------------------- objective


def ordinary_output(model: Any, noisy: Tensor, times: Tensor, conds: dict[str, Tensor]) -> Tensor:
    return model.model.diffusion_model(noisy, times, context=conds["c_crossattn"], y=conds.get("y"))


@pytest.mark.parametrize("kind", ["sd15", "v"])
def test_loss_of_epsilon_and_v_models_is_that_of_diffusers(pack: Pack, kind: str) -> None:
    from diffusers import DDPMScheduler

    model = models.unet(kind)
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000
    )
    times = torch.tensor([0, 10, 400, 999])
    sigma = model.model.model_sampling.sigmas[times]
    x0, noise = models.random(4, 4, 8, 8, seed=1), models.random(4, 4, 8, 8, seed=2)
    conds = {"c_crossattn": models.random(4, 7, models.TOKEN_WIDTH, seed=3)}
    target = noise if kind == "sd15" else scheduler.get_velocity(x0, noise, times)
    noisy = scheduler.add_noise(x0, noise, times)
    with torch.no_grad():
        output = ordinary_output(model, noisy, times.float(), conds)
        expected = (output - target).square().flatten(1).mean(1)
        loss = pack.objective.loss(model.model, x0, noise.clone(), sigma, conds, {})
        assert models.relative(pack.objective.target(model.model.model_sampling, sigma, x0, noise), target) < 1e-5
    assert torch.allclose(loss, expected, rtol=1e-4)


def test_loss_of_flow_models_is_that_of_diffusers(pack: Pack) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    model = models.sd3()
    scheduler = FlowMatchEulerDiscreteScheduler()
    times = scheduler.timesteps[[0, 300, 700, 999]]
    sigma = times / 1000
    x0, noise = models.random(4, 16, 8, 8, seed=1), models.random(4, 16, 8, 8, seed=2)
    conds = {
        "c_crossattn": models.random(4, 7, models.TOKEN_WIDTH, seed=3),
        "y": models.random(4, models.POOLED_WIDTH, seed=4),
    }
    with torch.no_grad():
        output = ordinary_output(model, scheduler.scale_noise(x0, times, noise), times, conds)
        expected = (output - (noise - x0)).square().flatten(1).mean(1)
        loss = pack.objective.loss(model.model, x0, noise.clone(), sigma, conds, {})
        assert models.relative(pack.objective.target(model.model.model_sampling, sigma, x0, noise), noise - x0) < 1e-6
    assert torch.allclose(loss, expected, rtol=1e-4)


def test_raw_output_is_undone(pack: Pack) -> None:
    sampling = models.unet().model.model_sampling
    with pytest.raises(RuntimeError), pack.objective.raw_output(sampling):
        assert sampling.calculate_denoised(None, 3, 4) == 3
        raise RuntimeError
    assert "calculate_denoised" not in sampling.__dict__


def test_noise_levels(pack: Pack) -> None:
    discrete = models.unet().model.model_sampling
    drawn = pack.objective.sample_sigmas(discrete, 4000, models.generator(0))
    assert torch.isin(drawn, discrete.sigmas).all()
    quantiles = torch.searchsorted(discrete.sigmas, drawn).float() / 1000
    assert abs(float(quantiles.mean()) - 0.5) < 0.02
    assert abs(float(quantiles.std()) - 12**-0.5) < 0.02
    flow = models.sd3().model.model_sampling
    drawn = pack.objective.sample_sigmas(flow, 2000, models.generator(0))
    shift = flow.shift
    normal = torch.logit(drawn / (shift - (shift - 1) * drawn))  # the shift undone, then the logit
    assert shift == 3
    assert float(drawn.min()) > 0
    assert float(drawn.max()) < 1
    assert abs(float(normal.mean())) < 0.06
    assert abs(float(normal.std()) - 1) < 0.05


# --------------------------------------------------------------------------------------------------- reproducibility


@pytest.mark.parametrize(("method", "options"), METHODS, ids=METHOD_IDS)
def test_the_same_seed_gives_the_same_bits(pack: Pack, method: str, options: dict) -> None:
    torch.manual_seed(1)
    first = train(pack, as_loaded(models.sd3), method=method, options=options, seed=7, batch_size=2)
    torch.manual_seed(2)
    again = train(pack, as_loaded(models.sd3), method=method, options=options, seed=7, batch_size=2)
    other = train(pack, as_loaded(models.sd3), method=method, options=options, seed=8, batch_size=2)
    assert first.losses == again.losses
    assert first.losses != other.losses
    assert first.adapter.keys() == again.adapter.keys() == other.adapter.keys()
    assert all(torch.equal(first.adapter[key], again.adapter[key]) for key in first.adapter)
    name = next(key for key in first.adapter if not key.endswith("alpha"))
    assert not torch.equal(first.adapter[name], other.adapter[name])
    assert first.adapter.metadata == again.adapter.metadata


def flags() -> tuple[bool, ...]:
    """What PyTorch is to be deterministic in."""
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.utils.deterministic.fill_uninitialized_memory,
    )


def test_deterministic_algorithms_for_the_time_of_a_step(pack: Pack) -> None:
    deterministic, gpu = pack.reproducible.deterministic, torch.device("cuda")
    before = flags()
    with deterministic(torch.device("cpu")):
        assert flags() == before
    with deterministic(gpu):
        assert flags() == (True, False, True, False)
    with deterministic(gpu, strict=False):
        assert flags() == (False, False, True, False)
    with pytest.raises(KeyError), deterministic(gpu):
        raise KeyError
    assert flags() == before


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (
            "grid_sampler_2d_backward_cuda does not have a deterministic implementation, but you set "
            "'torch.use_deterministic_algorithms(True)'.",
            "PyTorch's grid_sampler_2d_backward_cuda has no deterministic algorithm",
        ),
        (
            "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` or "
            "`at::Context::setDeterministicAlgorithms(true)`, but this operation is not deterministic because it uses "
            "CuBLAS and you have CUDA >= 10.2.",
            "needs ComfyUI to be started with --deterministic",
        ),
    ],
    ids=["operation", "cublas"],
)
def test_what_cannot_be_deterministic(pack: Pack, monkeypatch: pytest.MonkeyPatch, error: str, note: str) -> None:
    """The step is taken all the same, with the same random numbers, and the report says what PyTorch says of it."""
    plain = train(pack, as_loaded(models.sd3), steps=2, accumulation=2)
    own, calls = pack.objective.loss, []

    def loss(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:  # 1 is the estimate's, 2 and 3 the first step's
            raise RuntimeError(error)
        return own(*arguments)

    monkeypatch.setattr(pack.objective, "loss", loss)
    result = train(pack, as_loaded(models.sd3), steps=2, accumulation=2)
    assert len(calls) == 7
    assert all(torch.equal(result.adapter[key], plain.adapter[key]) for key in plain.adapter)
    assert note in result.report
    assert "deterministic" not in plain.report


def test_other_errors_of_a_step_are_not_taken_for_that(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    own, calls = pack.objective.loss, []

    def loss(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:  # the first step's; 1 is the estimate's
            raise RuntimeError("mat1 and mat2 do not fit")
        return own(*arguments)

    monkeypatch.setattr(pack.objective, "loss", loss)
    with pytest.raises(RuntimeError, match="do not fit"):
        train(pack, as_loaded(models.sd3), accumulation=2)
    assert len(calls) == 3


@pytest.mark.parametrize("module", [nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 5)])
def test_weights_of_pytorchs_own_layers(pack: Pack, module: nn.Module) -> None:
    """A text encoder may have them, in half precision on a GPU; not all of them have a bias."""
    module.to(torch.bfloat16)
    with pack.frozen.weight_of(module, torch.empty(0)) as weight:
        assert torch.equal(weight, module.weight.float())


def test_checkpointing_does_not_change_the_result(pack: Pack) -> None:
    plain = train(pack, as_loaded(models.unet), layers="attention and feed-forward")
    saved = train(pack, as_loaded(models.unet), layers="attention and feed-forward", gradient_checkpointing=True)
    assert plain.losses == pytest.approx(saved.losses, rel=1e-5)


def test_global_random_numbers_are_untouched(pack: Pack) -> None:
    import random

    before, python = torch.get_rng_state(), random.getstate()
    train(pack, as_loaded(models.sd3))
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == python


# ------------------------------------------------------------------------------------------------- what is left behind


def traces(model: Any) -> dict[str, Any]:
    """What a training must leave as it was: the objects, not only their values."""
    import comfy.model_management

    assert not comfy.model_management.in_training
    inner = model.model
    return {
        "parameters": {
            name: (id(value), value._version if not value.is_inference() else None)
            for name, value in inner.named_parameters()
        },
        "buffers": {name: id(value) for name, value in inner.named_buffers()},
        "forwards": {name: module.__dict__.get("forward") for name, module in inner.named_modules()},
        "sampling": "calculate_denoised" in inner.model_sampling.__dict__,
        "hooks": {
            name: (len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in inner.named_modules()
        },
        "modes": {name: module.training for name, module in inner.named_modules()},
        "patches": dict(model.patches),
        "patcher": inner.current_patcher,
    }


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("make", [models.sd3, models.unet], ids=["sd3", "unet"])
def test_the_model_is_left_as_it_was(pack: Pack, make: Callable[[], Any], checkpointing: bool) -> None:
    model = as_loaded(make)
    latent, values, before = models.sample(model), models.weights(model), traces(model)
    result = train(pack, model, gradient_checkpointing=checkpointing, layers="all linear and convolution")
    assert traces(model) == before
    after = models.weights(model)
    assert all(torch.equal(after[key], values[key]) for key in values)
    assert torch.equal(models.sample(model), latent)
    patched, _, report = pack.apply(result.adapter, model)
    assert not report.unmatched
    assert not torch.equal(models.sample(patched), latent)
    assert torch.equal(models.sample(model), latent)


def test_an_exception_leaves_the_model_as_it_was(pack: Pack) -> None:
    model = as_loaded(models.sd3)
    latent, before = models.sample(model), traces(model)

    def fail(progress: Any) -> None:
        raise RuntimeError("the progress bar broke")

    with pytest.raises(RuntimeError, match="the progress bar broke"):
        train(pack, model, on_step=fail, gradient_checkpointing=True)
    assert traces(model) == before
    assert torch.equal(models.sample(model), latent)


def test_interruption_ends_within_one_step(pack: Pack) -> None:
    import comfy.model_management

    model = as_loaded(models.sd3)
    latent, before = models.sample(model), traces(model)
    steps = []

    def interrupt(progress: Any) -> None:
        steps.append(progress.step)
        if progress.step == 2:
            comfy.model_management.interrupt_current_processing()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(pack, model, on_step=interrupt, steps=1000)
    assert steps == [1, 2]
    assert traces(model) == before
    assert torch.equal(models.sample(model), latent)  # the interruption is over, too
    assert len(train(pack, model).losses) == 3


def test_a_patched_model_is_trained_with_its_patches(pack: Pack) -> None:
    model = as_loaded(models.sd3)
    result = train(pack, model, method="para")
    patched = pack.apply(result.adapter, model)[0]
    on_top = train(pack, patched, seed=3)
    assert on_top.losses != train(pack, model, seed=3).losses
    assert on_top.losses == train(pack, patched, seed=3).losses


# ------------------------------------------------------------------------------------------------------------- effect


@pytest.mark.parametrize(("method", "options"), METHODS, ids=METHOD_IDS)
def test_training_lowers_the_loss_and_says_what_it_did(pack: Pack, method: str, options: dict) -> None:
    seen = []
    model = as_loaded(models.sd3)
    result = train(
        pack,
        model,
        method=method,
        options=options,
        rank=8,
        steps=60,
        learning_rate=1e-2,
        batch_size=3,
        on_step=seen.append,
    )
    assert losses_fall(result.losses)
    assert [progress.step for progress in seen] == list(range(1, 61))
    assert seen[-1].steps == 60
    assert [progress.loss for progress in seen] == result.losses
    assert all(progress.grad_norm > 0 and progress.seconds > 0 for progress in seen)
    layers = pack.targets.select(model.model.diffusion_model, "all linear")
    title = method if method in FULL_RANK else f"{method} rank 8"
    assert f"{title}: {len(layers)} layers" in result.report
    assert [line for line in result.report.splitlines() if "WARNING" in line and "the usual one" not in line] == []
    assert result.adapter.metadata["method"] == method
    assert result.adapter.metadata["base_model"] == "SD3"
    assert len(result.adapter.metadata["base_hash"]) == 64


def test_an_adapter_that_changes_nothing_is_an_error(pack: Pack) -> None:
    bad(pack, "The trained adapter changes nothing: raise the learning rate", method="lora", learning_rate=0.0, steps=1)


# ---------------------------------------------------------------------------------------------------------- bad input


def bad(pack: Pack, text: str, **chosen: Any) -> None:
    model = as_loaded(models.sd3)
    before = traces(model)
    with pytest.raises(ValueError, match=text):
        train(pack, model, **chosen)
    assert traces(model) == before


def test_bad_input_is_told_in_a_sentence(pack: Pack) -> None:
    broken = {"samples": models.random(2, 16, 8, 8, seed=1)}
    broken["samples"][1, 3, 2, 2] = float("nan")
    bad(pack, "The latent of picture 2 holds a NaN or infinity", latents=[broken])
    bad(pack, "The latents have 4 channels, but SD3 needs 16", latents=[{"samples": models.random(1, 4, 8, 8, seed=1)}])
    bad(pack, "There are 2 captions for 3 pictures", captions=[models.conditioning(1), models.conditioning(2)])
    bad(pack, "There are 0 captions for 3 pictures", captions=[])
    bad(pack, "The latents of the pictures are empty", latents=[])
    bad(pack, "The latents of the pictures are empty", latents=[{"samples": torch.zeros(0, 16, 8, 8)}])
    bad(pack, "Unknown precision 'fp8': choose one of auto, fp32, bf16", precision="fp8")
    bad(pack, "Unknown method 'ia3': choose one of deft, para, lora", method="ia3")
    bad(pack, "Unknown choice of layers 'some'", layers="some")
    bad(pack, r"The layer pattern '\(' is not a regular expression", pattern="(")
    bad(pack, "No layer of OpenAISignatureMMDITWrapper matches .* its layers end in", pattern="nowhere")


def test_a_loss_that_explodes_is_told_in_a_sentence(pack: Pack) -> None:
    bad(
        pack,
        "The loss is no longer a number at step .*: lower the learning rate",
        learning_rate=1e30,
        method="lora",
        steps=10,
    )


@pytest.mark.parametrize(
    ("preset", "sd3", "unet"),
    [
        ("attention", {"qkv", "proj"}, {"to_q", "to_k", "to_v", "to_out.0"}),
        ("paper (to_q, to_k, to_v, to_out.0)", {"qkv", "proj"}, {"to_q", "to_k", "to_v", "to_out.0"}),
        (
            "attention and feed-forward",
            {"qkv", "proj", "fc1", "fc2"},
            {"to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"},
        ),
    ],
)
def test_presets(pack: Pack, preset: str, sd3: set[str], unet: set[str]) -> None:
    def ends(model: Any) -> set[str]:
        names = pack.targets.select(model.model.diffusion_model, preset)
        endings = sorted(sd3 | unet, key=len, reverse=True)  # net.0.proj before proj
        return {next((end for end in endings if name.endswith(f".{end}")), name) for name in names}

    assert ends(models.sd3(depth=2)) == sd3
    assert ends(models.unet()) == unet
    root = models.unet().model.diffusion_model
    without = pack.targets.select(root, "attention without cross-attention")
    assert without
    assert all("attn1" in name for name in without)
    assert all("attn2" in name for name in pack.targets.select(root, preset, r"attn2\."))
