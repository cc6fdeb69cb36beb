"""The contract of a method: a record of typed functions and traits, and of its training.

Every module of a method ends with `METHOD = Method(...)`, and the list in `__init__.py` has it in one line. All else of
the pack asks the record: nothing outside of the method's own file names it. Shapes: a weight is [out, in, ...], in* is
the product of all dimensions but the first, r the rank.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from ..changes import Change
from ..layer_ops import LayerOp
from ..settings import NEVER, WITH_METHOD, Number, Switch, described

F = TypeVar("F")  # the factors of one layer, a frozen dataclass
S = TypeVar("S")  # the method's own settings, a frozen dataclass of `entry(...)`
K = TypeVar("K")  # what training keeps of a base weight, a frozen dataclass of tensors
_FactorsT = TypeVar("_FactorsT", contravariant=True)
Shape = tuple[int, ...]
_Pair = tuple[Tensor, Tensor]
# The base weight as it acts, float32, on the device of the layer; fetched, and dequantised, when it is called. Nobody
# may write into it, and autograd must not keep it.
Weight = Callable[[], Tensor]
# PEFT's tensors by "<module>.<part>" and its configuration (without the target modules), of factors by layer name, the
# layers' module names, the base weights' shapes where they are known, and what messages call the adapter. Raises
# ValueError for what PEFT cannot hold.
PeftForm = Callable[
    [Mapping[str, F], Mapping[str, str], Mapping[str, Shape], str], tuple[dict[str, Tensor], dict[str, Any]]
]


# ------------------------------------------------------------------------------------------ settings that methods share

RANK = Number(
    at=WITH_METHOD,
    low=1,
    shown=1024,
    start=4,
    words="Rank of each layer's change: a higher rank can learn more but follows prompts less. The papers use 4 and 8.",
)
ALPHA = Number(
    at=WITH_METHOD,
    shown=4096.0,
    step=0.5,
    start=0.0,
    unset=0.0,
    advanced=True,
    words="Scale of the injected part: alpha / rank. 0 means a scale of 1.",
)
KEEP_DECOMPOSITION = Switch(
    at=WITH_METHOD,
    advanced=True,
    recorded=NEVER,
    words="Keep the decomposition of the base in ComfyUI's user folder, for the next run: it takes minutes for a large "
    "model, and up to twice the trained layers' size in float32.",
)


@dataclass(frozen=True)
class NoSettings:
    """The settings of a method that has none."""


# ---------------------------------------------------------------------------------------------------------- functions


class Delta(Protocol[_FactorsT]):
    """The change of a weight [out, in, ...] times the strength, of the same shape, float32.

    `removal` and `injection` weigh the two terms of a method that has both.
    """

    def __call__(
        self,
        factors: _FactorsT,
        weight: Tensor,
        /,
        *,
        strength: float = 1.0,
        removal: float = 1.0,
        injection: float = 1.0,
    ) -> Tensor: ...


class ToLora(Protocol[_FactorsT]):
    """The exact LoRA form for a weight at strength 1: up [out, k] and down [k, in*], float32."""

    def __call__(
        self, factors: _FactorsT, weight: Tensor, /, *, removal: float = 1.0, injection: float = 1.0
    ) -> _Pair: ...


class Forward(Protocol[_FactorsT]):
    """The addition to a layer's output y = W x without bias, in the dtype of x; linear in `removal` and `injection`."""

    def __call__(
        self, factors: _FactorsT, op: LayerOp, x: Tensor, y: Tensor, /, *, removal: float = 1.0, injection: float = 1.0
    ) -> Tensor: ...


@dataclass(frozen=True)
class BestPair:
    """The best approximation of a change by rank r: up [out, r] and down [r, in*], float64.

    One of the two has the singular values as norms, the other one unit norms: up where `left`. squares [r]: the squared
    singular values. after [out, in*]: the tuned weight.
    """

    up: Tensor
    down: Tensor
    squares: Tensor
    left: bool
    after: Tensor


@dataclass(frozen=True)
class Terms:
    """A change up (injected - removed): up [out, r], removed and injected [r, in*], float32. injected None: nothing."""

    up: Tensor
    removed: Tensor
    injected: Tensor | None


