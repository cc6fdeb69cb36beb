"""Every base that ComfyUI loads is trained through the real loop, with the gradients of plain autograd, or refused.

The reference is the network itself with ordinary weights W + delta(W), in which PyTorch's own
allow_mutation_on_saved_tensors takes care of what ComfyUI's code writes in place. It costs minutes for all methods on
all bases, so each base has one of them, and each kind of base has all.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from .bases import BASES
from .bases.base import Base
from .pack import Pack
from .test_training import as_loaded, settings

METHODS = ("lora", "deft", "para", "svdiff", "dreambooth", "dora", "oft", "lokr")
FULL_RANK = ("svdiff", "dreambooth")
# What ComfyUI 0.24.0 cannot make, or not run on two pictures (its WanDancer takes one rate of frames).
NEWER = {"PiD 1.5", "WAN22_WanDancer", "WAN22_WanDancer at 7.5 fps"}


def here(bases: list[Base]) -> list[Base]:
    """The bases whose class this ComfyUI has."""
    import comfy.supported_models

    names = {cls.__name__ for cls in comfy.supported_models.models}
    return [base for base in bases if base.name in names]


@dataclass(frozen=True)
class Case:
    """A base with how it is trained. stored: the dtype of its weights; precision: of the computation."""

    base: Base
    method: str
    checkpointing: bool
    stored: torch.dtype
    precision: str

    @property
    def everyday(self) -> dict[str, Any]:
        """What is run once every day: each class, each kind of base with each method and in each precision. Of an older
        ComfyUI each kind and each method: its list is what 0.30.0 has."""
        if is_older():
            return {"kind": self.base.kind, "method": self.method, "precision": self.precision}
        return {
            "class": self.base.name,
            "method": (self.base.kind, self.method),
            "precision": (self.base.kind, self.precision, self.stored, self.checkpointing),
        }

    def __str__(self) -> str:
        stored = str(self.stored).removeprefix("torch.")
        return f"{self.base.title}-{self.method}-{stored}-{self.precision}{'-checkpointed' * self.checkpointing}"


def cases() -> list[Case]:
    """One training of each base, in float32: that has the narrow limits. One of four in bf16, too.

    The methods go round among the bases of a kind, at least once.
    """
    made, kinds = [], {base.kind: [other for other in BASES if other.kind == base.kind] for base in BASES}
    for bases in kinds.values():
        for place in range(max(len(bases), len(METHODS))):
            base, round = bases[place % len(bases)], place // len(METHODS)
            # Both halves of the methods have each of the four, round by round.
            checkpointing, stored = bool((place + round) % 2), (torch.float32, torch.bfloat16)[(place // 2 + round) % 2]
            made.append(Case(base, METHODS[place % len(METHODS)], checkpointing, stored, "fp32"))
            if place % 4 == 0:
                method = METHODS[(place // 4) % len(METHODS)]
                made.append(Case(base, method, not checkpointing, torch.bfloat16, "bf16"))
    return made


def is_older() -> bool:
    """Whether this ComfyUI is older than the list of bases."""
    import comfyui_version

    return tuple(map(int, comfyui_version.__version__.split(".")[:2])) < (0, 30)


def chosen() -> list[Case]:
    """The cases of this ComfyUI; of an older one than the list was made from, one for each class, to save time."""
    listed = [case for case in cases() if case.base in here(BASES)]
    if not is_older():
        return listed
    first = {case.base.name: case for case in reversed(listed)}
    return [case for case in listed if first[case.base.name] is case and case.base.title not in NEWER]


@dataclass
class Trained:
    """What a training was given and what it came to: of the first step all that is needed to take it by hand."""

    result: Any = None
    trainer: Any = None
    forwards: list[tuple] = field(default_factory=list)
    start: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    gradients: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    loss: float = 0.0


def training(pack: Pack, case: Case, model: Any, patch: pytest.MonkeyPatch, **chosen: Any) -> Trained:
    """Two steps of the real loop."""
    seen = Trained()
    trainers = pack.trainer.Trainer
    take_step, loss, accumulated = trainers.take_step, trainers.loss, trainers.accumulated

    def watched_step(trainer: Any) -> Any:
        if seen.trainer is None:
            seen.trainer = trainer
            seen.start = {
                name: {key: value.detach().clone() for key, value in layer.params.items()}
                for name, layer in trainer.layers.items()
            }
        taken = take_step(trainer)
        if not seen.gradients:
            seen.loss = taken[0]
            seen.gradients = {
                name: {key: value.grad.clone() for key, value in layer.params.items() if value.grad is not None}
                for name, layer in trainer.layers.items()
            }
        return taken

    def watched_loss(trainer: Any, examples: Any, noise: Tensor, sigma: Tensor, conds: Any) -> Tensor:
        if trainer is seen.trainer and not seen.gradients and torch.is_grad_enabled():
            seen.forwards.append((examples, noise, sigma, conds))
        return loss(trainer, examples, noise, sigma, conds)

    def watched_pass(trainer: Any) -> float:
        if not seen.gradients and torch.is_grad_enabled():
            seen.forwards.clear()  # what needs repairs is taken again
        return accumulated(trainer)

    patch.setattr(pack.trainer.Trainer, "take_step", watched_step)
    patch.setattr(pack.trainer.Trainer, "accumulated", watched_pass)
    patch.setattr(pack.trainer.Trainer, "loss", watched_loss)
    everything = {"layers": "everything" if case.method in FULL_RANK else "all linear and convolution"}
    choices = settings(
        pack,
        case.method,
        2,
        2,
        1e-3,
        precision=case.precision,
        batch_size=2,
        max_grad_norm=0.0,
        gradient_checkpointing=case.checkpointing,
        seed=3,
        **everything | chosen,
    )
    with torch.inference_mode():
        material = pack.material.Material([case.base.latents()], [case.base.conditioning(5)])
        seen.result = pack.loop.train(model, material, choices, lambda progress: None)
    return seen


@contextlib.contextmanager
def weights_in_place(network: Any, weights: dict[str, Tensor]) -> Iterator[None]:
    """Other tensors as the network's weights."""
    kept = []
    try:
        for name, value in weights.items():
            path, _, key = name.rpartition(".")
            module = network.get_submodule(path)
            kept.append((module, key, module._parameters[key]))
            module._parameters[key] = value
        yield
    finally:
        for module, key, value in kept:
            module._parameters[key] = value


