"""Score Images, Score Drift and Score Diversity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy_api.v0_0_2 import io

from ..deft_ops.adapter import count_parameters
from ..deft_ops.adapter import describe as describe_adapter
from ..deft_ops.costs import TrainingCost
from ..deft_ops.methods import METHODS
from ..scoring.pictures import CutOut, TensorPictures
from ..scoring.scorer import DIVERSITY, DRIFT, FIDELITY, Labels, Scorer, Task, score
from ..scoring.scores import Cost
from ..scoring.texts import split_texts, without_token
from .provenance import upstream
from .sockets import LoraModel, ScorerSocket, ScoresSocket

CATEGORY = "DEFT/scoring"
SCORES_TOOLTIP = "The scores with backbone, preprocessing, protocol, seeds and files; for Score Table."
PROVENANCE = (io.Hidden.prompt, io.Hidden.unique_id)


def cost_of(adapter: dict[str, torch.Tensor], row: Labels) -> Cost:
    """The cost of an adapter: as the trainer has measured it, which native files say too; of others without times and
    memory, and with the values of the file.
    """
    measured = getattr(adapter, "cost", None) or TrainingCost()
    seconds = getattr(adapter, "training_seconds", None)
    size = sum(tensor.numel() * tensor.element_size() for tensor in adapter.values())
    return Cost(
        row.label,
        measured.seconds if seconds is None else seconds,
        count_parameters(adapter) if measured.values is None else measured.values,
        size,
        row.method,
        row.rank,
        row.subject,
        measured.seconds_a_step,
        measured.peak_bytes,
        measured.memory,
    )


def row_of(node: type[io.ComfyNode], label: str, subject: str, adapter: dict[str, torch.Tensor] | None) -> Labels:
    """Label and subject, the method and rank of the adapter, and the images' provenance in the workflow."""
    origin = upstream(node.hidden.prompt, node.hidden.unique_id, "images")
    about = describe_adapter(adapter) if adapter else {}
    return Labels(label, subject, about.get("method", ""), rank_of(about), origin)


def rank_of(about: Mapping[str, str]) -> int | None:
    """The rank of a described adapter; None for methods that have none, and where methods are mixed."""
    record = METHODS.get(about.get("method", ""))
    return int(about["rank"]) if record is not None and record.sized_by_rank else None


