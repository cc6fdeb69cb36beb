"""The demo's own loaders: what ComfyUI's loading nodes cannot read because of its size."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io

from ..deft_ops.files.safe import read_text

_FOLDER = Path(__file__).parent.parent / "demo"
CATEGORY = "DEFT/demo"


def register_models() -> None:
    """Let ComfyUI's Load Diffusion Model and Load VAE and the adapters' loaders offer the demo's files."""
    for kind in ("diffusion_models", "vae", "loras"):
        folder_paths.add_model_folder_path(kind, str(_FOLDER / "models" / kind))


def subjects() -> list[str]:
    """Names of the demo's subjects, objects and scenes that its model has never seen."""
    return sorted(folder.name for folder in (_FOLDER / "subjects").iterdir() if folder.is_dir())


class DEFTDemoTextEncoder(io.ComfyNode):
    """The node that loads the demo's CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: no inputs; the demo's CLIP."""
        return io.Schema(
            node_id="DEFTDemoTextEncoder",
            display_name="Load Demo Text Encoder",
            category=CATEGORY,
            description="The text encoder of the small demo model. Other models use ComfyUI's Load CLIP or Load "
            "Checkpoint.",
            search_aliases=["demo", "clip", "演示"],
            inputs=[],
            outputs=[io.Clip.Output(display_name="clip", tooltip="The CLIP of the demo model.")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Load the file that ships with the pack."""
        from ..demo.text_encoder import load

        return io.NodeOutput(
            load(
                str(_FOLDER / "models" / "deft_demo_text_encoder.safetensors"),
                folder_paths.get_folder_paths("embeddings"),
            )
        )


class DEFTDemoSubject(io.ComfyNode):
    """The node that gives five pictures of one object or scene with captions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: the subject and the token of its captions; pictures and captions."""
        return io.Schema(
            node_id="DEFTDemoSubject",
            display_name="Demo Subject",
            category=CATEGORY,
            description="Five pictures of an object or scene that the demo model has never seen, with captions. For "
            "your own pictures use Prepare Training Pictures.",
            search_aliases=["demo", "dataset", "training images", "example captions", "演示", "训练图片"],
            inputs=[
                io.Combo.Input(
                    "subject",
                    options=subjects(),
                    default="teddy_bear",
                    tooltip="The object; table and garden are scenes with two objects in each picture.",
                ),
                io.String.Input(
                    "token",
                    default="sks",
                    tooltip="A rare word in front of the object's name in the captions, so that "
                    "the model can distinguish it from others.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The five pictures, 64 x 64."),
                io.String.Output(display_name="captions", is_output_list=True, tooltip="One caption for each picture."),
            ],
        )

    @classmethod
    def execute(cls, subject: str, token: str) -> io.NodeOutput:
        """Read the pictures and captions."""
        import numpy as np
        import torch
        from PIL import Image

        if subject not in subjects():
            raise ValueError(f"There is no demo subject {subject!r}: choose one of {', '.join(subjects())}.")
        files = sorted((_FOLDER / "subjects" / subject).glob("*.png"))
        pictures = [
            torch.from_numpy(np.asarray(Image.open(file).convert("RGB"), dtype=np.float32) / 255) for file in files
        ]
        captions = [read_text(file.with_suffix(".txt")).strip() for file in files]
        name = subject.replace("_", " ")
        if token:
            captions = [caption.replace(name, f"{token} {name}", 1).replace("an sks", "a sks") for caption in captions]
        return io.NodeOutput(torch.stack(pictures), captions)


NODES: list[type[io.ComfyNode]] = [DEFTDemoTextEncoder, DEFTDemoSubject]