def dora_of(leaves: dict[str, Tensor], weight: Tensor) -> Tensor:
    """m V / |V| of V = W + up down, with |V| as a constant: DoRA's paper, section 4.3."""
    merged = weight.flatten(1) + leaves["up"] @ leaves["down"]
    norms = merged.norm(dim=1).detach()
    return (leaves["magnitude"] / norms)[:, None].mul(merged).view_as(weight)


def reference(
    pack: Pack, seen: Trained, model: Any, patch: pytest.MonkeyPatch
) -> tuple[dict[str, dict[str, Tensor]], float]:
    """The trained tensors with gradients by plain autograd through W + delta(W), and the loss."""
    import comfy.model_management

    trainer = seen.trainer
    network = model.model.diffusion_model
    modules = dict(network.named_modules())
    leaves, merged = {}, {}
    for name, start in seen.start.items():
        leaves[name] = {key: value.clone().requires_grad_() for key, value in start.items()}
        factors = trainer.training.factors(leaves[name], trainer.own)
        weight, bias = modules[name].weight.detach(), getattr(modules[name], "bias", None)
        if "magnitude" in start:  # no gradient goes through DoRA's norm
            change = dora_of(leaves[name], weight.float()) - weight.float()
        else:
            change = trainer.delta(trainer.layers[name], factors, weight.float())
        merged[f"{name}.weight"] = (weight.float() + change).to(weight.dtype)
        if "bias" in start:
            merged[f"{name}.bias"] = (bias.detach().float() + leaves[name]["bias"]).to(bias.dtype)
    patch.setattr(comfy.model_management, "in_training", True)
    add = torch.add  # newer language models write its result into their input; nobody reads that again
    patch.setattr(torch, "add", lambda *values, out=None, **named: add(*values, **named))
    with (
        pack.without_inference_features(model),
        weights_in_place(network, merged),
        torch.autograd.graph.allow_mutation_on_saved_tensors(),
    ):
        losses = [
            pack.objective.loss(
                model.model,
                torch.cat([example.latent for example in examples]),
                noise,
                sigma,
                pack.batches.batch(conds),
                {},
            )
            for examples, noise, sigma, conds in seen.forwards
        ]
        loss = torch.cat(losses).mean()
        loss.backward()
    return leaves, float(loss)


