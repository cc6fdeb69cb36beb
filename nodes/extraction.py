"""Low-rank adapters from the difference of two models."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.v0_0_2 import io

from ..deft_ops.extraction import EXTRACTED_METHODS
from .adapters import CATEGORY
from .output import text_ui
from .sockets import LoraModel


class DEFTExtractAdapter(io.ComfyNode):
    """The node that makes an adapter of the difference of two models."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: two models and the size of the adapter; the adapter and a report."""
        return io.Schema(
            node_id="DEFTExtractAdapter",
            display_name="Extract Adapter (low rank)",
            category=CATEGORY,
            description="Extracts an adapter, such as a LoRA, from the difference between a tuned "
            "model and its base: a full fine-tune, a merge, or a model with LoRAs and"
            " adapters on it. Each layer gets the best change of its rank, and the "
            "report says how much of the difference is kept.",
            search_aliases=[
                "extract lora",
                "svd",
                "difference",
                "subtract",
                "fine-tune to lora",
                "merge",
                "lora extraction",
                "提取 lora",
            ],
            inputs=[
                io.Model.Input("model_tuned", tooltip="The tuned model, with everything that is applied to it."),
                io.Model.Input(
                    "model_base", tooltip="The model that the adapter will be used on, of the same architecture."
                ),
                io.Clip.Input("clip_tuned", optional=True, tooltip="The tuned CLIP, to extract text encoders as well."),
                io.Clip.Input("clip_base", optional=True, tooltip="The base's CLIP; needed with the tuned one."),
                io.Combo.Input(
                    "method",
                    options=list(EXTRACTED_METHODS),
                    default=EXTRACTED_METHODS[0],
                    tooltip="All have the same effect on this base. On another one, lora adds "
                    "the same matrix, while deft replaces the output directions that "
                    "changed most by those of the tuned model.",
                ),
                io.Int.Input(
                    "rank",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip="The maximum rank of a layer: a higher rank is more accurate and makes a larger file.",
                ),
                io.Float.Input(
                    "energy",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="0: every layer has the rank above. Otherwise each gets the smallest rank that keeps this "
                    "share of its change's squared norm, at most the rank above: 0.9 keeps 90 %.",
                ),
                io.Boolean.Input("convolutions", default=True, tooltip="Extract convolutions as well."),
                io.Boolean.Input(
                    "vectors",
                    default=False,
                    tooltip="Also save changes of biases and norms. ComfyUI and this pack read "
                    "them; most other programs do not. Off: they are skipped, and the "
                    "report says their share.",
                ),
                io.String.Input(
                    "pattern",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="A regular expression: only layers whose name matches. Empty: all layers.",
                ),
            ],
            outputs=[
                LoraModel.Output(display_name="adapter", tooltip="The adapter, for Apply, Save or Export."),
                io.String.Output(
                    display_name="report",
                    tooltip="Retained energy, the layers that lose most, and what was skipped.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model_tuned: Any,
        model_base: Any,
        method: str,
        rank: int,
        energy: float,
        convolutions: bool,
        vectors: bool,
        pattern: str = "",
        clip_tuned: Any = None,
        clip_base: Any = None,
    ) -> io.NodeOutput:
        """Extract the adapter."""
        from ..convert.extract import extract

        adapter, report = extract(
            model_base,
            model_tuned,
            clip_base,
            clip_tuned,
            method=method,
            rank=rank,
            energy=energy,
            convolutions=convolutions,
            vectors=vectors,
            pattern=pattern,
        )
        logging.info(report.text())
        return io.NodeOutput(adapter, report.text(), ui=text_ui(report.text()))


NODES: list[type[io.ComfyNode]] = [DEFTExtractAdapter]
