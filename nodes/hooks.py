"""Adapters as hooks: for one conditioning only, and scheduled over the steps."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from ..patches.apply import STACKING
from ..patches.hooks import create_hook
from .adapters import CATEGORY, strength_input
from .sockets import LoraModel


class DEFTCreateHookAdapter(io.ComfyNode):
    """The node that makes HOOKS of a LORA_MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: an adapter, strengths and earlier hooks; the hooks and a report."""
        return io.Schema(
            node_id="DEFTCreateHookAdapter",
            display_name="Create Hook Adapter",
            category=f"{CATEGORY}/hooks",
            description="Creates a hook from an adapter, as Create Hook LoRA does from a file: "
            "Cond Set Props puts it on one conditioning, Set CLIP Hooks on the text "
            "encoder, Set Hook Keyframes changes its strength over the steps. For "
            "separate schedules of removal and injection, create two hooks of the "
            "same adapter, one with injection 0 and one with removal 0.",
            search_aliases=[
                "hook",
                "hooks",
                "schedule",
                "keyframe",
                "create hook lora",
                "deft",
                "para",
                "adapter",
                "lora schedule",
                "钩子",
            ],
            inputs=[
                LoraModel.Input("adapter", tooltip="The adapter, from Load Adapter File or Train Adapter."),
                io.Model.Input(
                    "model", tooltip="The diffusion model that is sampled, to match its layers. It is not changed."
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="The CLIP that Set CLIP Hooks gets, for adapters of text encoders."
                ),
                strength_input("strength_model", "the diffusion model"),
                strength_input("strength_clip", "the CLIP"),
                io.Float.Input(
                    "removal",
                    default=1.0,
                    min=-20.0,
                    max=20.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Weight of the removed part, Q right^T W, of methods that remove one, such as DEFT; "
                    "others ignore it.",
                ),
                io.Float.Input(
                    "injection",
                    default=1.0,
                    min=-20.0,
                    max=20.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Weight of the injected part, s Q R; for a LoRA, of the whole change.",
                ),
                io.Combo.Input(
                    "stacking",
                    options=list(STACKING),
                    default="from_base",
                    advanced=True,
                    tooltip="from_base computes the change from the weights without any adapter "
                    "or hook: hooks add up in any order. sequential computes it from the "
                    "weights as changed by the model's adapters and the hooks before this"
                    " one, so a later removal also removes what an earlier hook injected.",
                ),
                io.Hooks.Input("prev_hooks", optional=True, tooltip="Hooks before this one."),
            ],
            outputs=[
                io.Hooks.Output(display_name="hooks", tooltip="For Cond Set Props, Set CLIP Hooks or a schedule."),
                io.String.Output(display_name="report", tooltip="Matched layers and skipped layers."),
            ],
        )

    @classmethod
    def execute(
        cls,
        adapter: Mapping[str, Tensor],
        model: Any,
        strength_model: float,
        strength_clip: float,
        removal: float,
        injection: float,
        stacking: str,
        clip: Any = None,
        prev_hooks: Any = None,
    ) -> io.NodeOutput:
        """Match the adapter and make the hook."""
        hooks, report = create_hook(
            adapter,
            model,
            clip,
            strength_model=strength_model,
            strength_clip=strength_clip,
            removal=removal,
            injection=injection,
            stacking=stacking,
        )
        logging.info(report.text())
        return io.NodeOutput(hooks if prev_hooks is None else prev_hooks.clone_and_combine(hooks), report.text())


NODES: list[type[io.ComfyNode]] = [DEFTCreateHookAdapter]