def errors(gradients: dict[str, dict[str, Tensor]], expected: dict[str, dict[str, Tensor]]) -> tuple[float, float]:
    """The relative error of all gradients, and the largest of a tensor whose gradient is not zero but for rounding."""
    leaves = [(name, key, leaf.grad) for name, params in expected.items() for key, leaf in params.items()]
    largest = max(float(grad.norm()) for _, _, grad in leaves if grad is not None)
    worst, compared, total, wrong = 0.0, 0, 0.0, 0.0
    for name, key, grad in leaves:
        own = gradients[name].get(key)
        if grad is None:
            assert own is None or not own.any(), f"{name} is not used, and has a gradient"
            continue
        assert own is not None, f"{name} has no gradient"
        size, error = float(grad.norm()), float((own - grad).norm())
        worst = max(worst, error / (size + 1e-3 * largest))
        total, wrong = total + size**2, wrong + error**2
        compared += size > 1e-3 * largest
    assert compared > 1
    return (wrong / total) ** 0.5, worst


LIMITS = {"fp32": 1e-4, "bf16": 0.1}


@pytest.mark.parametrize("case", chosen(), ids=str)
def test_it_trains(pack: Pack, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps; the gradients of the first are those of plain autograd in the same precision.

    In bf16 a network may be far from itself in float32 (Flux's guidance is rounded), whoever computes it.
    """
    model = as_loaded(lambda: case.base.model(case.stored))
    seen = training(pack, case, model, monkeypatch)
    ordinary = case.base.model(torch.float32 if case.precision == "fp32" else case.stored)
    if case.precision == "fp32" and case.stored != torch.float32:  # the values as they are stored
        stored = {name: value.dtype for name, value in model.model.diffusion_model.state_dict().items()}
        network = ordinary.model.diffusion_model
        values = {name: value.to(stored[name]).float() for name, value in network.state_dict().items()}
        network.load_state_dict(values)
    expected, loss = reference(pack, seen, ordinary, monkeypatch)
    assert seen.loss == pytest.approx(loss, rel=LIMITS[case.precision])
    of_all, worst = errors(seen.gradients, expected)
    coarse = case.base.coarse or (case.base.coarse_once and is_older())
    assert of_all < (0.05 if coarse and case.stored != torch.float32 else LIMITS[case.precision])
    assert worst < 3e-4 or case.precision == "bf16" or coarse
    assert seen.result.losses[1] != seen.result.losses[0]
    assert all(bool(torch.isfinite(value).all()) for value in seen.result.adapter.values())


def test_each_kind_of_base_has_each_method() -> None:
    covered = {(case.base.kind, case.method) for case in cases()}
    kinds = {base.kind for base in BASES}
    assert covered == {(kind, method) for kind in kinds for method in METHODS}
    for kind in kinds:
        of_kind = [case for case in cases() if case.base.kind == kind]
        assert {case.checkpointing for case in of_kind} == {True, False}
        assert {case.precision for case in of_kind} == {"fp32", "bf16"}


def test_every_class_of_comfyui_is_trained_or_refused(pack: Pack) -> None:
    import comfy.supported_models

    names = {cls.__name__ for cls in comfy.supported_models.models}
    listed = pack.bases.TRAINED | set(pack.bases.REFUSED) | pack.bases.UNTRIED
    assert not names - listed, "ComfyUI has classes that trainers/step/bases.py lacks"
    assert not pack.bases.TRAINED & set(pack.bases.REFUSED)
    assert {base.name for base in BASES} == pack.bases.TRAINED


def test_the_documentation_lists_the_same(pack: Pack, root: Path) -> None:
    text = (root / "docs" / "architectures.md").read_text(encoding="utf-8")
    section = text.partition("## Which bases train")[2].partition("\n## ")[0]
    trained, refused = section.split("Refused, with this error message")
    for part, names in ((trained, pack.bases.TRAINED), (refused, pack.bases.REFUSED)):
        rows = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("| ")][1:]
        listed = {name.strip() for row in rows for name in row[part is trained].split(",")}
        assert listed == set(names)
    for name, what in pack.bases.REFUSED.items():
        assert any(name in line and f"| {what} |" in line for line in refused.splitlines())


def test_refused_bases_are_refused_by_name(pack: Pack) -> None:
    """The error comes before anything is looked at: their latents and captions are of another kind."""
    import types

    import comfy.supported_models

    for name, what in pack.bases.REFUSED.items():
        if not hasattr(comfy.supported_models, name):
            continue  # of a newer ComfyUI
        cls = getattr(comfy.supported_models, name)
        model = types.SimpleNamespace(model=types.SimpleNamespace(model_config=cls.__new__(cls)))
        title = pack.titles.title_of(model.model)
        assert title != "BaseModel"
        message = f"{title} cannot be trained: {what}. Choose a model that makes pictures"
        with pytest.raises(ValueError, match=re.escape(message)):
            pack.loop.train(model, pack.material.Material([], []), settings(pack), lambda progress: None)