def reporter(*batches: Sequence[Any]) -> Callable[[int], None]:
    """A progress bar over all pictures, which also ends the work when the user cancels."""
    total = sum(len(batch) for batch in batches)
    bar = comfy.utils.ProgressBar(total)

    def progress(done: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return progress


def texts_of(text: tuple[str, ...], token: str, images: TensorPictures) -> list[str]:
    """The texts of the pictures without the rare word."""
    return [without_token(line, token) for line in split_texts("\n".join(text), images.sizes)]


def scored(
    node: type[io.ComfyNode],
    task: Task,
    metrics: Sequence[str],
    scorer: list[Scorer],
    images: list[torch.Tensor],
    base_images: list[torch.Tensor] | None,
    references: list[torch.Tensor] | None,
    text: tuple[str, ...],
    label: tuple[str, ...],
    subject: tuple[str, ...],
    adapter: list[dict[str, torch.Tensor]] | None,
    token: tuple[str, ...],
    masks: list[torch.Tensor] | None = None,
    reference_masks: list[torch.Tensor] | None = None,
) -> io.NodeOutput:
    """Score what all three nodes get, which are lists: the scores, the means of some metrics, the report."""
    generated, base = TensorPictures(images), TensorPictures(base_images or [], "base_images")
    real = TensorPictures(references or [], "references")
    if reference_masks and not len(real):
        raise ValueError("reference_masks: there are no references; connect the subject's pictures, too.")
    cut_out = CutOut(generated, masks, "masks") if masks else ()
    references_cut_out = CutOut(real, reference_masks, "reference_masks") if reference_masks else ()
    row = row_of(node, label[0], subject[0], adapter[0] if adapter else None)
    result = score(
        scorer[0],
        generated,
        real,
        texts_of(text, token[0], generated),
        row,
        reporter(generated, base, real, cut_out, references_cut_out),
        base=base,
        task=task,
        cut_out=cut_out,
        references_cut_out=references_cut_out,
    )
    if adapter:
        result = replace(result, costs=(cost_of(adapter[0], row),))
    return io.NodeOutput(result, *(result.value(metric) for metric in metrics), result.report())


def common_inputs() -> list[io.Input]:
    """The inputs that all three nodes end with."""
    return [
        io.String.Input(
            "label",
            default="",
            optional=True,
            tooltip=("Name of the row in the table, for example 'DEFT r4'. Empty: the adapter's method."),
        ),
        io.String.Input("subject", default="", optional=True, tooltip="Name of the subject, recorded with the scores."),
        LoraModel.Input(
            "adapter",
            optional=True,
            tooltip=(
                "The trained adapter that made the images: its method, rank, training time, "
                "trained values and size become columns of the table."
            ),
        ),
        io.String.Input(
            "token",
            default="sks",
            optional=True,
            tooltip=(
                "The rare word of the prompts; it is removed from the text, as the papers' CLIP-T is usually measured."
            ),
        ),
    ]


class DEFTScoreImages(io.ComfyNode):
    """The node that scores pictures against references and text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: pictures, references, texts and labels; the scores, the four means and a report."""
        absent = "NaN if the protocol does not have it or its input is missing."
        return io.Schema(
            node_id="DEFTScoreImages",
            display_name="Score Images",
            category=CATEGORY,
            description="Measures how much generated images look like the subject and follow their text, with "
            "metrics such as CLIP-I, DINO and CLIP-T, as the chosen protocol defines it. "
            "Images may come as a batch or a list.",
            search_aliases=[
                "clip score",
                "clip-i",
                "clip-t",
                "dino score",
                "subject fidelity",
                "image similarity",
                "prompt fidelity",
                "evaluation",
                "相似度",
                "评测",
            ],
            is_input_list=True,
            hidden=list(PROVENANCE),
            inputs=[
                ScorerSocket.Input("scorer", tooltip="From Load Scorer."),
                io.Image.Input("images", tooltip="The generated images."),
                io.Image.Input(
                    "references",
                    optional=True,
                    tooltip=(
                        "Pictures of the subject. Most protocols compare each image with all of them; others compare "
                        "image i with picture i and need as many as images, or one. Without them only how "
                        "well images follow the text is measured."
                    ),
                ),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip=(
                        "Text to score against: one line for all images, or one line for each "
                        "image or each batch of a list. By default the prompt with the class "
                        "word, without the rare token. Empty: no CLIP-T."
                    ),
                ),
                *common_inputs(),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip=(
                        "The subject in each image, white, or one mask for all: the background does not count for the "
                        "likeness to the references. Text and copies are scored with the whole image. Load Image's "
                        "MASK is white where an image is transparent: invert it."
                    ),
                ),
                io.Mask.Input(
                    "reference_masks",
                    optional=True,
                    tooltip="The subject in each reference, white, or one mask for all.",
                ),
            ],
            outputs=[
                ScoresSocket.Output("scores", tooltip=SCORES_TOOLTIP),
                io.Float.Output("clip_i", display_name="CLIP-I", tooltip=f"Image similarity by CLIP. {absent}"),
                io.Float.Output("clip_t", display_name="CLIP-T", tooltip=f"Similarity to the text by CLIP. {absent}"),
                io.Float.Output("dino", display_name="DINO", tooltip=f"Subject similarity by DINO. {absent}"),
                io.Float.Output("dinov2", display_name="DINOv2", tooltip=f"Subject similarity by DINOv2. {absent}"),
                io.String.Output("report", display_name="report", tooltip="The scores as text."),
            ],
        )

    @classmethod
    def execute(
        cls,
        scorer: list[Scorer],
        images: list[torch.Tensor],
        references: list[torch.Tensor] | None = None,
        text: tuple[str, ...] = ("",),
        label: tuple[str, ...] = ("",),
        subject: tuple[str, ...] = ("",),
        adapter: list[dict[str, torch.Tensor]] | None = None,
        token: tuple[str, ...] = ("sks",),
        masks: list[torch.Tensor] | None = None,
        reference_masks: list[torch.Tensor] | None = None,
    ) -> io.NodeOutput:
        """Every input is a list: a list of images is scored as one batch."""
        return scored(
            cls,
            FIDELITY,
            ("CLIP-I", "CLIP-T", "DINO", "DINOv2"),
            scorer,
            images,
            None,
            references,
            text,
            label,
            subject,
            adapter,
            token,
            masks,
            reference_masks,
        )


