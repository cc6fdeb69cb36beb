"""Textual Inversion (arXiv 2208.01618): the vectors of a new token are trained, and nothing else."""

from __future__ import annotations

import re
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...deft_ops import adapter as adapters
from ...deft_ops.files import safe
from ..data.material import Material
from ..settings.textual_inversion import TEXTUAL_INVERSION
from .trainer import Trainer

# What the token stands for, and captions for it; {} is the token.
CAPTION_TEMPLATES: dict[str, tuple[str, ...]] = {
    "object": (
        "a photo of {}",
        "a close-up photo of {}",
        "a bright photo of {}",
        "a dark photo of {}",
        "a sharp photo of {}",
        "a cropped photo of {}",
        "a photo of one {}",
        "a photo of the whole {}",
        "a picture of {}",
        "a drawing of {}",
    ),
    "style": (
        "a picture in the style of {}",
        "a painting in the style of {}",
        "a drawing in the style of {}",
        "a bright picture in the style of {}",
        "a dark picture in the style of {}",
        "a detail in the style of {}",
        "a scene in the style of {}",
        "a portrait in the style of {}",
    ),
}
_MARK = -12345.0  # no embedding has rows of it


def tokenizers(clip: Any) -> dict[str, Any]:
    """The tokenizers of a CLIP whose encoder takes embeddings, by the name that embedding files have for it."""
    parts = [part for part in vars(clip.tokenizer).values() if hasattr(part, "embedding_key")]
    return {part.embedding_key: part for part in parts if hasattr(clip.cond_stage_model, part.embedding_key)}


def table_of(clip: Any, key: str) -> Tensor:
    """The table of token embeddings [tokens, width] of an encoder."""
    weight: Tensor = getattr(clip.cond_stage_model, key).transformer.get_input_embeddings().weight
    return weight


def ids_of(tokenizer: Any, words: str) -> list[int]:
    """The tokens of words, without start and end."""
    ids: list[int] = tokenizer.tokenizer(words)["input_ids"]
    return ids[tokenizer.tokens_start : -1 if tokenizer.tokenizer_adds_end_token else None]


def check_name(clip: Any, name: str) -> None:
    """Raise ValueError for a name that cannot be a token: of several words, or a word that the model knows."""
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"The token {name!r} must be one word of letters, digits, '-', '_' and '.'.")
    for tokenizer in tokenizers(clip).values():
        if len(ids_of(tokenizer, name)) == 1:
            raise ValueError(f"The token {name!r} is a word that the text encoder knows: choose another, as {name}-1.")


def captions_of(name: str, template: str, captions: Sequence[str] = ()) -> list[str]:
    """Captions with {} for the token: the user's, in which the name stands as a word, or those of a template.

    Raises:
        ValueError: an unknown template, captions without the name.
    """
    if captions:
        word = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
        for caption in captions:
            if not word.search(caption):
                raise ValueError(f"The caption {caption!r} does not contain the token {name!r}.")
        return [word.sub("{}", caption.replace("{", "").replace("}", "")) for caption in captions]
    if template not in CAPTION_TEMPLATES:
        raise ValueError(f"Unknown template {template!r}: choose one of {', '.join(CAPTION_TEMPLATES)}.")
    return list(CAPTION_TEMPLATES[template])


def is_mark(token: Tensor) -> bool:
    """Whether a row among the tokens stands for a vector of the new token."""
    return float(token.flatten()[-1]) == _MARK


