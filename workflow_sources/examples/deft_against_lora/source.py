"""The layout of figure 3 and of table 2: two subjects, DEFT and LoRA, a score under each picture."""

from __future__ import annotations

from ...demo import CLIP, DemoExample, on_backgrounds
from ...prompt import TOKEN, Connection, PromptBuilder


def prompt(name: str) -> PromptBuilder:
    """The workflow in API form."""
    it = DemoExample(name)
    it.sampling()
    it.scorer()
    scores = []
    for number, subject in enumerate(("teddy_bear", "duck")):
        first, name = 100 * (number + 1), subject.replace("_", " ")
        photos = it.subject(subject, first, f" of the {name}")
        it.add(
            first + 3,
            "DEFTPrompts",
            f"Prompts of the {name}",
            {"prompts": "\n".join(on_backgrounds(f"a {TOKEN} {name}", 6)), "token": TOKEN},
        )
        encoded = it.add(
            first + 4,
            "CLIPTextEncode",
            f"Encode the prompts of the {name}",
            {"text": [str(first + 3), 0], "clip": CLIP},
        )
        text: Connection = [str(first + 3), 1]
        rows, here = {}, []
        for line, method in enumerate(("DEFT", "LoRA")):
            place, label = first + 10 * (line + 1), f"{method} r4"
            adapter = it.train(place, f"{label}, {name}", [str(first + 1), 0], [str(first + 2), 0])
            model = it.apply(place + 1, f"{label}, {name}", adapter)
            rows[label] = it.draw(place, f"{label}, {name}", model, encoded, 2, 3)
            here.append(it.score(place, f"{label}, {name}", rows[label], adapter, photos, text, name, 4))
        it.grid(rows, here, photos, text, first + 30, f"Side by side, {name}", f"grid_{subject}")
        scores += here
    it.table(scores, "Demo: DEFT against LoRA", 300, rows="method x subject")
    it.plot(scores, "Demo: DEFT against LoRA", 301)
    return it
