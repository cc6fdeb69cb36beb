"""Load Scorer and Verify Scorer."""

from __future__ import annotations

import hashlib
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from comfy_api.v0_0_2 import io

from ..scoring.backbones import Backbone
from ..scoring.backbones.identify import identify
from ..scoring.packages import MissingPackage
from ..scoring.preprocessing import Preprocess
from ..scoring.protocols import PROTOCOLS, Protocol, custom, get_protocol
from ..scoring.scorer import Scorer, load_scorer
from ..scoring.weights import MissingWeights, find_weights
from .output import text_ui
from .scorer_files import (
    BY_NAME,
    CATEGORIES,
    advice,
    explicit_files,
    fetch_missing,
    ready_line,
    there,
    usual_files,
    weight_files,
    weight_folders,
)
from .sockets import ScorerSocket

CUSTOM = "custom"
MISSING = ("error", "leave out")
GPU_BATCH = 32


def chosen_protocol(protocol: dict[str, Any] | None) -> Protocol:
    """The protocol that is chosen in the widget. A model that an API caller leaves out of `custom` is none.

    Raises ValueError for a choice that there is not: ComfyUI drops it.
    """
    if protocol is None:
        raise ValueError(f"Unknown protocol: choose one of {', '.join((*PROTOCOLS, CUSTOM))}.")
    name = protocol["protocol"]
    if name != CUSTOM:
        return get_protocol(name)
    return custom(
        protocol.get("clip_model") or "",
        protocol.get("image_model") or "",
        protocol.get("pairing", "all"),
        protocol.get("scale", 1.0),
    )


def clip_vision_encoder(clip_vision: Any) -> Backbone:
    """A CLIP_VISION as an image encoder, with CLIP's own preprocessing and in the precision it was loaded in.

    Raises ValueError for one that is not CLIP's or has no projection.
    """
    state = clip_vision.get_sd()
    projection = state.get("visual_projection.weight")
    if clip_vision.model_type != "clip_vision_model" or projection is None:
        raise ValueError(
            "clip_vision: this is not the image encoder of a CLIP with its projection, which CLIP-I "
            "needs; load one such as CLIP ViT-L/14, or disconnect it."
        )
    content = hashlib.sha256()
    for key in sorted(state):  # the ends of all tensors stand for the whole
        content.update(f"{key} {list(state[key].shape)}".encode())
        content.update(state[key].flatten()[:64].float().cpu().numpy().tobytes())
    precision = str(clip_vision.dtype).removeprefix("torch.")
    name = f"{identify(state).split(' (')[0]} (the CLIP_VISION, {precision})"
    side = clip_vision.image_size
    preprocess = Preprocess(
        side, side, tuple(clip_vision.image_mean), tuple(clip_vision.image_std), as_transformers=True
    )
    backbone = Backbone(
        name,
        "clip_vision",
        preprocess,
        clip_vision.model,
        fingerprint=f"{content.hexdigest()} {precision}",
        encode_image=lambda pixels: clip_vision.model(pixel_values=pixels, intermediate_output=-2)[2],
    )
    manage(backbone, clip_vision.patcher, clip_vision.load_device)
    return backbone


def manage(backbone: Backbone, patcher: Any, device: torch.device) -> None:
    """Let ComfyUI's memory management load a backbone before it is used, and take it away when others need room.

    Where the backbone needs room, it takes all other models away.
    """

    def make_room() -> None:
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()

    backbone.place = device
    backbone.batch = backbone.batch if device.type == "cpu" else GPU_BATCH
    backbone.before_use = lambda: comfy.model_management.load_models_gpu([patcher], force_full_load=True)
    backbone.make_room = make_room