def no_layers(suffixes: Collection[str]) -> bool:
    """Return False: the method claims all of its layers itself."""
    return False


def no_misfit(factors: Any, shape: Shape) -> str | None:
    """Return None: the method has no reason of its own against a weight."""
    return None


def same_rate(parameter: str, small: bool, settings: Any) -> float:
    """The same learning rate for everything."""
    return 1.0


def as_asked(params: Mapping[str, Tensor], settings: Any) -> str:
    """An empty text: `init` did all as the settings ask for."""
    return ""


def as_they_are(factors: F, weight: Tensor) -> F:
    """The factors as they are: files hold nothing else."""
    return factors


def any_rank(rows: int, settings: Any) -> int | None:
    """Return None: the method has no limit of its own."""
    return None


# ----------------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Base(Generic[F, K]):
    """The values that training needs of each base weight, computed once and kept, on disk if the user likes.

    of: of a weight [out, in, ...] or [n]. kind: its type. delta: the change of a weight by what is kept, float32.
    """

    of: Callable[[Tensor], K]
    kind: Callable[..., K]
    delta: Callable[[F, Tensor, K], Tensor]


@dataclass(frozen=True)
class UsualRates:
    """The learning rates, for AdamW, that a method was published with: from the lowest to the highest, and by whom."""

    lowest: float
    highest: float
    source: str


@dataclass(frozen=True)
class Training(Generic[F, S, K]):
    """The training of a method.

    words: what it does, for the list on the training node's help page; a clause, without a full stop.
    settings: its own settings, in the order of their widgets. `rank` and `alpha` among them are those of the run.
    init: trainable float32 tensors by name for a weight [out, in, ...] on its device, a rank, the settings and the
        generator that everything random comes from.
    factors_of: the factors of many layers at once, differentiable, of their tensors by name in float32.
    change: what is changed in a step, by factors, weight and what is kept of it (None without `base`). A change that
        does not call the weight costs no dequantisation.
    base: what it keeps of base weights.
    small: whether norms can be trained. tables: whether tables of token embeddings can, too.
    init_bias: the same as init for a bias [out]. kept_values: how many trained and how many fixed values it keeps of a
        weight of a shape, where that is as much as the weight has: room is looked for first.
    rate: the learning rate of a tensor relative to others', by its name and whether it is of a norm.
    largest_rank: the largest rank of a layer with so many rows, by the settings. given_rank: the rank that `init` gave
        a layer, where that may be lower than it was asked for. otherwise: what else `init` did otherwise than the
        settings ask for, as words; empty for nothing.
    for_saving: the factors with what files hold of the base weight beside them.
    usual_rates: the learning rates that a run's own is compared with; None: with nothing.
    """

    words: str
    settings: type[S]
    init: Callable[[Tensor, int, S, torch.Generator], dict[str, Tensor]]
    factors_of: Callable[[Sequence[Mapping[str, Tensor]], S], list[F]]
    change: Callable[[F, Weight, Any], Change]
    base: Base[F, K] | None = None
    small: bool = False
    tables: bool = False
    init_bias: Callable[[Tensor], dict[str, Tensor]] | None = None
    kept_values: Callable[[Sequence[int]], tuple[int, int]] | None = None
    rate: Callable[[str, bool, S], float] = same_rate
    largest_rank: Callable[[int, S], int | None] = any_rank
    given_rank: Callable[[Mapping[str, Tensor]], int] | None = None
    otherwise: Callable[[Mapping[str, Tensor], S], str] = as_asked
    for_saving: Callable[[F, Tensor], F] = as_they_are
    usual_rates: UsualRates | None = None

    @property
    def has_rank(self) -> bool:
        """Whether a rank is chosen."""
        return "rank" in described(self.settings)

    def settings_of(self, **values: Any) -> S:
        """The method's settings with these values; those of other methods are skipped."""
        names = {item.name for item in fields(self.settings)}  # type: ignore[arg-type]
        return self.settings(**{name: value for name, value in values.items() if name in names})

    def factors(self, params: Mapping[str, Tensor], settings: S) -> F:
        """The factors of one layer."""
        (factors,) = self.factors_of([params], settings)
        return factors


