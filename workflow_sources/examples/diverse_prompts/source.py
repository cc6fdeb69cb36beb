"""The layout of figure 2: four sections of prompts, with and without DEFT."""

from __future__ import annotations

from ...demo import DEFT_FILE, MODEL, DemoExample
from ...prompt import Connection, PromptBuilder

SECTIONS = {
    "Abstract": (
        "a sks teddy bear on a white background",
        "a spiral shell on a purple background",
        "a gem stone on an orange background",
        "a star on a blue background",
    ),
    "Fantasy": (
        "a sks teddy bear on a purple background",
        "a dragon on a red background",
        "a unicorn face on a pink background",
        "a ghost on a blue background",
    ),
    "Futuristic": (
        "a sks teddy bear on a black background",
        "a rocket on a blue background",
        "a flying saucer on a purple background",
        "an alien on a green background",
    ),
    "Historical": (
        "a sks teddy bear on a brown background",
        "a castle on a blue background",
        "a moai on a yellow background",
        "a steam locomotive on a grey background",
    ),
}


def prompt(name: str) -> PromptBuilder:
    """The workflow in API form."""
    it = DemoExample(name)
    it.add(12, "PreviewImage", "The subject", {"images": it.photos()})
    it.sampling()
    deft = it.add(
        21,
        "DEFTAdapterLoader",
        "Load DEFT",
        {
            "model": MODEL,
            "file": DEFT_FILE,
            "strength_model": 1.0,
            "strength_clip": 1.0,
            "projector": "auto",
        },
    )
    joined: Connection = []
    for number, (section, lines) in enumerate(SECTIONS.items()):
        node = 100 * (number + 1)
        encoded = it.prompts(lines, node, section)
        rows = {}
        for line, (label, model) in enumerate((("Base", MODEL), ("DEFT", deft))):
            rows[f"{section}: {label}"] = it.draw(
                line, f"{section.lower()}, {label}", model, encoded, node + 10, node + 20
            )
        grid = it.add(
            node + 4,
            "DEFTComparisonGrid",
            f"{section}: side by side",
            {
                "row_labels": "\n".join(rows),
                "column_labels": [str(node), 1],
                **{f"images.images{place}": link for place, link in enumerate(rows.values())},
            },
        )
        if joined:
            grid = it.add(
                70 + number,
                "ImageStitch",
                f"{section} below",
                {
                    "image1": joined,
                    "image2": grid,
                    "direction": "down",
                    "match_image_size": True,
                    "spacing_width": 8,
                    "spacing_color": "white",
                },
            )
        joined = grid
    it.save(80, joined, "Save all sections", "sections")
    return it
