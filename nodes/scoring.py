"""Load Scorer and Score Images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import folder_paths
import torch
from comfy_api.v0_0_2 import io
from PIL import Image

from ..deft_ops.adapter import count_parameters
from ..scoring.preprocessing import to_pictures
from ..scoring.protocols import PROTOCOLS, get_protocol
from ..scoring.scorer import Scorer, load_scorer, score
from ..scoring.scores import METRICS, Cost
from ..scoring.weights import find_weights
from .sockets import LoraModel

CATEGORIES = ("scorers", "clip_vision", "text_encoders")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
AUTO = "auto"

ScorerSocket = io.Custom("DEFT_SCORER")
ScoresSocket = io.Custom("DEFT_SCORES")


@dataclass(frozen=True)
class LoadedScorer:
    """A scorer, and its backbones as ComfyUI's memory management knows them."""

    scorer: Scorer
    patchers: list[Any]


def register_folder() -> None:
    """Make models/scorers known to ComfyUI, so that extra_model_paths.yaml can add to it."""
    folder_paths.add_model_folder_path("scorers", str(Path(folder_paths.models_dir) / "scorers"))


def weight_folders() -> list[Path]:
    """Where weight files are looked for, in order; the pack's own demo models last."""
    register_folder()
    named = [Path(folder) for category in CATEGORIES for folder in folder_paths.get_folder_paths(category)]
    return [*named, Path(__file__).parent.parent / "demo" / "models"]


def weight_files() -> list[str]:
    """What the override widgets offer."""
    register_folder()
    found = {name for category in CATEGORIES for name in folder_paths.get_filename_list(category)}
    return [AUTO, *sorted(name for name in found if name.endswith(SUFFIXES))]


def explicit_path(name: str) -> Path:
    """The file that an override widget names. Raises FileNotFoundError if it is in none of the folders."""
    register_folder()
    for category in CATEGORIES:
        if found := folder_paths.get_full_path(category, name):
            return Path(found)
    raise FileNotFoundError(f"There is no weight file {name!r} in models/{', models/'.join(CATEGORIES)}.")


def explicit_paths(**names: str) -> dict[str, Path]:
    """The overrides by kind, without those left at auto."""
    return {kind: explicit_path(name) for kind, name in names.items() if name != AUTO}


class DEFTLoadScorer(io.ComfyNode):
    """Backbones of a protocol from local files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets and sockets."""
        def override(kind: str, what: str) -> io.Combo.Input:
            return io.Combo.Input(
                f"{kind}_weights", options=weight_files(), default=AUTO, optional=True, advanced=True,
                tooltip=f"Weight file for {what}. auto looks for the usual file names in models/scorers, "
                        "models/clip_vision and models/text_encoders.")

        return io.Schema(
            node_id="DEFTLoadScorer",
            display_name="Load Scorer",
            category="DEFT/scoring",
            description="Loads the image encoders that measure subject and prompt fidelity, with the preprocessing and "
                        "the rules of one paper. Only local files are read; a missing one is named with its source.",
            search_aliases=["clip score", "clip-i", "clip-t", "dino score", "dinov2", "dreambooth metrics",
                            "dreambench", "evaluation"],
            inputs=[
                io.Combo.Input("protocol", options=list(PROTOCOLS), default="dreambooth", tooltip=" ".join(
                    f"{name}: {protocol.about}" for name, protocol in PROTOCOLS.items())),
                override("clip", "CLIP (CLIP-I and CLIP-T)"),
                override("dino", "DINO"),
                override("dinov2", "DINOv2"),
            ],
            outputs=[ScorerSocket.Output("scorer", tooltip="Connect to Score Images.")],
        )

    @classmethod
    def fingerprint_inputs(cls, protocol: str, clip_weights: str = AUTO, dino_weights: str = AUTO,
                           dinov2_weights: str = AUTO) -> list[Any]:
        """Name, time and size of each weight file, so that a replaced file is loaded again."""
        overrides = {"clip": clip_weights, "dino": dino_weights, "dinov2": dinov2_weights}
        found: list[Any] = [protocol]
        for kind, spec in get_protocol(protocol).backbones.items():
            try:
                name = overrides[kind]
                path = find_weights(spec, weight_folders(), None if name == AUTO else explicit_path(name))
                found.append((str(path), path.stat().st_mtime_ns, path.stat().st_size))
            except FileNotFoundError:  # execute says so to the user
                found.append((kind, "missing"))
        return found

    @classmethod
    def execute(cls, protocol: str, clip_weights: str = AUTO, dino_weights: str = AUTO,
                dinov2_weights: str = AUTO) -> io.NodeOutput:
        """Load in float32: half precision moves a cosine by about 1e-3."""
        explicit = explicit_paths(clip=clip_weights, dino=dino_weights, dinov2=dinov2_weights)
        scorer = load_scorer(protocol, weight_folders(), explicit)
        device, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
        patchers = [comfy.model_patcher.ModelPatcher(backbone.module.to(offload), device, offload)
                    for backbone in scorer.backbones.values()]
        return io.NodeOutput(LoadedScorer(scorer, patchers))


