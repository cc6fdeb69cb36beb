"""One run's state and its steps: an adapter on the activations of a frozen ComfyUI model."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..deft_ops import adapter as adapters
from ..deft_ops import methods
from ..deft_ops.layer_ops import op_of
from . import data, memory, objective, optimisation
from .adapted import Change
from .attention import pytorch_attention, without_override
from .decompositions import Decompositions
from .frozen import is_frozen_kind, weight_of
from .material import Dataset
from .network import checkpointing, frozen
from .reproducible import deterministic, varying
from .settings import Settings
from .targets import EVERYTHING, is_small_kind, rank_of, rank_rules, select

WINDOW, GROWTH = 10, 10.0  # steps and factor of a loss that has diverged


@dataclass
class Layer:
    """One trained layer: its module, where that computes, the trainable tensors, and what its method knows of the base
    (SVDiff only).
    """

    module: nn.Module
    device: torch.device
    params: dict[str, Tensor]
    known: dict[str, Any] = field(default_factory=dict)
    factors: Any = None


class Trainer:
    """One run. `model` is a loaded ComfyUI model patcher; call inside torch.inference_mode(False).

    `decompositions` keeps what SVDiff needs of the base, for the next run.
    """

    def __init__(
        self, model: Any, settings: Settings, dataset: Dataset, decompositions: Decompositions | None = None
    ) -> None:
        self.model, self.settings, self.dataset = model, settings, dataset
        self.device = model.load_device
        self.decompositions = decompositions or Decompositions(None)
        self.root = model.model.diffusion_model
        # Everything random comes from here, on the CPU: the same numbers on every device.
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.layers: dict[str, Layer] = {}
        self.text_layers: dict[str, Layer] = {}
        self.build()
        self.optimizer = optimisation.make_optimizer(
            settings.optimizer,
            self.groups(),
            settings.learning_rate,
            settings.weight_decay,
            (settings.beta1, settings.beta2),
        )
        self.average = optimisation.Average(self.parameters, settings.ema) if settings.ema else None
        self.captions = data.Captions(model.model, dataset.entries, self.device)
        self.order, self.prior_order = (
            data.Order([tuple(example.latent.shape) for example in examples], settings.batch_size, self.generator)
            for examples in (dataset.examples, dataset.prior)
        )
        self.step = 0
        self.losses: list[float] = []
        self.gradient_norms: list[float] = []
        self.varying = ""  # why the same training would give other bits

    # ------------------------------------------------------------------------------------------------- what is trained

    def build(self) -> None:
        """Make what is trained."""
        settings, text = self.settings, self.dataset.text
        self.method = methods.trainable(settings.method)
        self.layers = self.make_layers(self.root, settings.layers, settings.pattern, self.generator)
        if text is not None:
            # Numbers of its own, so that the model learns from the same noise with and without it.
            own = torch.Generator().manual_seed((settings.seed + 1) % 2**64)
            preset = EVERYTHING if settings.layers == EVERYTHING else "attention"
            self.text_layers = self.make_layers(text.root, preset, "", own, text=True)

    def title(self) -> str:
        """What is trained, for the report."""
        layers = len(self.layers) + len(self.text_layers)
        text = f" ({len(self.text_layers)} of text encoders)" if self.text_layers else ""
        rank = f" rank {self.settings.rank}" if self.method.LOW_RANK else ""
        return f"{self.settings.method}{rank}: {layers} layers{text}"

    def make_layers(
        self, root: nn.Module, preset: str, pattern: str, generator: torch.Generator, text: bool = False
    ) -> dict[str, Layer]:
        """The chosen layers with new parameters."""
        settings, method = self.settings, self.method
        exclude, blocks = ("", "") if text else (settings.exclude, settings.blocks)
        chosen = select(root, preset, pattern, exclude, blocks, tables=hasattr(method, "decompose"))
        dtype = torch.bfloat16 if settings.adapter_precision == "bf16" else torch.float32
        device = self.dataset.text.device if text and self.dataset.text else self.device
        memory.check_free(device, chosen.values(), method, settings)
        rules = rank_rules(settings.ranks)
        layers = {}
        for name, module in chosen.items():
            if is_frozen_kind(module):
                op_of(module)  # says which layers cannot have an adapter
            known = {}
            with weight_of(module, torch.empty(0, device=device)) as weight:
                rank = rank_of(name, len(weight), settings.rank, rules, settings.rank_cap)
                params = method.init(weight, rank, generator=generator, alpha=settings.alpha, **settings.options)
                if hasattr(method, "decompose"):
                    known["decomposition"] = self.decompositions.of(f"text.{name}" if text else name, weight, method)
            bias = getattr(module, "bias", None)
            if hasattr(method, "init_bias") and bias is not None:
                params |= method.init_bias(bias.to(device))
            if dtype != torch.float32:
                params = {key: value.detach().to(dtype).requires_grad_() for key, value in params.items()}
            layers[name] = Layer(module, device, params, known)
        return layers

    @property
    def parameters(self) -> list[Tensor]:
        """All trained tensors, in the order of the layers."""
        layers = [*self.layers.values(), *self.text_layers.values()]
        return [parameter for layer in layers for parameter in layer.params.values()]

    def groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups, by their rate relative to the learning rate; in the order of the parameters."""
        found: dict[float, list[Tensor]] = {}
        for layers, rate in ((self.layers, 1.0), (self.text_layers, self.settings.text_rate)):
            for layer in layers.values():
                for name, parameter in layer.params.items():
                    own = rate * (self.settings.p_rate if name == "P" else 1.0)
                    own *= self.settings.norm_rate if is_small_kind(layer.module) else 1.0
                    found.setdefault(own, []).append(parameter)
        return [{"params": parameters, "rate": rate} for rate, parameters in found.items()]

    def refresh(self) -> None:
        """Compute every layer's factors from its parameters, once a step."""
        for layers in (self.layers.values(), self.text_layers.values()):  # these may be on another device
            params = [{name: value.float() for name, value in layer.params.items()} for layer in layers]
            found = self.method.factors_of(params, alpha=self.settings.alpha, **self.settings.options)
            for layer, factors in zip(layers, found, strict=True):
                layer.factors = factors

    def change(self, layer: Layer) -> Change:
        """What the layer's adapter changes, as of the last `refresh`."""
        return lambda: self.method.change(layer.factors, **layer.known)

    @contextlib.contextmanager
    def averaged(self) -> Any:
        """The moving averages in place of the parameters, if there are any."""
        if self.average is None:
            yield
            return
        own = [parameter.detach().clone() for parameter in self.parameters]
        try:
            self.assign(self.average.values)
            yield
        finally:
            self.assign(own)

    @torch.no_grad()
    def assign(self, values: Sequence[Tensor]) -> None:
        """Give the parameters other values."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    # ---------------------------------------------------------------------------------------------------------- a step

    def autocast(self) -> Any:
        """The compute precision of the forward pass."""
        wanted = self.settings.precision
        if wanted == "auto":
            wanted = "bf16" if self.device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
        inner = self.model.model
        own = inner.manual_cast_dtype or inner.get_dtype()
        # A network that computes in bf16 by itself does not need it: autocast would take its norms to float32 and back.
        if wanted != "bf16" or own == torch.bfloat16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def batch(self) -> Iterator[tuple[list[data.Example], float]]:
        """The next examples with the weight of their mean: pictures, then prior pictures if there are any."""
        yield [self.dataset.examples[place] for place in self.order.next()], 1.0
        if self.dataset.prior:
            yield [self.dataset.prior[place] for place in self.prior_order.next()], self.settings.prior_weight

    def backward(self) -> float:
        """One random batch, forward and backward; the loss."""
        settings, sampling = self.settings, self.model.model.model_sampling
        total = torch.zeros((), device=self.device)
        pending: list[tuple[list[data.Example], Tensor, Tensor, list[data.Conds], float]] = []
        for examples, weight in self.batch():
            count = len(examples)
            sigma = objective.sample_sigmas(sampling, count, self.generator, settings.timesteps, settings.shift)
            latents = torch.cat([example.latent for example in examples])
            noise = torch.randn(latents.shape, generator=self.generator)
            if settings.noise_offset:
                shape = (count, noise.shape[1], *[1] * (noise.ndim - 2))
                noise = noise + settings.noise_offset * torch.randn(shape, generator=self.generator)
            captions = [example.caption for example in examples]
            if self.dataset.empty is not None:
                dropped = torch.rand(count, generator=self.generator) < settings.caption_dropout
                captions = [self.dataset.empty if drop else own for own, drop in zip(captions, dropped, strict=True)]
            shape = tuple(latents[:1].shape)
            conds = [self.conds(caption, shape) for caption in captions]
            for group in data.groups(conds):
                part = [examples[index] for index in group]
                share = weight * len(group) / count / settings.accumulation
                pending.append((part, noise[group], sigma[group], [conds[index] for index in group], share))
        for place, (examples, noise, sigma, conds, share) in enumerate(pending):
            loss = share * self.loss(examples, noise.to(self.device), sigma.to(self.device), conds)
            loss.backward(retain_graph=place + 1 < len(pending))  # groups share the graphs of factors and captions
            total += loss.detach()
        return float(total)

    def conds(self, caption: int, shape: tuple[int, ...]) -> data.Conds:
        """A caption for the network: encoded once, or in each step where the text encoder is trained."""
        text = self.dataset.text
        if text is not None and caption < len(text.entries):
            return text.conds(self.model.model, caption, shape, self.device)
        return self.captions.conds(caption, shape)

    def loss(
        self, examples: Sequence[data.Example], noise: Tensor, sigma: Tensor, conds: Sequence[data.Conds]
    ) -> Tensor:
        """The mean weighted loss of examples of one size."""
        settings, model = self.settings, self.model.model
        x0 = torch.cat([example.latent for example in examples]).to(self.device)
        mask = None
        if any(example.mask is not None for example in examples):
            one = torch.ones(1, *x0.shape[2:])
            masks = [one if example.mask is None else example.mask.view_as(one) for example in examples]
            mask = torch.stack(masks).to(self.device)
        with self.autocast():
            losses = objective.loss(
                model,
                x0,
                noise,
                sigma,
                data.batch(conds),
                without_override(self.model.model_options.get("transformer_options", {})),
                settings.loss,
                settings.huber,
                mask,
            )
        if settings.weighting != "none":
            losses = losses * objective.weights(model.model_sampling, sigma, settings.weighting, settings.gamma)
        return losses.mean()

    def gradients(self) -> float:
        """Those of one step, the same bits whenever it is taken; the loss.

        Where those cannot be had, they are taken as they come, and `varying` says why.
        """
        random = self.random_state()
        try:
            with deterministic(self.device, strict=not self.varying):
                return self.accumulated()
        except RuntimeError as error:
            reason = varying(error)
            if not reason:
                raise
            self.varying = reason
        self.set_random_state(random)
        with deterministic(self.device, strict=False):
            return self.accumulated()

    def accumulated(self) -> float:
        """The gradients of all batches of a step; the mean loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = 0.0
        for _ in range(self.settings.accumulation):
            self.refresh()
            loss += self.backward()
        return loss

    def take_step(self) -> tuple[float, float, float]:
        """One step of the optimizer; loss, gradient norm before clipping, and learning rate.

        Raises:
            ValueError: the loss stopped being a number; the parameters are still those of the step before.
        """
        settings = self.settings
        factor = optimisation.rate_factor(
            settings.schedule, self.step, settings.steps, settings.warm_up, settings.cycles
        )
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * group["rate"] * factor
        loss = self.gradients()
        norm = float(nn.utils.clip_grad_norm_(self.parameters, settings.max_grad_norm or math.inf))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise ValueError(
                f"The loss is no longer a number at step {self.step + 1}: lower the learning rate "
                f"({settings.learning_rate:g}) or use precision fp32."
            )
        self.optimizer.step()
        self.step += 1
        if self.average is not None:
            self.average.update(self.parameters, self.step)
        self.losses.append(loss)
        self.gradient_norms.append(norm)
        self.check_growth()
        return loss, norm, settings.learning_rate * factor

    def check_growth(self) -> None:
        """Raise ValueError if the losses have left all that a training does: far above the start, and above 1, which is
        what a network has that knows nothing. Median, because single ones jump.
        """
        now = statistics.median(self.losses[-WINDOW:])
        if len(self.losses) >= WINDOW and now > GROWTH * max(1.0, self.losses[0]):
            raise ValueError(
                f"The training diverges: the loss was {self.losses[0]:.3g} at first and is {now:.3g} at step "
                f"{self.step}. Lower the learning rate ({self.settings.learning_rate:g})."
            )

    @contextlib.contextmanager
    def prepared(self) -> Any:
        """Frozen networks with the adapters on their activations, PyTorch's attention; all undone afterwards."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(pytorch_attention())
            changes = {name: self.change(layer) for name, layer in self.layers.items()}
            stack.enter_context(frozen(self.root, changes))
            if self.dataset.text is not None:
                own = {name: self.change(layer) for name, layer in self.text_layers.items()}
                stack.enter_context(frozen(self.dataset.text.root, own, in_place=True))
            if self.settings.gradient_checkpointing:
                stack.enter_context(checkpointing(self.root))
            yield

    def estimate(self) -> memory.Estimate:
        """The memory that the run will need, by a forward pass of its largest example."""
        example = max(self.dataset.examples, key=lambda item: item.latent.numel())
        settings, shape = self.settings, tuple(example.latent.shape)

        def run() -> None:
            sigma = self.model.model.model_sampling.sigma_max.reshape(1).to(self.device)
            conds = [self.captions.conds(example.caption, shape)]
            self.loss([example], torch.zeros(shape, device=self.device), sigma, conds)

        batch = min(settings.batch_size, len(self.dataset.examples))
        with pytorch_attention():
            activations = memory.activation_bytes(self.root, run, settings.gradient_checkpointing, batch)
        adapter = memory.adapter_bytes(self.parameters, settings.optimizer, bool(settings.ema)) + sum(
            value.numel() * value.element_size() for value in self.decompositions.tensors()
        )
        return memory.Estimate(self.model.model_size(), adapter, activations)

    # ----------------------------------------------------------------------------------------------------------- state

    def random_state(self) -> dict[str, Any]:
        """Where the random numbers are: to be taken between two steps."""
        return {
            "generator": self.generator.get_state(),
            "order": list(self.order.waiting),
            "prior_order": list(self.prior_order.waiting),
        }

    def set_random_state(self, random: dict[str, Any]) -> None:
        """Go back to where the random numbers were."""
        self.generator.set_state(random["generator"])
        self.order.waiting = [list(batch) for batch in random["order"]]
        self.prior_order.waiting = [list(batch) for batch in random["prior_order"]]

    def state(self, random: dict[str, Any], identity: dict[str, Any]) -> dict[str, Any]:
        """All that a run needs to go on: tensors, numbers and lists only."""
        return {
            "identity": identity,
            "step": self.step,
            "losses": list(self.losses),
            "gradient_norms": list(self.gradient_norms),
            "parameters": [parameter.detach().cpu() for parameter in self.parameters],
            "average": None if self.average is None else [value.cpu() for value in self.average.values],
            "optimizer": self.optimizer.state_dict(),
            "random": random,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.assign(state["parameters"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            for value, saved in zip(self.average.values, state["average"], strict=True):
                value.copy_(saved)
        self.step, self.losses = state["step"], list(state["losses"])
        self.gradient_norms = list(state["gradient_norms"])
        self.set_random_state(state["random"])

    @torch.no_grad()
    def finish(self) -> tuple[adapters.Adapter, dict[str, float]]:
        """The adapter (of the moving average, if there is one) under native keys, and |delta W| / |W| of each layer."""
        tensors: dict[str, Tensor] = {}
        change: dict[str, float] = {}
        with self.averaged():
            self.refresh()
            for prefix, layers in (("diffusion_model", self.layers), ("text_encoders", self.text_layers)):
                for name, layer in layers.items():
                    with weight_of(layer.module, torch.empty(0, device=layer.device)) as weight:
                        delta = self.method.delta(layer.factors, weight, **layer.known)
                        change[f"{prefix}.{name}"] = float(delta.norm() / weight.norm())
                    for suffix, tensor in self.method.to_tensors(layer.factors).items():
                        tensors[f"{prefix}.{name}.{suffix}"] = tensor.cpu().contiguous()
        return adapters.Adapter(tensors), change