class DEFTScoreDrift(io.ComfyNode):
    """The node that scores what an adapter does to pictures that are not of its subject."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: pictures with and without the adapter; the scores, their means and a report."""
        return io.Schema(
            node_id="DEFTScoreDrift",
            display_name="Score Drift",
            category=CATEGORY,
            description="Measures what an adapter has damaged: how far pictures of unrelated "
            "prompts move from the base model's (drift, as in PEFT's benchmark), and "
            "how much other members of the class look like the subject (prior "
            "preservation, PRES, as in DreamBooth). Lower is better.",
            search_aliases=[
                "drift",
                "prior preservation",
                "forgetting",
                "overfitting",
                "language drift",
                "pres",
                "遗忘",
                "过拟合",
            ],
            is_input_list=True,
            hidden=list(PROVENANCE),
            inputs=[
                ScorerSocket.Input("scorer", tooltip="From Load Scorer."),
                io.Image.Input(
                    "images",
                    tooltip=(
                        "Pictures with the adapter: of prompts without the subject (drift), or of the class, such as "
                        "'a dog' (prior preservation)."
                    ),
                ),
                io.Image.Input(
                    "base_images",
                    optional=True,
                    tooltip=(
                        "The base model's pictures of the same prompts and seeds, in the same order. Needed for drift."
                    ),
                ),
                io.Image.Input(
                    "references", optional=True, tooltip=("Photos of the subject. Needed for prior preservation.")
                ),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip=(
                        "The prompts: one line for all images, or one for each image or batch. "
                        "Intervals are computed over prompts."
                    ),
                ),
                *common_inputs(),
            ],
            outputs=[
                ScoresSocket.Output("scores", tooltip=SCORES_TOOLTIP),
                io.Float.Output(
                    "drift",
                    display_name="drift",
                    tooltip=("Mean of (1 - cosine) / 2, 0 to 1. NaN without the base's pictures."),
                ),
                io.Float.Output("pres", display_name="PRES", tooltip="Mean cosine. NaN without references."),
                io.String.Output("report", display_name="report", tooltip="The scores as text."),
            ],
        )

    @classmethod
    def execute(
        cls,
        scorer: list[Scorer],
        images: list[torch.Tensor],
        base_images: list[torch.Tensor] | None = None,
        references: list[torch.Tensor] | None = None,
        text: tuple[str, ...] = ("",),
        label: tuple[str, ...] = ("",),
        subject: tuple[str, ...] = ("",),
        adapter: list[dict[str, torch.Tensor]] | None = None,
        token: tuple[str, ...] = ("sks",),
    ) -> io.NodeOutput:
        """Score the pictures. Every input is a list."""
        return scored(
            cls, DRIFT, ("drift", "PRES"), scorer, images, base_images, references, text, label, subject, adapter, token
        )


class DEFTScoreDiversity(io.ComfyNode):
    """The node that scores how different the pictures of one prompt are."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: pictures of one prompt; the scores, their means and a report."""
        return io.Schema(
            node_id="DEFTScoreDiversity",
            display_name="Score Diversity",
            category=CATEGORY,
            description="Measures how different the pictures of one prompt are over several seeds: mean distance of "
            "features, and mean LPIPS (DIV, as DreamBooth) where the lpips package and AlexNet's weights "
            "are there. An adapter that always gives the same picture has learnt too much.",
            search_aliases=["diversity", "lpips", "overfitting", "mode collapse", "div", "多样性"],
            is_input_list=True,
            hidden=list(PROVENANCE),
            inputs=[
                ScorerSocket.Input("scorer", tooltip="From Load Scorer."),
                io.Image.Input("images", tooltip="Pictures of several seeds, of one or more prompts."),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip=(
                        "The prompts: one line for each image or batch. One line or none: all images are of one prompt."
                    ),
                ),
                *common_inputs(),
            ],
            outputs=[
                ScoresSocket.Output("scores", tooltip=SCORES_TOOLTIP),
                io.Float.Output("diversity", display_name="diversity", tooltip="Mean of 1 - cosine of all pairs."),
                io.Float.Output("div", display_name="DIV", tooltip="Mean LPIPS of all pairs. NaN without LPIPS."),
                io.String.Output("report", display_name="report", tooltip="The scores as text."),
            ],
        )

    @classmethod
    def execute(
        cls,
        scorer: list[Scorer],
        images: list[torch.Tensor],
        text: tuple[str, ...] = ("",),
        label: tuple[str, ...] = ("",),
        subject: tuple[str, ...] = ("",),
        adapter: list[dict[str, torch.Tensor]] | None = None,
        token: tuple[str, ...] = ("sks",),
    ) -> io.NodeOutput:
        """Score the pictures. Every input is a list."""
        return scored(
            cls, DIVERSITY, ("diversity", "DIV"), scorer, images, None, None, text, label, subject, adapter, token
        )


NODES: list[type[io.ComfyNode]] = [DEFTScoreImages, DEFTScoreDrift, DEFTScoreDiversity]
