"""Prompts."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..scoring.texts import without_token


def lines(text: str) -> list[str]:
    """The non-empty lines of a text."""
    return [line.strip() for line in text.splitlines() if line.strip()]


class DEFTPrompts(io.ComfyNode):
    """The node that makes a list of the lines of a text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: a text with a prompt a line; the prompts as a list, and the same for scoring."""
        return io.Schema(
            node_id="DEFTPrompts",
            display_name="Prompts",
            category="DEFT",
            description="One prompt a line. What is connected behind it runs once for each prompt, so one CLIP Text "
            "Encode and one KSampler make a picture of every prompt.",
            search_aliases=["prompt list", "string list", "multiple prompts", "prompts from lines", "多个提示词"],
            inputs=[
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="a sks teddy bear on a red background\na sks teddy bear on a blue background",
                    tooltip="One prompt a line; empty lines are skipped.",
                ),
                io.String.Input(
                    "token",
                    default="sks",
                    tooltip="The rare word of the training captions. It is removed from the "
                    "scoring text. Empty: nothing is removed.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="prompts", is_output_list=True, tooltip="The prompts, as a list."),
                io.String.Output(
                    display_name="scoring_text",
                    tooltip="The prompts without the rare word, one a line, for Score Images and as labels.",
                ),
            ],
        )

    @classmethod
    def execute(cls, prompts: str, token: str) -> io.NodeOutput:
        """Split the text into prompts."""
        texts = lines(prompts)
        if not texts:
            raise ValueError("There are no prompts: write at least one line.")
        return io.NodeOutput(texts, "\n".join(without_token(line, token) for line in texts))


NODES: list[type[io.ComfyNode]] = [DEFTPrompts]
