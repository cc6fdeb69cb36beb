"""What has to be done so that autograd can go through code that was written for inference, learnt while it trains.

A step is taken as the code is. Where PyTorch refuses it, or where a saved tensor turns out to have been written into,
what is missing is switched on and the step is taken again (see `saved` and `functional`). A model that needs nothing of
this pays nothing for it.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from . import functional
from .saved import Changed, Region

# Parts of PyTorch's error messages in the backward pass.
_WRITTEN_INTO = "modified by an inplace operation"
_NO_GRADIENT = (
    "does not require grad",
    "no autograd formula was registered",  # operations of packages
    "through the graph a second time",  # what a network keeps from one pass for the next
    "derivative for",
    "not differentiable",
)


class Repairs:
    """The repairs of one model. `network` and `text` are its parts, `blocks` those that are checkpointed, by name."""

    def __init__(self, model_name: str) -> None:
        self.model_name = model_name
        self.network, self.text = Region("the network"), Region("the text encoder")
        self.blocks: dict[str, Region] = {}
        self.functional = False

    def regions(self) -> list[Region]:
        """All regions: the network, the text encoder and the checkpointed blocks."""
        return [self.network, self.text, *self.blocks.values()]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Apply the repairs to the forward and backward passes of a step."""
        if not self.functional:
            yield
            return
        with functional.Differentiable():
            yield

    def learnt(self) -> bool:
        """Whether the pass has shown something that makes its gradients wrong: it has to be taken again."""
        changed = [region for region in self.regions() if region.changed]
        for region in changed:
            region.changed = False
        return bool(changed)

    def learn(self, error: RuntimeError) -> bool:
        """Switch on what an error asks for; whether there was something left to switch on.

        Raises:
            ValueError: the error is one of autograd's, and all is on already.
        """
        if isinstance(error, Changed):
            return True
        message = str(error)
        if _WRITTEN_INTO in message and not self.network.watched:
            self.network.watched = self.text.watched = True
            return True
        if any(words in message for words in functional.MESSAGES) and not self.functional:
            self.functional = True
            for region in self.regions():
                region.around = functional.Differentiable
            return True
        if any(words in message for words in (_WRITTEN_INTO, *functional.MESSAGES, *_NO_GRADIENT)):
            raise ValueError(self.refusal(error)) from error
        return False

    def refusal(self, error: RuntimeError) -> str:
        """The error message for what cannot be trained, with the operation and where it stands."""
        first = str(error).strip().splitlines()[0]
        match = re.search(r"output \d+ of (\w+)", first)
        operation = f" (the result of {match[1].removesuffix('0').removesuffix('Backward')})" if match else ""
        where = [frame for frame in traceback.extract_tb(error.__traceback__) if "comfy" in frame.filename.split("/")]
        place = f", at {where[-1].filename}:{where[-1].lineno} ({where[-1].line})" if where else ""
        return (
            f"ComfyUI's code of {self.model_name} cannot be trained through{operation}{place}: {first} "
            "Choose another base, and please report it with this text."
        )

    def text_line(self) -> str:
        """A line of the report on what was done; empty if nothing was."""
        copies = sum(len(region.copies) for region in self.regions())
        inputs = sum(bool(region.inputs) for region in self.regions())
        done = []
        if copies:
            done.append(f"{copies} tensors that it writes into are kept as copies")
        if inputs:
            done.append(f"so are the inputs of {inputs} blocks")
        if self.functional:
            done.append("operations without a gradient are replaced (a little slower)")
        return f"{self.model_name} is written for inference: {', '.join(done)}" if done else ""