class Token:
    """A new token of `count` vectors an encoder, and captions with it as tokens of ComfyUI's.

    Raises:
        ValueError: a text encoder that takes no embeddings, words that are none; in captions, an embedding of another
            width.
    """

    def __init__(self, clip: Any, name: str, count: int, words: str, device: torch.device) -> None:
        self.clip, self.name, self.count = clip, name, count
        self.tokenizers = tokenizers(clip)
        if not self.tokenizers:
            raise ValueError("This text encoder takes no embeddings: Textual Inversion needs one that does (CLIP).")
        self.start: dict[str, Tensor] = {}
        for key, tokenizer in self.tokenizers.items():
            ids = ids_of(tokenizer, words)
            if not ids:
                raise ValueError("Write words for the token to start from, such as the class: dog.")
            rows = [ids[place % len(ids)] for place in range(count)]
            self.start[key] = table_of(clip, key).detach()[rows].to(device, torch.float32, copy=True).clone()
        self.vectors = {key: value.clone().requires_grad_() for key, value in self.start.items()}

    def tokenize(self, captions: Sequence[str]) -> list[Any]:
        """Captions with {} for the token as ComfyUI's tokens, in which marked rows stand for the vectors."""
        marked = {}
        for place, (key, tokenizer) in enumerate(self.tokenizers.items()):
            marked[key] = torch.full((self.count, tokenizer.embedding_size), _MARK)
            marked[key][:, 0], marked[key][:, 1] = torch.arange(self.count), place
        before = {key: tokenizer.embedding_directory for key, tokenizer in self.tokenizers.items()}
        with tempfile.TemporaryDirectory() as folder:
            # ComfyUI's own way from "embedding:name" to rows among the tokens, with weights and long captions. It looks
            # into folders in any order, so the name is one that no other file has.
            name = f"deft-{uuid.uuid4().hex}"
            safe.write_tensors(marked, Path(folder) / f"{name}.safetensors", {})
            try:
                for key, tokenizer in self.tokenizers.items():
                    folders = before[key] or []
                    tokenizer.embedding_directory = [folder, *([folders] if isinstance(folders, str) else folders)]
                tokenized = [self.clip.tokenize(caption.replace("{}", f"embedding:{name} ")) for caption in captions]
            finally:
                for key, tokenizer in self.tokenizers.items():
                    tokenizer.embedding_directory = before[key]
        for caption, tokens in zip(captions, tokenized, strict=True):
            self.check_widths(caption, tokens)
        return tokenized

    def check_widths(self, caption: str, tokens: Any) -> None:
        """Raise ValueError for another embedding in a caption that is of another model: ComfyUI would leave it out."""
        for name, chunks in tokens.items():
            key = next((key for key in self.vectors if key.endswith(f"_{name}")), None)
            for token in (item[0] for chunk in chunks for item in chunk):
                if key is None or not isinstance(token, Tensor) or is_mark(token):
                    continue
                width = self.vectors[key].shape[1]
                if token.shape[-1] != width:
                    raise ValueError(
                        f"An embedding in the caption {caption!r} has {token.shape[-1]} values per vector, but {key} "
                        f"needs {width}: it is for another model."
                    )

    def placed(self, tokens: Any) -> Any:
        """The tokens of a caption with the vectors as they are now."""
        keys = list(self.vectors)

        def place(item: tuple) -> tuple:
            token = item[0]
            if not isinstance(token, Tensor) or not is_mark(token):
                return item
            row, encoder = int(token[0]), int(token[1])
            return (self.vectors[keys[encoder]][row], *item[1:])

        return {name: [[place(item) for item in chunk] for chunk in chunks] for name, chunks in tokens.items()}


def material_of(
    clip: Any, latents: Sequence[dict[str, Any]], captions: Sequence[str], is_own: bool, start: str
) -> Material:
    """Pictures and captions, with {} for the token: the user's (`is_own`) as they come, a template's each with each
    picture.

    The captions are also encoded, with the words that the token starts from, for what belongs to them besides.
    """
    pictures: list[dict[str, Any]] = []
    for item in latents:
        samples: Tensor = item["samples"]
        masks = item.get("noise_mask")
        for place in range(len(samples)):
            mask = {} if masks is None else {"noise_mask": masks[place % len(masks)][None]}
            pictures.append({"samples": samples[place : place + 1]} | mask)
    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(caption.replace("{}", start))) for caption in captions]
    if is_own:
        return Material(pictures, encoded, clip=clip, words=captions)
    return Material(
        [picture for picture in pictures for _ in captions],
        [entry for _ in pictures for entry in encoded],
        clip=clip,
        words=[caption for _ in pictures for caption in captions],
    )


class TokenTrainer(Trainer):
    """A run that trains a token; its adapter is the embedding, [count, width] by the encoder's name."""

    def build(self) -> None:
        """Make the token that is trained, instead of layers."""
        options, text = self.settings.options, self.dataset.text
        assert text is not None
        self.token = Token(text.clip, options["token"], options["vectors"], options["words"], self.device)
        marked = self.token.tokenize(text.words)
        text.tokens_of = lambda caption: self.token.placed(marked[caption])

    @property
    def parameters(self) -> list[Tensor]:
        """The trained vectors of the token."""
        return list(self.token.vectors.values())

    def groups(self) -> list[dict[str, Any]]:
        """The one group of parameters for the optimizer."""
        return [{"params": self.parameters, "rate": 1.0}]

    def refresh(self) -> None:
        """Do nothing: the vectors are used as they are."""

    def title(self) -> str:
        """The first line of the report: the method, the token and its vectors."""
        return f"{TEXTUAL_INVERSION}: {self.token.name}, {self.token.count} vectors in {', '.join(self.token.vectors)}"

    @torch.no_grad()
    def finish(self) -> tuple[adapters.Adapter, dict[str, float]]:
        """The embedding, and how far it is from the words it started from, relative to those."""
        with self.averaged():
            vectors = {key: value.detach().cpu().clone() for key, value in self.token.vectors.items()}
        start = {key: value.cpu() for key, value in self.token.start.items()}
        change = {key: float((vectors[key] - start[key]).norm() / start[key].norm()) for key in vectors}
        return adapters.Adapter(vectors), change