class DEFTLoadScorer(io.ComfyNode):
    """The node that loads the backbones of a protocol from local files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: a protocol and the files of its backbones; the scorer and a report."""

        def override(name: str, what: str) -> io.Combo.Input:
            return io.Combo.Input(
                name,
                options=weight_files(),
                default=BY_NAME,
                optional=True,
                advanced=True,
                tooltip=f"Weight file for {what}. auto looks for the usual file names in models/clip_vision, "
                "models/text_encoders and models/scorers, then in the caches of Hugging Face, torch.hub and "
                "OpenAI's clip.",
            )

        custom_option = io.DynamicCombo.Option(
            CUSTOM,
            [
                io.String.Input(
                    "clip_model",
                    default="ViT-L-14/openai",
                    tooltip=("A CLIP by its open_clip name, MODEL/WEIGHTS, for metrics such as CLIP-I. Empty: none."),
                ),
                io.String.Input(
                    "image_model",
                    default="",
                    tooltip=("An image model by its timm name, such as vit_base_patch14_dinov2.lvd142m. Empty: none."),
                ),
                override("image_weights", "the image model"),
                io.Combo.Input(
                    "pairing",
                    options=["all", "matched"],
                    default="all",
                    tooltip=("all: each image with every reference. matched: image i with reference i."),
                ),
                io.Float.Input("scale", default=1.0, min=0.01, max=100.0, step=0.01, tooltip="Factor on the cosines."),
            ],
        )
        return io.Schema(
            node_id="DEFTLoadScorer",
            display_name="Load Scorer",
            category="DEFT/scoring",
            description="Loads the encoders that measure subject and prompt fidelity, with the "
            "preprocessing and rules of one paper. Only local files are read unless "
            "download is on; for a missing file its source is given.",
            search_aliases=[
                "clip score",
                "clip-i",
                "clip-t",
                "dino score",
                "dinov2",
                "dreambooth metrics",
                "dreambench",
                "evaluation",
                "lpips",
                "评分模型",
                "评测",
            ],
            inputs=[
                io.DynamicCombo.Input(
                    "protocol",
                    options=[*(io.DynamicCombo.Option(name, []) for name in PROTOCOLS), custom_option],
                    tooltip="The encoders, which pictures are compared, and the scale. The help "
                    "page describes each protocol.",
                ),
                override("clip_weights", "CLIP"),
                override("dino_weights", "DINO"),
                override("dinov2_weights", "DINOv2"),
                io.Combo.Input(
                    "missing",
                    options=list(MISSING),
                    default=MISSING[0],
                    optional=True,
                    advanced=True,
                    tooltip="What to do if weights are missing. leave out: the other metrics are "
                    "measured, and the report lists the skipped ones.",
                ),
                io.Boolean.Input(
                    "download",
                    default=False,
                    optional=True,
                    tooltip=(
                        "Download missing weights from Hugging Face into models/scorers and check"
                        " their checksum. Off: the network is not used."
                    ),
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip=(
                        "A loaded CLIP Vision to measure CLIP-I with instead of the protocol's "
                        "CLIP, if you have no other file. The numbers are those of that model, "
                        "not of the protocol."
                    ),
                ),
            ],
            outputs=[
                ScorerSocket.Output("scorer", tooltip="Connect to Score Images, Score Drift and Score Diversity."),
                io.String.Output("report", display_name="report", tooltip="The models, their files, what is skipped."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        protocol: dict[str, Any] | None = None,
        clip_weights: str | None = BY_NAME,
        dino_weights: str | None = BY_NAME,
        dinov2_weights: str | None = BY_NAME,
    ) -> bool | str:
        """Usual names of files that are not there are taken as `auto` is; others are refused.

        protocol: not looked at; ComfyUI hands a dynamic widget over in any case. None stands for a link.
        """
        widgets, offered = {"clip": clip_weights, "dino": dino_weights, "dinov2": dinov2_weights}, weight_files()
        for kind, name in widgets.items():
            if name is not None and name not in offered and name not in usual_files(kind):
                folders = ", models/".join(CATEGORIES)
                return (
                    f"{kind}_weights: there is no weight file {name!r} in models/{folders}. Choose one of the list, or "
                    "auto."
                )
        return True

    @classmethod
    def fingerprint_inputs(
        cls,
        protocol: dict[str, Any] | None = None,
        clip_weights: str = BY_NAME,
        dino_weights: str = BY_NAME,
        dinov2_weights: str = BY_NAME,
        **_: Any,
    ) -> list[Any]:
        """Name, time and size of each weight file, so that a replaced file is loaded again."""
        state: list[Any] = [str(protocol)]
        try:
            explicit = explicit_files(protocol or {}, clip_weights, dino_weights, dinov2_weights)
            for kind, spec in chosen_protocol(protocol).backbones.items():
                if kind in explicit or there(spec):
                    path = find_weights(spec, weight_folders(), explicit.get(kind))
                    state.append((str(path), path.stat().st_mtime_ns, path.stat().st_size))
        except (FileNotFoundError, MissingPackage, ValueError) as error:  # execute raises it
            state.append(str(error))
        return state

    @classmethod
    async def execute(
        cls,
        protocol: dict[str, Any] | None = None,
        clip_weights: str = BY_NAME,
        dino_weights: str = BY_NAME,
        dinov2_weights: str = BY_NAME,
        missing: str = MISSING[0],
        download: bool = False,
        clip_vision: Any = None,
    ) -> io.NodeOutput:
        """Load in float32: half precision moves a cosine by about 1e-3."""
        chosen = chosen_protocol(protocol)
        explicit = explicit_files(protocol or {}, clip_weights, dino_weights, dinov2_weights)
        encoder = None if clip_vision is None else clip_vision_encoder(clip_vision)
        if download:
            await fetch_missing(
                chosen if encoder is None else chosen.with_clip_encoder(encoder.name, encoder.kind), explicit
            )
        try:
            scorer = load_scorer(chosen, weight_folders(), explicit, missing == "leave out", encoder)
        except MissingWeights as error:
            raise FileNotFoundError(advice(error)) from error
        device, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
        for backbone in scorer.backbones.values():
            if backbone is not encoder:
                patcher = comfy.model_patcher.ModelPatcher(backbone.module.to(offload), device, offload)
                manage(backbone, patcher, device)
        return io.NodeOutput(scorer, f"{describe(scorer)}\n{ready_line()}")


def describe(scorer: Scorer) -> str:
    """The metrics of a scorer with their backbones and files."""
    lines = [f"{scorer.protocol.name}: {scorer.protocol.about}"]
    for kind, backbone in scorer.backbones.items():
        metrics = ", ".join(measure.metric for measure in scorer.protocol.measures if measure.backbone.kind == kind)
        file = f" from {backbone.weights.name} (SHA-256 {backbone.weights.sha256[:16]}...)" if backbone.weights else ""
        lines.append(f"{metrics}: {backbone.name}{file}")
    return "\n".join([*lines, *scorer.remarks(scorer.protocol.measures)])


class DEFTVerifyScorer(io.ComfyNode):
    """The node that checks whether weights give the numbers that others have published."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: a scorer; a report, and whether all is right."""
        return io.Schema(
            node_id="DEFTVerifyScorer",
            display_name="Verify Scorer",
            category="DEFT/scoring",
            description="Identifies the models in a scorer's weight files and compares them with "
            "published numbers. It needs no pictures.",
            search_aliases=["check weights", "clip self test", "which model", "验证权重"],
            is_output_node=True,
            inputs=[ScorerSocket.Input("scorer", tooltip="From Load Scorer.")],
            outputs=[
                io.String.Output("report", display_name="report", tooltip="A few lines for each model."),
                io.Boolean.Output(
                    "right",
                    display_name="right",
                    tooltip=(
                        "False if a published number does not match. Models without published numbers are ignored."
                    ),
                ),
            ],
        )

    @classmethod
    def execute(cls, scorer: Scorer) -> io.NodeOutput:
        """Verify each backbone that makes features."""
        from ..scoring.verify import verify

        results = [verify(backbone) for backbone in scorer.encoders(scorer.protocol.measures).values()]
        report = "\n".join(result.report() for result in results)
        return io.NodeOutput(report, all(result.passed is not False for result in results), ui=text_ui(report))


NODES: list[type[io.ComfyNode]] = [DEFTLoadScorer, DEFTVerifyScorer]
