"""Text encoders in a training: adapters on a CLIP, and captions encoded anew with them in every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import batches


class TrainedText:
    """The captions of a run, encoded with gradients. `entries` are the same captions' CONDITIONING, for their extras.

    Raises:
        ValueError: no words, or not as many as there are encoded captions.
    """

    def __init__(self, clip: Any, words: Sequence[str], entries: Sequence[Any]) -> None:
        if len(words) != len(entries):
            raise ValueError(
                f"To train the text encoder, connect the captions as text: there are {len(words)} texts for "
                f"{len(entries)} encoded captions."
            )
        self.clip = clip
        self.root: nn.Module = clip.patcher.model
        self.entries, self.words = entries, words
        tokens = {text: clip.tokenize(text) for text in words}
        # A caption's tokens; Textual Inversion puts its own in.
        self.tokens_of: Callable[[int], Any] = lambda caption: tokens[words[caption]]

    @property
    def device(self) -> torch.device:
        """The device on which the text encoders compute: ComfyUI may have them on the CPU beside a model on a GPU."""
        load_device: torch.device = self.clip.patcher.load_device
        return load_device

    def conds(self, model: Any, caption: int, shape: tuple[int, ...], device: torch.device) -> batches.Conds:
        """The network's inputs beside the latent [1, c, ...], with a gradient to the text encoder's adapters."""
        # Not through CLIP's own function: it may load and move weights, which cannot be done in the midst of a step.
        stage = self.clip.cond_stage_model
        stage.reset_clip_options()
        if self.clip.layer_idx is not None:
            stage.set_clip_options({"layer": self.clip.layer_idx})
        stage.set_clip_options({"execution_device": self.device})
        cond, pooled, *more_extras = stage.encode_token_weights(self.tokens_of(caption))
        extras = {name: ordinary(value) for name, value in self.entries[caption][1].items()}
        extras |= {"pooled_output": pooled} | (more_extras[0] if more_extras else {})
        (conds,) = batches.encode_conditioning(model, [[cond, extras]], shape, device)
        return conds


def ordinary(value: Any) -> Any:
    """A tensor that autograd takes; anything else as it is."""
    return value.clone() if isinstance(value, Tensor) else value
