"""One run's state and its steps: an adapter on the activations of a frozen ComfyUI model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...deft_ops import adapter as adapters
from ...deft_ops import methods
from ...models.stored import weight_of
from ...models.titles import title_of
from ..data import batches
from ..data.material import Dataset
from ..settings import checkpointing as modes
from ..settings import optimizers
from ..settings.schedules import rate_factor
from ..settings.settings import Settings
from ..settings.targets import is_small_kind
from ..step import checking, looking, memory, objective, precision
from ..step.adapted import ChangeNow
from ..step.attention import pytorch_attention, without_override
from ..step.average import Average
from ..step.decompositions import Decompositions
from ..step.host import host_of
from ..step.layers import Notes, TrainedLayer, choose, make_layers
from ..step.leaves import Leaves
from ..step.network import FrozenNetwork, cast_weights, checkpointing, computing_in, frozen
from ..step.repairs import Repairs
from ..step.reproducible import deterministic, varying
from . import divergence

TRIES = 100  # of a step: each finds what the one before could not
LOST = 10  # batches in a row whose loss overflows in fp16


def training_title(settings: Settings, layers: int, of_text: int) -> str:
    """The title of a trained adapter: its method, its rank and the number of its layers, of text encoders too."""
    text = f" ({of_text} of text encoders)" if of_text else ""
    rank = f" rank {settings.rank}" if settings.training.has_rank else ""
    return f"{settings.method}{rank}: {layers} layers{text}"


class Trainer:
    """One run. `model` is a loaded ComfyUI model patcher; call inside torch.inference_mode(False).

    `decompositions` keeps what the method needs of the base, for the next run.
    """

    def __init__(
        self, model: Any, settings: Settings, dataset: Dataset, decompositions: Decompositions | None = None
    ) -> None:
        self.model, self.settings, self.dataset = model, settings, dataset
        self.device = model.load_device
        self.decompositions = decompositions or Decompositions(None)
        self.root = model.model.diffusion_model
        self.precision = precision.resolve(settings.precision, model.model, self.device)
        # Everything random comes from here, on the CPU: the same numbers on every device.
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.layers: dict[str, TrainedLayer] = {}
        self.text_layers: dict[str, TrainedLayer] = {}
        self.leaves = Leaves()
        self.frozen: list[FrozenNetwork] = []  # while it trains
        self.notes = Notes()
        self.build()
        self.optimizer = optimizers.make_optimizer(
            settings.optimizer,
            self.groups(),
            settings.learning_rate,
            settings.weight_decay,
            (settings.beta1, settings.beta2),
        )
        self.average = Average(self.parameters, settings.ema) if settings.ema else None
        self.captions = batches.Captions(model.model, dataset.entries, self.device)
        self.order, self.prior_order = (
            batches.Order([tuple(example.latent.shape) for example in examples], settings.batch_size, self.generator)
            for examples in (dataset.examples, dataset.prior)
        )
        self.step = 0
        self.losses: list[float] = []
        self.gradient_norms: list[float] = []
        self.mode = settings.mode  # of gradient checkpointing; auto, until one is chosen, is every block
        self.varying = ""  # why the same training would give other bits
        self.repairs = Repairs(title_of(model.model))
        self.scale = precision.LossScale() if self.precision.dtype == torch.float16 else None
        self.first = True  # whether no step was taken yet, since a resume
        self.checked = ""  # how the first step's gradient was checked
        self.drawn: dict[str, Any] = {}  # where the random numbers of the last gradients began
        self.resumed = ""  # the checkpoint that it goes on from, until its first step
        self.switched_off: list[str] = []  # what ComfyUI does when it samples and not while this trains

    # ------------------------------------------------------------------------------------------------- what is trained

    def build(self) -> None:
        """Make what is trained."""
        settings, text = self.settings, self.dataset.text
        self.method, self.training = methods.get(settings.method), settings.training
        self.own = settings.own
        chosen = choose(self.root, settings)
        self.layers = make_layers(chosen, settings, self.device, self.generator, self.decompositions, self.notes)
        if text is not None:
            # Numbers of its own, so that the model learns from the same noise with and without it.
            generator = torch.Generator().manual_seed((settings.seed + 1) % 2**64)
            chosen = choose(text.root, settings, text=True)
            self.text_layers = make_layers(
                chosen, settings, text.device, generator, self.decompositions, self.notes, "text."
            )

    def title(self) -> str:
        """The first line of the report: what is trained."""
        return training_title(self.settings, len(self.layers) + len(self.text_layers), len(self.text_layers))

    @property
    def parameters(self) -> list[Tensor]:
        """All trained tensors, in the order of the layers."""
        layers = [*self.layers.values(), *self.text_layers.values()]
        return [parameter for layer in layers for parameter in layer.params.values()]

    def groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups, by their rate relative to the learning rate; in the order of the parameters."""
        parameters_by_rate: dict[float, list[Tensor]] = {}
        for layers, rate in ((self.layers, 1.0), (self.text_layers, self.settings.text_rate)):
            for layer in layers.values():
                for name, parameter in layer.params.items():
                    layer_rate = rate * self.training.rate(name, is_small_kind(layer.module), self.own)
                    parameters_by_rate.setdefault(layer_rate, []).append(parameter)
        return [{"params": parameters, "rate": rate} for rate, parameters in parameters_by_rate.items()]

    def refresh(self) -> None:
        """Compute every layer's factors from its parameters, once a step."""
        self.leaves.clear()
        for layers in (self.layers.values(), self.text_layers.values()):  # these may be on another device
            params = [{name: value.float() for name, value in layer.params.items()} for layer in layers]
            factors_by_layer = self.training.factors_of(params, self.own)
            for layer, factors in zip(layers, factors_by_layer, strict=True):
                layer.factors = self.leaves.of(factors)
        for network in self.frozen:
            for place in network.placing:
                place()

    def change(self, layer: TrainedLayer) -> ChangeNow:
        """The change that the layer's adapter makes, as of the last `refresh`."""

        def weight() -> Tensor:
            with torch.no_grad(), weight_of(layer.module, torch.empty(0, device=layer.device)) as own_weight:
                return own_weight.clone()

        return lambda: self.training.change(layer.factors, weight, layer.kept)

    def delta(self, layer: TrainedLayer, factors: Any, weight: Tensor) -> Tensor:
        """The change of the layer's weight by these factors, float32."""
        if self.training.base is None:
            return self.method.delta(factors, weight)
        return self.training.base.delta(factors, weight, layer.kept)

    @contextlib.contextmanager
    def averaged(self) -> Any:
        """The moving averages in place of the parameters, if there are any."""
        if self.average is None:
            yield
            return
        trained_values = [parameter.detach().clone() for parameter in self.parameters]
        try:
            self.assign(self.average.values)
            yield
        finally:
            self.assign(trained_values)

    @torch.no_grad()
    def assign(self, values: Sequence[Tensor]) -> None:
        """Give the parameters other values."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    # ---------------------------------------------------------------------------------------------------------- a step

    def batch(self) -> Iterator[tuple[list[batches.Example], float]]:
        """The next examples with the weight of their mean: pictures, then prior pictures if there are any."""
        yield [self.dataset.examples[place] for place in self.order.next()], 1.0
        if self.dataset.prior:
            yield [self.dataset.prior[place] for place in self.prior_order.next()], self.settings.prior_weight

    def backward(self) -> float:
        """One random batch, forward and, where gradients are enabled, backward; the loss."""
        settings = self.settings
        total = torch.zeros((), device=self.device)
        pending: list[tuple[list[batches.Example], Tensor, Tensor, list[batches.Conds], float]] = []
        for examples, weight in self.batch():
            count = len(examples)
            sigma = batches.noise_levels(self.model.model, examples, self.generator, settings)
            shape = (1, *examples[0].latent.shape[1:])
            noise = torch.randn((count, *shape[1:]), generator=self.generator)
            if settings.noise_offset:
                offsets = torch.randn((count, noise.shape[1], *[1] * (noise.ndim - 2)), generator=self.generator)
                noise = noise + settings.noise_offset * offsets
            captions = [example.caption for example in examples]
            if self.dataset.empty is not None:
                dropped = torch.rand(count, generator=self.generator) < settings.caption_dropout
                both = zip(examples, dropped, strict=True)
                captions = [example.stand_in if drop else example.caption for example, drop in both]
            origins = [example.origin for example in examples]
            conds = [self.conds(caption, shape, origin) for caption, origin in zip(captions, origins, strict=True)]
            for group in batches.groups(conds, alone=objective.takes_one(self.root)):
                part = [examples[index] for index in group]
                share = weight * len(group) / count / settings.accumulation
                whole = group == list(range(count))
                theirs = (noise, sigma) if whole else (noise[group], sigma[group])
                pending.append((part, *theirs, [conds[index] for index in group], share))
        for place, (examples, noise, sigma, conds, share) in enumerate(pending):
            loss = self.loss(examples, noise.to(self.device), sigma, conds)
            if share != 1:
                loss = share * loss
            if torch.is_grad_enabled():
                scaled = loss if self.scale is None else loss * self.scale.value
                more = place + 1 < len(pending)  # groups share graphs of factors and captions
                scaled.backward(retain_graph=more)
                self.leaves.backward(retain_graph=more)
            total += loss.detach()
        return float(total)

    def conds(self, caption: int, shape: tuple[int, ...], origin: batches.Origin = batches.UNKNOWN) -> batches.Conds:
        """A caption for the network: encoded once, or in each step where the text encoder is trained."""
        text = self.dataset.text
        if text is not None and caption < len(text.entries):
            with self.repairs.text.watching():
                located = batches.LocatedModel(self.model.model, text.entries[caption], shape, origin)
                return text.conds(located, caption, origin.whole or shape, self.device)
        return self.captions.conds(caption, shape, origin)

    def loss(
        self, examples: Sequence[batches.Example], noise: Tensor, sigma: Tensor, conds: Sequence[batches.Conds]
    ) -> Tensor:
        """The mean weighted loss of examples of one size."""
        settings, model = self.settings, self.model.model
        x0 = torch.cat([example.latent for example in examples]).to(self.device)
        mask = None
        if any(example.mask is not None for example in examples):
            one = torch.ones(1, *x0.shape[2:])
            masks = [one if example.mask is None else example.mask.view_as(one) for example in examples]
            mask = torch.stack(masks).to(self.device)
        with batches.size_errors(self, examples), self.precision.context(self.device), self.repairs.network.watching():
            losses = objective.loss(
                model,
                x0,
                noise,
                sigma,
                batches.batch(conds),
                without_override(self.model.model_options.get("transformer_options", {})),
                settings.loss,
                settings.huber,
                mask,
            )
        if settings.weighting != "none":
            weights = objective.weights(model.model_sampling, sigma, settings.weighting, settings.gamma)
            losses = losses * weights.to(losses)
        strengths = [example.weight for example in examples]
        if any(strength != 1 for strength in strengths):
            losses = losses * losses.new_tensor(strengths)
        return losses.mean()

    def gradients(self) -> float:
        """Compute the gradients of one step, the same bits whenever it is taken; returns the loss.

        Where the same bits cannot be had, they are taken as they come, and `varying` has the reason. What the network
        needs to be differentiable is learnt on the way. In fp16, gradients that overflow are taken again with a smaller
        scale, and pictures whose loss does are passed over for the next ones.
        """
        random, lost = self.random_state(), 0
        for _ in range(TRIES):
            try:
                with deterministic(self.device, strict=not self.varying), self.repairs.active():
                    loss = self.accumulated()
            except RuntimeError as error:
                if memory.out_of_memory(error):
                    raise
                reason = varying(error)
                if not reason and not self.repairs.learn(error):
                    raise
                self.varying = reason or self.varying
            else:
                if not self.repairs.learnt():
                    self.drawn = random
                    if self.scale is None or self.scale.undo(self.parameters):
                        return loss
                    if not math.isfinite(loss) and lost < LOST:
                        random, lost = self.random_state(), lost + 1
                        self.scale.skipped += 1
                        continue
                    if not math.isfinite(loss) or not self.scale.overflowed():
                        return loss
            self.set_random_state(random)
        raise ValueError(
            f"The gradients of {self.repairs.model_name} could not be computed in {TRIES} tries: please report this."
        )

    def accumulated(self) -> float:
        """The gradients of all batches of a step, where those are enabled; the mean loss."""
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
        factor = rate_factor(settings.schedule, self.step, settings.steps, settings.warm_up, settings.cycles)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * group["rate"] * factor
        loss = self.gradients()
        if self.first and math.isfinite(loss):
            self.checked = checking.first_step(self, self.drawn)
        self.first = False
        norm = float(nn.utils.clip_grad_norm_(self.parameters, settings.max_grad_norm or math.inf))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise ValueError(f"The loss is no longer a number at step {self.step + 1}: {divergence.advice(self)}.")
        if self.scale is not None:
            self.scale.succeeded()
        self.optimizer.step()
        self.step, self.resumed = self.step + 1, ""
        if self.average is not None:
            self.average.update(self.parameters, self.step)
        self.losses.append(loss)
        self.gradient_norms.append(norm)
        divergence.check_growth(self)
        return loss, norm, settings.learning_rate * factor

    def encode_captions(self) -> None:
        """Encode the captions of all examples, with the model as it is without adapters."""
        for example in [*self.dataset.examples, *self.dataset.prior]:
            shape = tuple(example.latent.shape)
            for caption in {example.caption, example.stand_in} - {None}:
                if self.dataset.text is None or caption >= len(self.dataset.text.entries):
                    self.captions.conds(caption, shape, example.origin)

    @contextlib.contextmanager
    def prepared(self) -> Any:
        """Frozen networks with the adapters on their activations, PyTorch's attention; all undone afterwards."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(pytorch_attention())
            stack.enter_context(computing_in(self.model.model, self.precision.compute))
            self.encode_captions()
            changes = {name: self.change(layer) for name, layer in self.layers.items()}
            stack.callback(self.frozen.clear)
            self.frozen.append(stack.enter_context(frozen(self.root, changes, self.precision.dtype, self.device)))
            if self.dataset.text is not None:
                text_changes = {name: self.change(layer) for name, layer in self.text_layers.items()}
                text = self.dataset.text
                self.frozen.append(stack.enter_context(frozen(text.root, text_changes, device=text.device)))
            if self.mode != modes.OFF:
                host = host_of(self.device) if self.mode == modes.OFFLOADED else None
                stack.enter_context(checkpointing(self.root, self.repairs.blocks, self.mode, host))
            yield

    def release(self) -> None:
        """Hold no weight of the model's any more, until the next step: ComfyUI may move it."""
        for network in self.frozen:
            for release in network.releasing:
                release()

    def loaded_again(self) -> None:
        """ComfyUI has loaded the model again in the midst of a training, which sets how layers compute."""
        if self.precision.compute is not None:
            cast_weights(self.root)

    # ----------------------------------------------------------------------------------------------------------- state

    def random_state(self) -> dict[str, Any]:
        """The state of the random numbers, to be taken between two steps."""
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
                        delta = self.delta(layer, layer.factors, weight)
                        change[f"{prefix}.{name}"] = looking.relative_change(delta, weight)
                        factors = self.training.for_saving(layer.factors, weight)
                    for suffix, tensor in self.method.to_tensors(factors).items():
                        tensors[f"{prefix}.{name}.{suffix}"] = tensor.cpu().contiguous()
        return adapters.Adapter(tensors), change
