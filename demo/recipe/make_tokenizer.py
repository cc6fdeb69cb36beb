"""Cut CLIP's vocabulary down to the merges that the demo's captions and some plain words need.

    python -m demo.recipe.make_tokenizer --comfyui DIR

Other words still work: they are spelled in smaller pieces, down to single bytes. The vocabulary comes from CLIP (MIT).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

from .vocabulary import COLOURS, HELD_OUT, TRAINED_NAMES, caption

_WORDS = """
a an the my this of on in with and at under over beside near background sks photo picture painting drawing cartoon style
toy pet old new big small tiny large dark light bright
plain snow beach forest jungle city street room table wooden floor
sand sky night day water grass mountain wearing hat red blue green yellow two three one front colour color texture
object animal food thing object vehicle
"""


def byte_symbols() -> list[str]:
    """CLIP's (and GPT-2's) printable stand-in for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(extra))]


def merges_of(word: str, ranks: dict[tuple[str, str], int]) -> set[tuple[str, str]]:
    """The merges that byte pair encoding makes in one word."""
    parts = [*word[:-1], word[-1] + "</w>"]
    used = set()
    while True:
        pairs = [pair for pair in zip(parts, parts[1:], strict=False) if pair in ranks]
        if not pairs:
            return used
        best = min(pairs, key=ranks.__getitem__)
        used.add(best)
        index = 0
        while index < len(parts) - 1:
            if (parts[index], parts[index + 1]) == best:
                parts[index : index + 2] = [best[0] + best[1]]
            index += 1


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "models" / "tokenizer")
    args = parser.parse_args()
    source = args.comfyui / "comfy" / "sd1_tokenizer"
    lines = (source / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [(left, right) for left, right in (line.split() for line in lines[1:] if line)]
    ranks = {merge: rank for rank, merge in enumerate(merges)}
    texts = [caption(name, colour) for name in TRAINED_NAMES + HELD_OUT for colour in COLOURS]
    words = {word for text in texts for word in re.findall(r"[a-z]+", text)} | set(_WORDS.split())
    used = set().union(*(merges_of(word, ranks) for word in sorted(words)))
    kept = [merge for merge in merges if merge in used]
    symbols = byte_symbols()
    tokens = [
        *symbols,
        *(symbol + "</w>" for symbol in symbols),
        *("".join(merge) for merge in kept),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False))
    (args.out / "merges.txt").write_text("\n".join([lines[0], *(" ".join(merge) for merge in kept)]) + "\n")
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        shutil.copy(source / name, args.out / name)
    print(f"{len(tokens)} tokens, {len(kept)} merges for {len(words)} words in {args.out}")


if __name__ == "__main__":
    main()