def pictures(batches: list[torch.Tensor] | None, what: str) -> list[Image.Image]:
    """RGB pictures of a list of IMAGE batches (their sizes may differ)."""
    return [picture for batch in batches or [] for picture in to_pictures(batch, what)]


def cost_of(adapter: dict[str, torch.Tensor], label: str) -> Cost:
    """What an adapter has cost. The training time is known of those that come from a training node."""
    seconds = getattr(adapter, "training_seconds", None)
    size = sum(tensor.numel() * tensor.element_size() for tensor in adapter.values())
    return Cost(label, seconds, count_parameters(adapter), size)


class DEFTScoreImages(io.ComfyNode):
    """Scores of pictures against references and text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets and sockets."""
        absent = "NaN if the protocol does not have it or its input is missing."
        return io.Schema(
            node_id="DEFTScoreImages",
            display_name="Score Images",
            category="DEFT/scoring",
            description="Measures how much generated images look like the subject (CLIP-I, DINO, DINOv2) and follow "
                        "their text (CLIP-T), as the chosen protocol defines it. Images may come as a batch or a list.",
            search_aliases=["clip score", "clip-i", "clip-t", "dino score", "subject fidelity", "image similarity",
                            "prompt fidelity", "evaluation"],
            is_input_list=True,
            inputs=[
                ScorerSocket.Input("scorer", tooltip="From Load Scorer."),
                io.Image.Input("images", tooltip="The generated images."),
                io.Image.Input("references", optional=True, tooltip=(
                    "Pictures of the subject. dreambooth and demo compare each image with all of them; dreambench++ "
                    "needs as many as images, or one. Without them only CLIP-T is measured.")),
                io.String.Input("text", multiline=True, default="", optional=True, tooltip=(
                    "Text to score against: one line for all images, or one line for each. Leave out the rare token "
                    "(write 'a dog', not 'a sks dog'). Empty: no CLIP-T.")),
                io.String.Input("label", default="", optional=True, tooltip=(
                    "Name of the row in the table, for example 'DEFT r4'.")),
                io.String.Input("subject", default="", optional=True, tooltip="Name of the subject, for the records."),
                LoraModel.Input("adapter", optional=True, tooltip=(
                    "The trained adapter behind the images, from the training node: its training time, values and size "
                    "become columns of the table.")),
            ],
            outputs=[
                ScoresSocket.Output("scores", tooltip="All scores with backbone, preprocessing and protocol."),
                io.Float.Output("clip_i", display_name="CLIP-I", tooltip=f"Image similarity by CLIP. {absent}"),
                io.Float.Output("clip_t", display_name="CLIP-T", tooltip=f"Similarity to the text by CLIP. {absent}"),
                io.Float.Output("dino", display_name="DINO", tooltip=f"Subject similarity by DINO. {absent}"),
                io.Float.Output("dinov2", display_name="DINOv2", tooltip=f"Subject similarity by DINOv2. {absent}"),
                io.String.Output("report", display_name="report", tooltip="The scores as text."),
            ],
        )

    @classmethod
    def execute(cls, scorer: list[LoadedScorer], images: list[torch.Tensor],
                references: list[torch.Tensor] | None = None, text: tuple[str, ...] = ("",),
                label: tuple[str, ...] = ("",), subject: tuple[str, ...] = ("",),
                adapter: list[dict[str, torch.Tensor]] | None = None) -> io.NodeOutput:
        """Every input is a list: a list of images is scored as one batch."""
        loaded = scorer[0]
        generated, real = pictures(images, "images"), pictures(references, "references")
        comfy.model_management.load_models_gpu(loaded.patchers, force_full_load=True)
        result = score(loaded.scorer, generated, real, "\n".join(text), label[0], subject[0])
        if adapter:
            result = replace(result, costs=(cost_of(adapter[0], label[0]),))
        return io.NodeOutput(result, *(result.value(metric) for metric in METRICS), result.report())


NODES: list[type[io.ComfyNode]] = [DEFTLoadScorer, DEFTScoreImages]
