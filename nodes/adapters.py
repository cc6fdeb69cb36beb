"""Load and apply adapters."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from ..deft_ops import files
from ..deft_ops.projectors import READ_PROJECTORS
from ..deft_ops.wording import cut
from ..models.weights_by_name import weights_by_name
from ..patches.apply import MODES, STACKING, ApplyReport, apply
from .sockets import LoraModel, adapter_files, adapter_path, file_state

CATEGORY = "DEFT"
PROJECTOR_TOOLTIP = (
    "How the file's P becomes the projector. auto: as recorded in the file. For PEFT's DEFT "
    "without a record, Load Adapter finds it out from the model's weights; if that is not "
    "possible, it has to be chosen here. All others override the record; the "
    "help page describes each."
)
# Whole phrases of at most 30 characters: the page looks for all words of a query in one of them. Chinese ones stand
# beside the English ones, because the page has no translations of these.
SEARCH = ["deft", "para", "svdiff", "lora", "dora", "peft", "adapter", "load lora", "适配器", "加载 lora"]
APPLYING = ["apply lora", "use lora", "应用 lora", "使用 lora"]


def strength_input(name: str, what: str) -> io.Float.Input:
    """A strength widget."""
    return io.Float.Input(
        name,
        default=1.0,
        min=-20.0,
        max=20.0,
        step=0.01,
        tooltip=f"How strongly {what} is changed: W + strength x delta. 0 is the base, 1 the adapter "
        "as trained; negative and larger values are allowed.",
    )


def projector_input() -> io.Combo.Input:
    """The projector override."""
    return io.Combo.Input(
        "projector", options=["auto", *READ_PROJECTORS], default="auto", advanced=True, tooltip=PROJECTOR_TOOLTIP
    )


def file_format_input() -> io.Combo.Input:
    """The format override."""
    return io.Combo.Input(
        "file_format",
        options=["auto", *files.FORMAT_NAMES],
        default="auto",
        optional=True,  # workflows saved before it was there go on working
        advanced=True,
        tooltip="The program that wrote the file. auto recognises it by the names of the tensors."
        " para_authors has to be chosen by hand: the files of PaRa's authors look like "
        "kohya LoRA files, but are subtracted and have no alpha.",
    )


def stacking_input(optional: bool = False) -> io.Combo.Input:
    """The stacking choice."""
    return io.Combo.Input(
        "stacking",
        options=list(STACKING),
        default="sequential",
        optional=optional,
        advanced=True,
        tooltip="With several adapters: sequential computes this one from the weights as changed so far (ComfyUI's "
        "way, PaRa's paper); from_base computes this pack's adapters, such as DEFT and PaRa, from the unchanged "
        "weights and adds them up (PEFT's way).",
    )


def mode_input() -> io.Combo.Input:
    """The choice between weights and activations."""
    return io.Combo.Input(
        "mode",
        options=list(MODES),
        default=MODES[0],
        optional=True,
        advanced=True,
        tooltip="weights: the weights are changed, as with a LoRA. activations: the weights stay "
        "and the layers' outputs are changed; each step takes slightly longer, and small "
        "changes are kept that quantised weights would round away. For methods that can "
        "work on a layer's output, such as DEFT and LoRA; others are refused by name.",
    )


def apply_file(
    file: str, model: Any, clip: Any, *, projector: str = "auto", file_format: str = "auto", **how: Any
) -> tuple[Any, Any, ApplyReport]:
    """Read a file of models/loras and put it onto a MODEL and a CLIP (either may be None); `how` is that of `apply`.

    Raises FileNotFoundError or ValueError: the file is missing or damaged, or nothing of it fits.
    """
    adapter = files.read(adapter_path(file), projector, file_format, weights_by_name(model, clip))
    model, clip, report = apply(adapter, model, clip, source=file, **how)
    report.notes += [adapter.metadata["note"]] if "note" in adapter.metadata else []
    return model, clip, report


class DEFTAdapterLoader(io.ComfyNode):
    """The node that reads an adapter file and applies it to MODEL and CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: a file, strengths and overrides; the changed MODEL and CLIP and a report."""
        return io.Schema(
            node_id="DEFTAdapterLoader",
            display_name="Load Adapter (DEFT, PaRa, LoRA, SVDiff)",
            category=CATEGORY,
            description="Loads an adapter file of any method, such as DEFT, PaRa or LoRA, and of any common "
            "program, and applies it to the model and the CLIP. "
            "The report lists how many layers matched and which did not.",
            search_aliases=[*SEARCH, *APPLYING, "lora loader", "lora 加载器"],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model to change."),
                io.Clip.Input("clip", optional=True, tooltip="The CLIP to change, for files with text encoder layers."),
                io.Combo.Input("file", options=adapter_files(), tooltip="A file of models/loras."),
                strength_input("strength_model", "the diffusion model"),
                strength_input("strength_clip", "the CLIP"),
                projector_input(),
                file_format_input(),
                mode_input(),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The changed diffusion model."),
                io.Clip.Output(display_name="clip", tooltip="The changed CLIP."),
                io.String.Output(display_name="report", tooltip="Matched layers, skipped layers, assumptions."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, **_: object) -> str:
        """Run again when the file changes."""
        return file_state(file)

    @classmethod
    def execute(
        cls,
        model: Any,
        file: str,
        strength_model: float,
        strength_clip: float,
        projector: str,
        file_format: str = "auto",
        mode: str = MODES[0],
        clip: Any = None,
    ) -> io.NodeOutput:
        """Read the file and apply it."""
        model, clip, report = apply_file(
            file,
            model,
            clip,
            projector=projector,
            file_format=file_format,
            strength_model=strength_model,
            strength_clip=strength_clip,
            mode=mode,
        )
        logging.info(report.text())
        return io.NodeOutput(model, clip, report.text())


class DEFTLoadAdapterFile(io.ComfyNode):
    """The node that reads an adapter file as LORA_MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: a file and its format; the adapter and the facts of the file."""
        return io.Schema(
            node_id="DEFTLoadAdapterFile",
            display_name="Load Adapter File",
            category=CATEGORY,
            description="Reads an adapter file of any method, such as DEFT, PaRa or LoRA, without applying it, for "
            "Apply Adapter, Save Adapter, Adapter Info or Export as LoRA.",
            search_aliases=[*SEARCH, "lora file", "lora 文件"],
            inputs=[
                io.Combo.Input("file", options=adapter_files(), tooltip="A file of models/loras."),
                projector_input(),
                file_format_input(),
            ],
            outputs=[
                LoraModel.Output(display_name="adapter", tooltip="The adapter: its tensors and metadata."),
                io.String.Output(display_name="info", tooltip="Method, rank, alpha and other facts about the file."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, **_: object) -> str:
        """Run again when the file changes."""
        return file_state(file)

    @classmethod
    def execute(cls, file: str, projector: str, file_format: str = "auto") -> io.NodeOutput:
        """Read the file."""
        adapter = files.read(adapter_path(file), projector, file_format)
        facts = (f"{name}: {cut(value)}" for name, value in adapter.metadata.items())
        return io.NodeOutput(adapter, "\n".join(facts))


class DEFTApplyAdapter(io.ComfyNode):
    """The node that applies a LORA_MODEL to MODEL and CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: an adapter, MODEL, CLIP and strengths; the changed MODEL and CLIP and a report."""
        return io.Schema(
            node_id="DEFTApplyAdapter",
            display_name="Apply Adapter",
            category=CATEGORY,
            description="Applies a trained or loaded adapter to a model. Use the model that it "
            "was trained on, or one of the same architecture.",
            search_aliases=[*SEARCH, *APPLYING],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model to change."),
                io.Clip.Input("clip", optional=True, tooltip="The CLIP to change, for adapters of text encoders."),
                LoraModel.Input("adapter", tooltip="The adapter, from Train Adapter, Load Adapter File or Train LoRA."),
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
                stacking_input(),
                mode_input(),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The changed diffusion model."),
                io.Clip.Output(display_name="clip", tooltip="The changed CLIP."),
                io.String.Output(display_name="report", tooltip="Matched layers and skipped layers."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        adapter: Mapping[str, Tensor],
        strength_model: float,
        strength_clip: float,
        removal: float,
        injection: float,
        stacking: str,
        mode: str = MODES[0],
        clip: Any = None,
    ) -> io.NodeOutput:
        """Apply the adapter."""
        model, clip, report = apply(
            adapter,
            model,
            clip,
            strength_model=strength_model,
            strength_clip=strength_clip,
            removal=removal,
            injection=injection,
            stacking=stacking,
            mode=mode,
        )
        logging.info(report.text())
        return io.NodeOutput(model, clip, report.text())


NODES: list[type[io.ComfyNode]] = [DEFTAdapterLoader, DEFTLoadAdapterFile, DEFTApplyAdapter]
