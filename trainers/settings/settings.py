"""What a training run is made of, and which of it decides the result."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ...deft_ops import methods
from ...deft_ops.methods.contract import ALPHA, RANK, Training
from ...deft_ops.settings import (
    ALWAYS,
    MORE,
    NEVER,
    TRAINING,
    Choice,
    Number,
    Seed,
    Setting,
    Switch,
    Text,
    described,
    entry,
)
from . import checkpointing as modes
from .formulas import LOSSES, SAME_SHIFT, SHIFTS, TIMESTEPS, WEIGHTINGS
from .optimizers import OPTIMIZERS
from .schedules import SCHEDULES
from .targets import CHOICES, rank_rules
from .textual_inversion import TEXTUAL_INVERSION, TokenSettings

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
ADAPTER_PRECISIONS = ("fp32", "bf16")
AS_CAPTIONED = -1.0  # a guidance that is left to the captions and to ComfyUI
ALMOST_ONE = 0.999999  # of what has no meaning at 1


@dataclass(frozen=True)
class Settings:
    """All settings of a training, one entry a setting: the checks, the widgets and their tooltips come from here. The
    order of the entries is that of the widgets; a new one is `later`.

    alpha None means a scale of 1. options are the method's own settings (`Training.settings` in deft_ops/methods), as
    far as they are not at their defaults or were given. They stand where Training Settings shows those that are not
    shown with the method.
    """

    method: str
    rank: int = entry(RANK)
    steps: int = entry(Number(at=TRAINING, low=1, shown=1_000_000, start=500, words="Number of training steps."))
    learning_rate: float = entry(
        Number(
            at=TRAINING,
            shown=1.0,
            step=1e-7,  # the front end cuts off what is smaller, and DreamBooth has 2.5e-6
            start=0.0,
            words="Step size of the optimizer. 0: the usual one for the method, the optimizer and"
            " the base; settings on auto then follow the base's recipe, too. 1e-4 suits "
            "LoRA on most models.",
        )
    )
    batch_size: int = entry(
        Number(at=TRAINING, low=1, shown=1024, words="Pictures per step, at most as many as there are."), 1
    )
    alpha: float | None = entry(ALPHA, None)
    layers: str = entry(
        Choice(
            at=TRAINING,
            options=CHOICES,
            called="choice of layers",
            words="Which layers get an adapter. The help page describes each choice.",
        ),
        "attention",
    )
    pattern: str = entry(
        Text(
            at=TRAINING,
            advanced=True,
            words="A regular expression: only layers whose path matches are trained. Empty: all.",
        ),
        "",
    )
    seed: int = entry(
        Seed(
            at=TRAINING, words="Seed of the initial values, the noise, the noise levels and the order of the pictures."
        ),
        0,
    )
    precision: str = entry(
        Choice(
            at=TRAINING,
            options=PRECISIONS,
            advanced=True,
            words="The precision that the network computes in, however it is stored. auto: bf16 "
            "if the GPU supports it; otherwise fp32, or fp16 with loss scaling for a model "
            "that ComfyUI runs in fp16. The trained values stay in fp32.",
        ),
        "auto",
    )
    gradient_checkpointing: bool = entry(
        Switch(
            at=TRAINING,
            advanced=True,
            words="Recompute each block in the backward pass: less memory for activations, up to half more time. "
            "Training Settings has more modes.",
        ),
        False,
    )
    # optimisation
    optimizer: str = entry(
        Choice(
            options=OPTIMIZERS,
            words="The algorithm that changes the values by their gradients. Some need a package, or another learning "
            "rate; the help page describes each.",
        ),
        "AdamW",
    )
    schedule: str = entry(
        Choice(options=SCHEDULES, words="How the learning rate falls over the steps, after the warm-up."), "constant"
    )
    warm_up: int = entry(Number(shown=1_000_000, words="Steps in which the learning rate rises from 0."), 0)
    cycles: int = entry(Number(low=1, shown=1000, advanced=True, words="Restarts of the cosine with restarts."), 1)
    accumulation: int = entry(
        Number(
            low=1, shown=1024, words="Batches per step, one after the other: like a larger batch, with less memory."
        ),
        1,
    )
    max_grad_norm: float = entry(
        Number(shown=1000.0, step=0.1, words="Gradients are scaled down to this norm; 0: off."), 1.0
    )
    ema: float = entry(
        Number(
            high=ALMOST_ONE,
            step=0.0001,
            words="Decay of a moving average of the adapter, which then is the result and varies "
            "less. 0: off. Usual: 0.99 to 0.999.",
        ),
        0.0,
    )
    weight_decay: float = entry(
        Number(
            shown=10.0,
            step=0.0001,
            advanced=True,
            words="Weight decay of the optimizer; pulls the adapter's values towards zero.",
        ),
        0.0,
    )
    beta1: float = entry(
        Number(
            high=ALMOST_ONE, step=0.001, advanced=True, words="The optimizer's decay of the gradient's moving average."
        ),
        0.9,
    )
    beta2: float = entry(
        Number(
            high=ALMOST_ONE,
            step=0.0001,
            advanced=True,
            words="The optimizer's decay of the squared gradient's moving average.",
        ),
        0.999,
    )
    options: dict[str, Any] = field(default_factory=dict)
    text_rate: float = entry(
        Number(shown=100.0, step=0.01, words="Learning rate of text encoders relative to the model's."), 1.0
    )
    # objective
    timesteps: str = entry(
        Choice(
            options=TIMESTEPS,
            words="Which noise levels are trained how often. The help page describes each choice.",
        ),
        "auto",
    )
    shift: float = entry(
        Number(
            shown=100.0,
            step=0.1,
            advanced=True,
            words="Shifts the noise levels up; 0: the model's own shift. SD3: 3.",
        ),
        0.0,
    )
    weighting: str = entry(
        Choice(
            options=WEIGHTINGS,
            words="Weight of a noise level's loss. Some are for flow models only; the help page describes each.",
        ),
        "none",
    )
    gamma: float = entry(
        Number(low=1e-6, shown=100.0, step=0.5, advanced=True, words="Gamma of min-SNR; its paper uses 5."), 5.0
    )
    loss: str = entry(
        Choice(options=LOSSES, words="How the network's error becomes the loss. The help page describes each choice."),
        "mse",
    )
    huber: float = entry(
        Number(
            low=1e-6, shown=10.0, step=0.01, advanced=True, words="The error at which huber changes from mse to l1."
        ),
        0.1,
    )
    noise_offset: float = entry(
        Number(
            shown=1.0,
            step=0.01,
            advanced=True,
            words="Strength of noise that is the same over the whole picture; allows darker pictures.",
        ),
        0.0,
    )
    caption_dropout: float = entry(
        Number(
            high=1.0,
            step=0.05,
            words="Share of captions that are replaced by the empty caption (connect it to Train Adapter).",
        ),
        0.0,
    )
    prior_weight: float = entry(
        Number(shown=100.0, step=0.1, words="Weight of the prior pictures' loss, if they are connected."), 1.0
    )
    shift_by_size: str = entry(
        Choice(
            options=(SAME_SHIFT, *SHIFTS),
            later=True,
            advanced=True,
            words="Shifts the noise levels up with the picture's size, as the trainers of these "
            "models do. Replaces shift.",
        ),
        SAME_SHIFT,
    )
    lowest_noise: float = entry(
        Number(
            high=0.99,
            step=0.005,
            later=True,
            advanced=True,
            words="Share of noise below which nothing is trained. Wan 2.2's high-noise model: 0.875.",
        ),
        0.0,
    )
    highest_noise: float = entry(
        Number(
            low=0.01,
            high=1.0,
            step=0.005,
            later=True,
            advanced=True,
            words="Share of noise above which nothing is trained. Wan 2.2's low-noise model: 0.875.",
        ),
        1.0,
    )
    guidance: float = entry(
        Number(
            low=AS_CAPTIONED,
            shown=100.0,
            step=0.1,
            later=True,
            advanced=True,
            words="Guidance during training for networks with such an input (Flux.1 dev, Flux.2 "
            "dev, HunyuanVideo), unless a caption has its own. Their trainers use 1. -1: "
            "ComfyUI's default, 3.5 or more.",
        ),
        AS_CAPTIONED,
    )
    checkpointing: str = entry(
        Choice(
            options=modes.CHECKPOINTING,
            called="mode of gradient checkpointing",
            later=True,
            advanced=True,
            words="Gradient checkpointing; replaces the training node's switch. The help page describes each mode. "
            "The result is the same.",
        ),
        modes.AS_SWITCHED,
    )
    # layers, for those who know them
    exclude: str = entry(
        Text(advanced=True, words="A regular expression: layers whose path matches are not trained."), ""
    )
    blocks: str = entry(
        Text(
            advanced=True,
            words="Only these blocks, by path: input_blocks.4-8, middle_block; or double_blocks.0-9. Empty: all.",
        ),
        "",
    )
    ranks: str = entry(
        Text(
            lines=True,
            advanced=True,
            words="Other ranks, one rule per line: a pattern, '=', a rank, for example attn2 = 4."
            " The first rule that matches a layer applies.",
        ),
        "",
    )
    adapter_precision: str = entry(
        Choice(
            options=ADAPTER_PRECISIONS,
            advanced=True,
            words="Precision of the trained values, their gradients and the optimizer's state. "
            "bf16 halves their memory but loses small steps.",
        ),
        "fp32",
    )

    @classmethod
    def of(cls, method: str, rank: int, steps: int, learning_rate: float, **values: Any) -> Settings:
        """Settings of values by name, the method's own among them; those beside `options` count."""
        return cls(method, rank, steps, learning_rate).changed(**values)

    def changed(self, **values: Any) -> Settings:
        """The settings with other values by name, the method's own among them."""
        field_names = {item.name for item in fields(self)}
        options = {**self.options, **values.pop("options", {})}
        options |= {name: value for name, value in values.items() if name not in field_names}
        return replace(self, **{name: value for name, value in values.items() if name in field_names}, options=options)

    @property
    def trains_token(self) -> bool:
        """Whether the vectors of a token are trained, and no layers: such a run has no `training`."""
        return self.method == TEXTUAL_INVERSION

    @property
    def training(self) -> Training[Any, Any, Any]:
        """How the method is trained."""
        return methods.training_of(self.method)

    @property
    def own(self) -> Any:
        """The method's own settings."""
        return self.training.settings_of(rank=self.rank, alpha=self.alpha, **self.options)

    @property
    def mode(self) -> str:
        """The mode of gradient checkpointing, of trainers/settings/checkpointing.py."""
        if self.checkpointing != modes.AS_SWITCHED:
            return self.checkpointing
        return modes.EVERY if self.gradient_checkpointing else modes.OFF

    def check(self) -> None:
        """Raise ValueError, with the name of the setting, for a value that is no option or out of range."""
        for name, (setting, _) in described(self).items():
            setting.check(name, getattr(self, name))
        rank_rules(self.ranks)
        if self.lowest_noise >= self.highest_noise:
            raise ValueError(
                f"The setting lowest_noise must be below highest_noise, not {self.lowest_noise:g} and "
                f"{self.highest_noise:g}."
            )
        own_settings = described(TokenSettings if self.trains_token else self.training.settings) | shared_settings()
        for name, value in self.options.items():
            if name not in own_settings:
                raise ValueError(f"The method {self.method} has no setting {name!r}: it has {', '.join(own_settings)}.")
            own_settings[name][0].check(name, value)
        if CHOICES[self.layers].small and not self.trains_token and not self.training.small:
            raise ValueError(f"Norms cannot have a rank: choose other layers than {self.layers!r} for {self.method}.")

    def record(self) -> dict[str, Any]:
        """All settings by name, for a record of the run; of methods' own see ALWAYS and NEVER in deft_ops."""
        record = asdict(self)
        for name, (setting, default) in method_settings().items():
            if setting.recorded == ALWAYS:
                record[name] = record["options"].pop(name, default)
            elif setting.recorded == NEVER:
                record["options"].pop(name, None)
        return record

    def identity(self) -> dict[str, Any]:
        """The settings that decide a step's result: all but the number of steps where the schedule does not use it.

        What came later and stands at its default is skipped: runs from before it go on. So is the mode of
        checkpointing: the bits are the same, and a run that ran out of memory goes on in another one.
        """
        record = self.record()
        del record["checkpointing"]
        if not SCHEDULES[self.schedule].uses_steps:
            del record["steps"]
        for name, (setting, default) in (described(self) | shared_settings()).items():
            if setting.later and name in record and record[name] == default:
                del record[name]
        return record


def method_settings() -> dict[str, tuple[Setting, Any]]:
    """The own settings of all methods by name, each with its default. A name means the same in every method."""
    trainings = [methods.training_of(name) for name in methods.TRAINABLE]
    return {name: pair for training in trainings for name, pair in described(training.settings).items()}


def shared_settings() -> dict[str, tuple[Setting, Any]]:
    """The methods' own settings that are in the record of every run; other methods ignore them."""
    return {name: pair for name, pair in method_settings().items() if pair[0].recorded == ALWAYS}


def training_settings() -> dict[str, tuple[Setting, Any]]:
    """The settings that Training Settings shows, in the order of its widgets."""
    entries, settings = described(Settings), dict[str, tuple[Setting, Any]]()
    for item in fields(Settings):
        if item.name == "options":
            settings |= method_settings()
        elif item.name in entries:
            settings[item.name] = entries[item.name]
    return {name: pair for name, pair in settings.items() if pair[0].at == MORE}
