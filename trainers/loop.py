"""The training loop: an adapter on the activations of a frozen ComfyUI model."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import comfy.model_management
import torch
from torch import Tensor, nn

from ..deft_ops import adapter as adapters
from ..deft_ops import methods
from ..deft_ops.layer_ops import LayerOp, op_of
from ..patches.fingerprint import fingerprint
from . import data, objective
from .frozen import Addition, checkpointing, frozen, weight_of
from .targets import select

PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class Settings:
    """What a training run is made of. alpha None means a scale of 1; options go to the method's init and factors."""

    method: str
    rank: int
    steps: int
    learning_rate: float
    batch_size: int = 1
    alpha: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    layers: str = "attention"
    pattern: str = ""
    seed: int = 0
    precision: str = "auto"
    gradient_checkpointing: bool = False
    max_grad_norm: float = 1.0


@dataclass
class Layer:
    """One trained layer: its module, how matrices act on its activations, and the trainable tensors."""

    module: nn.Module
    op: LayerOp
    params: dict[str, Tensor]
    factors: Any = None


@dataclass
class Progress:
    """What is known after a step."""

    step: int
    steps: int
    loss: float
    grad_norm: float
    seconds: float


@dataclass
class Result:
    """A trained adapter with what is to be told about it."""

    adapter: adapters.Adapter
    losses: list[float]
    report: str


class Trainer:
    """One run. `model` is a loaded ComfyUI model patcher; call inside torch.inference_mode(False)."""

    def __init__(self, model: Any, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.method = methods.trainable(settings.method)
        self.device = model.load_device
        self.root = model.model.diffusion_model
        # Everything random comes from here, on the CPU: the same numbers on every device.
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.layers: dict[str, Layer] = {}
        for name, module in select(self.root, settings.layers, settings.pattern).items():
            with weight_of(module, torch.empty(0, device=self.device)) as weight:
                params = self.method.init(
                    weight, settings.rank, generator=self.generator, alpha=settings.alpha, **settings.options
                )
            self.layers[name] = Layer(module, op_of(module), params)
        self.parameters = [p for layer in self.layers.values() for p in layer.params.values()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=settings.learning_rate, weight_decay=0.0)

    def refresh(self) -> None:
        """Compute every layer's factors from its parameters, once a step."""
        for layer in self.layers.values():
            layer.factors = self.method.factors(layer.params, alpha=self.settings.alpha, **self.settings.options)

    def addition(self, layer: Layer) -> Addition:
        """What the layer's adapter adds to its activations."""
        return lambda x, y: self.method.forward(layer.factors, layer.op, x, y)

    def autocast(self) -> Any:
        """The compute precision of the forward pass."""
        wanted = self.settings.precision
        if wanted == "auto":
            wanted = "bf16" if self.device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
        return torch.autocast(self.device.type, torch.bfloat16) if wanted == "bf16" else contextlib.nullcontext()

    def loss(self, latents: Tensor, conds: Sequence[data.Conds]) -> Tensor:
        """The loss of one random batch, after its backward pass."""
        count = min(self.settings.batch_size, len(latents))
        rows = torch.randperm(len(latents), generator=self.generator)[:count].tolist()
        sigma = objective.sample_sigmas(self.model.model.model_sampling, count, self.generator).to(self.device)
        x0 = latents[rows]
        noise = torch.randn(x0.shape, generator=self.generator).to(self.device)
        captions = [conds[row if len(conds) > 1 else 0] for row in rows]
        total = torch.zeros((), device=self.device)
        for group in data.groups(captions):
            with self.autocast():
                losses = objective.loss(
                    self.model.model,
                    x0[group],
                    noise[group],
                    sigma[group],
                    data.batch([captions[index] for index in group]),
                    dict(self.model.model_options.get("transformer_options", {})),
                )
            part = losses.sum() / count
            part.backward(retain_graph=len(group) < count)  # groups share the factors' graph
            total += part.detach()
        return total

    def run(self, latents: Tensor, conds: Sequence[data.Conds], on_step: Callable[[Progress], None]) -> list[float]:
        """Train for the set number of steps and return the losses.

        Raises:
            ValueError: the loss stopped being a number.
        """
        losses: list[float] = []
        self.gradient_norms: list[float] = []
        additions = {name: self.addition(layer) for name, layer in self.layers.items()}
        blocks = checkpointing(self.root) if self.settings.gradient_checkpointing else contextlib.nullcontext()
        with frozen(self.root, additions), blocks:
            for step in range(1, self.settings.steps + 1):
                comfy.model_management.throw_exception_if_processing_interrupted()
                started = time.perf_counter()
                self.refresh()
                self.optimizer.zero_grad(set_to_none=True)
                loss = float(self.loss(latents, conds))
                norm = float(nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm))
                if not math.isfinite(loss) or not math.isfinite(norm):
                    raise ValueError(
                        f"The loss is no longer a number at step {step}: lower the learning rate "
                        f"({self.settings.learning_rate:g}) or use precision fp32."
                    )
                self.optimizer.step()
                losses.append(loss)
                self.gradient_norms.append(norm)
                on_step(Progress(step, self.settings.steps, loss, norm, time.perf_counter() - started))
        return losses

    @torch.no_grad()
    def finish(self) -> tuple[adapters.Adapter, dict[str, float]]:
        """The adapter under native keys, and |delta W| / |W| of each layer."""
        self.refresh()
        tensors: dict[str, Tensor] = {}
        change: dict[str, float] = {}
        for name, layer in self.layers.items():
            with weight_of(layer.module, torch.empty(0, device=self.device)) as weight:
                delta = self.method.delta(layer.factors, weight)
                change[name] = float(delta.norm() / weight.norm())
            for suffix, tensor in self.method.to_tensors(layer.factors).items():
                tensors[f"diffusion_model.{name}.{suffix}"] = tensor.cpu().contiguous()
        return adapters.Adapter(tensors), change


