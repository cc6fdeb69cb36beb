"""The table in LaTeX, for the booktabs package."""

from __future__ import annotations

from .table import DOWN, TIED, UP, Table, TableCell

TIE = r"$\sim$"
ARROWS = {UP: r" $\uparrow$", DOWN: r" $\downarrow$", "": ""}
# A bracket or star at the start of a row would be read as the argument of the line break before it.
ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",
        "*": "{*}",
        "\n": " ",
    }
)


def latex(table: Table, title: str = "") -> bytes:
    """A table environment: the best of each column in bold, intervals small; findings and notes below. UTF-8."""
    lines = ["% Needs \\usepackage{booktabs}.", r"\begin{table}", r"\centering"]
    lines += [rf"\caption{{{escape(title)}}}"] if title else []
    lines += [
        rf"\begin{{tabular}}{{{''.join('l' if left else 'r' for left in table.flush_left)}}}",
        r"\toprule",
        _line([escape(name) + ARROWS[arrow] for name, arrow in zip(table.titles, table.arrows)]),
        r"\midrule",
    ]
    for place, line in enumerate(table.lines):
        lines += [r"\midrule"] if place and place == table.apart else []
        lines.append(_line([_text(entry) for entry in line]))
    lines += [r"\bottomrule", r"\end{tabular}", "", r"\smallskip\raggedright\footnotesize"]
    legend = escape(table.legend).replace(escape(TIED), TIE)
    lines += [rf"{text}\par" for text in (legend, *map(escape, (*table.findings, *table.notes))) if text]
    return ("\n".join([*lines, r"\end{table}"]) + "\n").encode()


def escape(text: str) -> str:
    """The text, escaped so that LaTeX prints it as it is."""
    return text.translate(ESCAPES)


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _text(entry: TableCell) -> str:
    text = rf"\textbf{{{escape(entry.text)}}}" if entry.bold else TIE * entry.tied + escape(entry.text)
    return f"{text} {{\\scriptsize {entry.interval}}}" if entry.interval else text
