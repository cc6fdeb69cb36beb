"""What a walk of docs/maintainers/adding.md leaves to `make generated` and to people, done in a copy of the pack.

Run in the copy. The last line of the output is a JSON object: `stale`, the lines of what is not up to date; `lacking`,
the texts of nodes without a translation; `words`, those of the help pages' lists without one; `left`, what is still not
up to date when texts are made and people have done their part: pictures, for they need a browser.

As translations the English is taken with a Chinese character before it, as a new node's help page that of Adapter Info.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT / "scripts")

import make_generated  # noqa: E402
import make_help  # noqa: E402
import make_locale  # noqa: E402
from generated import Pack, ask, write  # noqa: E402

SHOWN = "DEFTAdapterInfo"  # whose page is taken
LANGUAGE = "zh"
TEXTS, WORDS = (make_locale.LOCALES / LANGUAGE / name for name in ("nodeDefs.json", "words.json"))


def translated(text: str) -> str:
    """A stand-in for a translation into Chinese."""
    return f"译 {text}"


def write_pages(pack: Pack) -> None:
    """Help pages of nodes that have none."""
    for name in [name for name in pack.nodes if not (make_help.HELP_PAGES / name).is_dir()]:
        title, shown = pack.nodes[name]["display_name"], pack.nodes[SHOWN]["display_name"]
        titles = {"en": (shown, title), LANGUAGE: (make_locale.read(TEXTS)[SHOWN]["display_name"], translated(title))}
        for language, (old, new) in titles.items():
            page = (make_help.HELP_PAGES / SHOWN / f"{language}.md").read_text(encoding="utf-8")
            write({make_help.HELP_PAGES / name / f"{language}.md": page.replace(SHOWN, name).replace(old, new)})


def translate(pack: Pack) -> None:
    """Texts of nodes that have no translation."""
    texts = make_locale.read(TEXTS)
    for name, english in make_locale.english_of(pack).items():
        own = {part: translated(english[part]) for part in ("display_name", "description")}
        theirs: dict[str, Any] = texts.setdefault(name, own | {"inputs": {}, "outputs": {}})
        for group in ("inputs", "outputs"):
            for place, entry in english[group].items():
                theirs[group].setdefault(place, {part: translated(text) for part, text in entry.items()})
    write({TEXTS: make_locale.text_of(texts)})


def lacking_words(pack: Pack) -> list[str]:
    """The words of the pack's lists that have no translation."""
    every = [about for lists in pack.words.values() for abouts in lists.values() for about in abouts.values()]
    return sorted(set(every) - set(make_locale.read(WORDS)))


def main() -> None:
    """Make and write what a walk leaves, and print what that was."""
    pack = ask()
    write_pages(pack)
    done: dict[str, Any] = {"stale": make_generated.stale(pack), "words": lacking_words(pack)}
    for make in make_generated.OF_NODES.values():
        write(make(pack))
    done["lacking"] = make_locale.all_lacking(pack)
    translate(pack)
    words = make_locale.read(WORDS) | {about: translated(about) for about in done["words"]}
    write({WORDS: make_locale.text_of(words)} | make_locale.translated_files(pack))
    write(make_help.files(pack))
    done["left"] = make_generated.stale(pack)
    print(json.dumps(done))


if __name__ == "__main__":
    main()
