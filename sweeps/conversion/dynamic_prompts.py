"""Dynamic prompts: comments and {one|another} in texts, read as the page reads them when it makes a prompt."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

COMMENTS = re.compile(r"/\*[\s\S]*?\*/|//[^\n\r\u2028\u2029]*")
Choose = Callable[[Sequence[str]], str]


class OpenChoice(ValueError):
    """A text has a choice, and nobody chooses."""


def single(options: Sequence[str]) -> str:
    """The only option. Raises OpenChoice where there are more that differ."""
    if len(set(options)) > 1:
        raise OpenChoice("{" + "|".join(options) + "}")
    return options[0]


def read(text: str, choose: Choose = single) -> str:
    """The text as the page sends it. choose: picks one of the options of each {a|b}, in the order of the text."""
    text = COMMENTS.sub("", text)
    place = 0
    result = ""

    def escaped() -> str:
        nonlocal place
        place += 1
        return "\\" + (text[place - 1] if place <= len(text) else "undefined")

    def block() -> str:
        nonlocal place
        options, option, depth = [], "", 0
        while place < len(text):
            sign = text[place]
            place += 1
            if sign == "\\":
                option += escaped()
                continue
            if sign == "{":
                depth += 1
            elif sign == "}":
                if not depth:
                    break
                depth -= 1
            elif sign == "|" and not depth:
                options.append(option)
                option = ""
                continue
            option += sign
        return read(choose([*options, option]), choose)

    while place < len(text):
        sign = text[place]
        place += 1
        result += escaped() if sign == "\\" else block() if sign == "{" else sign
    return re.sub(r"\\([{}|])", r"\1", result)
