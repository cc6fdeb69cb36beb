"""Adapter Info."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import comfy.utils
from comfy_api.v0_0_2 import io, ui
from torch import Tensor

from .adapters import CATEGORY
from .output import as_image, text_ui
from .sockets import LoraModel


class DEFTAdapterInfo(io.ComfyNode):
    """The node that shows what an adapter is and does, as text and as a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: an adapter, and the MODEL and CLIP to look at it on; a report and a plot."""
        return io.Schema(
            node_id="DEFTAdapterInfo",
            display_name="Adapter Info",
            category=CATEGORY,
            description="Describes an adapter: method, rank, metadata. With the model connected, "
            "also what it changes: the size of each block's change and the number of "
            "directions in it, which layers match, and whether it was trained on this"
            " base.",
            search_aliases=[
                "lora info",
                "metadata",
                "inspect",
                "analyse lora",
                "block weights",
                "effective rank",
                "delta norm",
                "lora 信息",
            ],
            is_output_node=True,
            inputs=[
                LoraModel.Input("adapter", tooltip="The adapter, from Load Adapter File, Train Adapter or Train LoRA."),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model that it is for: needed for the size of the change and for "
                    "the base check. The model is not changed, and patches on it are "
                    "ignored.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="The CLIP, for adapters of text encoders."),
            ],
            outputs=[
                io.String.Output(
                    display_name="report",
                    tooltip="Method, matched and unmatched layers, the numbers of each block, metadata.",
                ),
                io.Image.Output(
                    display_name="plot",
                    tooltip="|delta W| / |W| and the effective rank of each block; without a "
                    "model the norm and rank of the file's tensors.",
                ),
            ],
        )

    @classmethod
    def execute(cls, adapter: Mapping[str, Tensor], model: Any = None, clip: Any = None) -> io.NodeOutput:
        """Measure, write and draw."""
        from ..convert.inspect import inspect
        from ..reports.plots import adapter_picture

        bar = comfy.utils.ProgressBar(1)
        info = inspect(adapter, model, clip, progress=bar.update_absolute)
        if info.warning:
            logging.warning(info.warning)
        image, report = as_image(adapter_picture(info)), info.text()
        return io.NodeOutput(report, image, ui={**ui.PreviewImage(image).as_dict(), **text_ui(report)})


NODES: list[type[io.ComfyNode]] = [DEFTAdapterInfo]
