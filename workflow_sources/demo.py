"""Examples on the demo's model: the nodes that several of them have, and their ids.

A node's id says what it is: below 20 what all share (1 to 3 the model, 4 to 6 the subject's pictures, 7 to 10 prompts
and size, 11 the scorers), 20 and up trainings, 30 applying, 40 sampling, 50 decoding, 60 scoring, 70 and up what is
shown. In examples with several subjects or sections the hundreds count these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .prompt import APPLY, TOKEN, Connection, PromptBuilder

_SAMPLING = {"seed": 7, "steps": 20, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
DEMO_METHODS: dict[str, dict[str, Any]] = {
    "DEFT": {
        "method": "deft",
        "method.rank": 4,
        "method.alpha": 0.0,
        "method.projector": "qr",
        "method.start": "identity",
    },
    "PaRa": {"method": "para", "method.rank": 4, "method.rank_cap": 0.0},
    "LoRA": {"method": "lora", "method.rank": 4, "method.alpha": 0.0},
}
BACKGROUNDS = ("a red", "a blue", "a green", "a teal", "a white", "a purple", "an orange", "a pink")
DEFT_FILE, LORA_FILE = "deft_demo_teddy_bear_deft.safetensors", "deft_demo_teddy_bear_lora.safetensors"
SECOND_FILE, SECOND, SECOND_TOKEN = "deft_demo_duck_deft.safetensors", "duck", "zwx"

MODEL, CLIP, VAE, PHOTOS, LATENTS, CAPTIONS = (([str(node), 0]) for node in (1, 2, 3, 4, 5, 6))
PROMPTS, ENCODED, EMPTY, SIZE, SCORER = (([str(node), 0]) for node in (7, 8, 9, 10, 11))
PROMPT_TEXT: Connection = ["7", 1]


def on_backgrounds(subject: str, count: int = 8) -> list[str]:
    """Prompts of one subject on colours."""
    return [f"{subject} on {background} background" for background in BACKGROUNDS[:count]]


class DemoExample(PromptBuilder):
    """A workflow on the demo's model. name: of its file, and the folder of all that it writes."""

    def __init__(self, name: str) -> None:
        """The model."""
        super().__init__()
        self.name = name
        self.add(
            1, "UNETLoader", "Demo model", {"unet_name": "deft_demo_denoiser.safetensors", "weight_dtype": "default"}
        )
        self.add(2, "DEFTDemoTextEncoder", "Demo text encoder", {})
        self.add(3, "VAELoader", "Demo autoencoder", {"vae_name": "deft_demo_vae.safetensors"})

    def subject(self, subject: str = "teddy_bear", first: int = 4, of: str = "") -> Connection:
        """A subject's pictures with captions, encoded for the training; the pictures. of: more for the titles."""
        photos = self.add(
            first, "DEFTDemoSubject", f"Five pictures{of or ' of the subject'}", {"subject": subject, "token": TOKEN}
        )
        self.add(first + 1, "VAEEncode", f"Encode the pictures{of}", {"pixels": photos, "vae": VAE})
        self.add(first + 2, "CLIPTextEncode", f"Encode the captions{of}", {"text": [photos[0], 1], "clip": CLIP})
        return photos

    def photos(self, subject: str = "teddy_bear", node: int = 4, title: str = "Pictures of the subject") -> Connection:
        """A subject's pictures, to look at and to compare with."""
        return self.add(node, "DEFTDemoSubject", title, {"subject": subject, "token": TOKEN})

    def prompts(
        self, lines: Sequence[str], node: int = 7, title: str = "Prompts to draw", token: str = TOKEN
    ) -> Connection:
        """Add prompts and, as the next node, their encoding, which is returned."""
        prompts = self.add(node, "DEFTPrompts", title, {"prompts": "\n".join(lines), "token": token})
        return self.add(
            node + 1,
            "CLIPTextEncode",
            f"Encode: {title.lower()}" if node != 7 else "Encode the prompts",
            {"text": prompts, "clip": CLIP},
        )

    def sampling(self) -> None:
        """Add the nodes that sampling needs beside model and prompts."""
        self.add(9, "CLIPTextEncode", "Empty prompt", {"text": "", "clip": CLIP})
        self.add(10, "EmptySD3LatentImage", "64 x 64", {"width": 64, "height": 64, "batch_size": 1})

    def scorer(self) -> None:
        """The demo's scorers."""
        self.add(
            11,
            "DEFTLoadScorer",
            "Demo scorers",
            {
                "protocol": "demo",
                "clip_weights": "auto",
                "dino_weights": "auto",
                "dinov2_weights": "auto",
            },
        )

    def train(
        self, node: int, label: str, latents: Connection = LATENTS, captions: Connection = CAPTIONS, **more: Any
    ) -> Connection:
        """A training of DEFT, PaRa or LoRA, the first word of the label."""
        return self.add(
            node,
            "DEFTTrainAdapter",
            f"Train {label}",
            {
                "model": MODEL,
                "latents": latents,
                "positive": captions,
                "steps": 400,
                "learning_rate": 0.001,
                "batch_size": 5,
                "layers": "all linear",
                "pattern": "",
                "seed": 1,
                "precision": "fp32",
                "gradient_checkpointing": False,
                **DEMO_METHODS[label.split()[0]],
                **more,
            },
        )

    def apply(self, node: int, label: str, adapter: Connection, model: Connection = MODEL, **more: Any) -> Connection:
        """An adapter on the model."""
        return self.add(
            node, "DEFTApplyAdapter", f"Apply {label}", {"model": model, "adapter": adapter, **APPLY, **more}
        )

    def draw(
        self,
        line: int,
        label: str,
        model: Connection,
        positive: Connection = ENCODED,
        first: int = 40,
        second: int = 50,
    ) -> Connection:
        """Sample and decode; the pictures. first, second: the nodes' ids at line 0."""
        latent = self.add(
            first + line,
            "KSampler",
            f"Sample {label}",
            {
                "model": model,
                "positive": positive,
                "negative": EMPTY,
                "latent_image": SIZE,
                **_SAMPLING,
            },
        )
        return self.add(second + line, "VAEDecode", f"Decode {label}", {"samples": latent, "vae": VAE})

    def score(
        self,
        line: int,
        label: str,
        images: Connection,
        adapter: Connection | None = None,
        references: Connection = PHOTOS,
        text: Connection = PROMPT_TEXT,
        subject: str = "teddy bear",
        first: int = 60,
    ) -> Connection:
        """The scores of a row. first: the id at line 0. What is behind a comma of the label is in the title alone."""
        return self.add(
            first + line,
            "DEFTScoreImages",
            f"Score {label}",
            {
                "scorer": SCORER,
                "images": images,
                "references": references,
                "text": text,
                "label": label.partition(",")[0],
                "subject": subject,
                **({"adapter": adapter} if adapter else {}),
            },
        )

    def grid(
        self,
        rows: Mapping[str, Connection],
        scores: list[Connection] = [],  # noqa: B006
        subject: Connection | None = PHOTOS,
        columns: Connection = PROMPT_TEXT,
        node: int = 70,
        title: str = "Side by side",
        file: str = "grid",
        **more: Any,
    ) -> Connection:
        """The rows as a labelled grid, which is saved by the node after the next."""
        image = self.add(
            node,
            "DEFTComparisonGrid",
            title,
            {
                "row_labels": "\n".join(rows),
                "column_labels": columns,
                **({"subject": subject} if subject else {}),
                **{f"images.images{place}": link for place, link in enumerate(rows.values())},
                **{f"scores.scores{place}": link for place, link in enumerate(scores)},
                **more,
            },
        )
        self.save(node + 2, image, f"Save: {title.lower()}" if node != 70 else "Save the grid", file)
        return image

    def save(self, node: int, image: Connection, title: str, file: str) -> None:
        """A picture to the output folder."""
        self.add(node, "SaveImage", title, {"images": image, "filename_prefix": f"{self.name}/{file}"})

    def table(self, scores: list[Connection], title: str, node: int = 71, **more: Any) -> None:
        """The score table."""
        self.add(
            node,
            "DEFTScoreTable",
            "Scores",
            {
                "title": title,
                **{f"scores.scores{place}": link for place, link in enumerate(scores)},
                "filename_prefix": f"{self.name}/table",
                **more,
            },
        )

    def plot(self, scores: list[Connection], title: str, node: int = 73) -> None:
        """Add a plot of likeness against prompt following."""
        self.add(
            node,
            "DEFTFidelityPlot",
            "Likeness against prompt following",
            {
                "x": "CLIP-T",
                "y": "DINO",
                "title": title,
                "filename_prefix": f"{self.name}/plot",
                **{f"scores.scores{place}": link for place, link in enumerate(scores)},
            },
        )

    def show_text(self, node: int, title: str, source: Connection) -> None:
        """A text on the canvas."""
        self.add(node, "PreviewAny", title, {"source": source})