def summary(trainer: Trainer, losses: list[float], change: dict[str, float], seconds: float) -> str:
    """The proof of effect: layers, parameters, gradient norms, how far the weights moved."""
    settings = trainer.settings
    tenth = max(1, len(losses) // 10)
    first, last = (sum(part) / len(part) for part in (losses[:tenth], losses[-tenth:]))
    norms = trainer.gradient_norms
    values = sorted(change.values())
    lines = [
        f"{settings.method} rank {settings.rank}: {len(trainer.layers)} layers, "
        f"{sum(p.numel() for p in trainer.parameters):,} trained values, {settings.steps} steps in {seconds:.1f} s "
        f"({seconds / settings.steps:.3f} s a step)",
        f"loss {first:.4f} (first tenth) -> {last:.4f} (last tenth)",
        f"gradient norm {norms[0]:.3g} at the first step, {norms[-1]:.3g} at the last",
        f"|delta W| / |W|: median {values[len(values) // 2]:.4f}, smallest {values[0]:.4f}, largest {values[-1]:.4f}",
    ]
    if values[-1] == 0:
        lines.append("WARNING: the adapter changes nothing. Raise the learning rate or the number of steps.")
    return "\n".join(lines)


def train(
    model: Any,
    latents: Sequence[dict[str, Any]],
    conditioning: Sequence[list],
    settings: Settings,
    on_step: Callable[[Progress], None],
) -> Result:
    """Train one adapter on a ComfyUI MODEL and return it under native keys with its metadata.

    Args:
        model: a ModelPatcher; it is loaded, used as it is (patches included) and left as it was.
        latents: LATENT dicts, all of one size.
        conditioning: CONDITIONING lists, in all one caption or one for each latent.
        on_step: called after every step.

    Raises:
        ValueError: empty or mixed latents, wrong number of captions, no layer to train, a loss that is not a number.
    """
    if settings.precision not in PRECISIONS:
        raise ValueError(f"Unknown precision {settings.precision!r}: choose one of {', '.join(PRECISIONS)}.")
    with torch.inference_mode(False):
        batch = data.gather_latents(latents)
    entries = data.gather_conditioning(conditioning, len(batch))
    shape = [settings.batch_size, *batch.shape[1:]]
    # Loading happens in the node's inference mode, because it writes to inference tensors.
    comfy.model_management.load_models_gpu([model], memory_required=2 * model.memory_required(shape))
    was_training = getattr(comfy.model_management, "in_training", False)
    try:
        model.pre_run()
        comfy.model_management.in_training = True
        with torch.inference_mode(False), torch.enable_grad():
            with torch.no_grad():
                x0 = model.model.process_latent_in(batch).to(model.load_device)
                conds = data.encode_conditioning(model.model, entries, (1, *x0.shape[1:]), model.load_device)
            trainer = Trainer(model, settings)
            logging.info(
                "training %s on %d layers, %d values",
                settings.method,
                len(trainer.layers),
                sum(p.numel() for p in trainer.parameters),
            )
            started = time.perf_counter()
            losses = trainer.run(x0, conds, on_step)
            adapter, change = trainer.finish()
            report = summary(trainer, losses, change, time.perf_counter() - started)
            adapter.metadata = metadata(trainer, len(batch), change) | adapters.describe(adapter)
    finally:
        comfy.model_management.in_training = was_training
        model.cleanup()
    return Result(adapter, losses, report)


def metadata(trainer: Trainer, pictures: int, change: dict[str, float]) -> dict[str, str]:
    """What a file of this adapter is to say of its making."""
    settings = trainer.settings
    record = asdict(settings) | {"pictures": pictures, "largest_change": max(change.values())}
    projector = {"projector": settings.options["projector"]} if "projector" in settings.options else {}
    return projector | {
        "base_model": type(trainer.model.model).__name__,
        "base_hash": fingerprint(trainer.model),
        "training": json.dumps(record, sort_keys=True),
    }