@dataclass(frozen=True)
class CoreTraining(Generic[F]):
    """The training of a method by ComfyUI's own Train LoRA, which keeps parameters by their suffixes in files.

    init: float32 parameters for a weight [out, in, ...], of a rank and a generator. factors: of such parameters,
    differentiable. params: parameters from which these factors are trained on; raises ValueError, its message to be put
    after "Train LoRA cannot continue from this file: ", where there are none.
    """

    init: Callable[[Tensor, int, torch.Generator], dict[str, Tensor]]
    factors: Callable[[Mapping[str, Tensor]], F]
    params: Callable[[F], dict[str, Tensor]]


# ------------------------------------------------------------------------------------------------------------- method


@dataclass(frozen=True, kw_only=True)
class Method(Generic[F]):
    """A method: its names first, then its computations, then its traits.

    name: in files, widgets and tables. title, source: its usual name and its paper, which Adapter Info shows.
    suffixes: of its tensors in files. claims: whether a layer with these suffixes is one of the method's.
    Factors: one layer's adapter. from_tensors: of a layer's file entries; raises ValueError where they do not fit
        together. to_tensors: the entries; contiguous, detached.
    rank: of a layer's file entries. fits: whether factors are for a weight of this shape. misfit: why factors whose
        sizes are right do not belong to it.
    delta, to_lora, forward: see `Delta`, `ToLora`, `Forward`. forward is None where the weight is needed.
    low_rank: whether `to_lora` is cheap: of the rank r, without a decomposition.
    has_rank: whether layers have a rank that somebody chose, which Adapter Info shows. sized_by_rank: whether the rank
        says how large the adapter is, so that tables of scores show it.
    core_suffixes: those of `suffixes` that a class of ComfyUI's own reads. A layer of these alone is left to that class
        by ComfyUI's own loaders, whatever `claims` says.
    of_core: whether a layer with these suffixes, which the method does not claim, is one of its layers that ComfyUI's
        own class applies. It is written for PEFT like the others.
    marks: parts of tensor names that tell the method of a layer that ComfyUI's own loader reads; of several methods the
        last of the list counts.
    any_dtype: whether its tensors may be whole numbers. flags: suffixes of which the tensors are no floating numbers.
    halves: suffixes that are of no other method or program: alone they are a damaged layer. whole: suffixes that every
        layer has, where some of them alone would be a layer of another method.
    of_peft: of suffixes that PEFT writes too, whether a layer of this name is PEFT's, whose meaning is in a record.
    terms: the two terms of a change that removes and injects. extracted: the factors that are the best change of a
        rank.
    peft: its form for PEFT, or the reason why it has none. peft_convolutions: whether the form holds convolutions.
    training: how it is trained, None of what is read and applied only. core_training: how ComfyUI's own node trains it,
        None where that has no such algorithm, or one of its own; `forward` is needed then.
    """

    name: str
    title: str
    source: str
    suffixes: tuple[str, ...]
    claims: Callable[[Collection[str]], bool]
    Factors: Callable[..., F]
    from_tensors: Callable[[Mapping[str, Tensor]], F]
    to_tensors: Callable[[F], dict[str, Tensor]]
    rank: Callable[[Mapping[str, Tensor]], int]
    fits: Callable[[F, Shape], bool]
    delta: Delta[F]
    to_lora: ToLora[F]
    peft: PeftForm[F] | str
    forward: Forward[F] | None = None
    misfit: Callable[[F, Shape], str | None] = no_misfit
    low_rank: bool = False
    has_rank: bool = False
    sized_by_rank: bool = False
    core_suffixes: tuple[str, ...] = ("alpha",)
    of_core: Callable[[Collection[str]], bool] = no_layers
    marks: tuple[str, ...] = ()
    any_dtype: bool = False
    flags: tuple[str, ...] = ()
    halves: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    of_peft: Mapping[str, Callable[[str], bool]] = field(default_factory=dict)
    terms: Callable[[F, Tensor], Terms] | None = None
    extracted: Callable[[BestPair], F] | None = None
    peft_convolutions: bool = False
    training: Training[F, Any, Any] | None = None
    core_training: CoreTraining[F] | None = None
