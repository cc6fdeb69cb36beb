"""The table in LaTeX, for the booktabs package."""

from __future__ import annotations

from .table import TIED, Cell, Table, interval_text, mean_text

TIE = r"$\sim$"
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
        _line([escape(name) for name in table.titles]),
        r"\midrule",
    ]
    for row in table.rows:
        lines.append(_line([*map(escape, table.lead(row)), *map(_cell, row.cells), *row.cost_texts]))
    lines += [r"\bottomrule", r"\end{tabular}", "", r"\smallskip\raggedright\footnotesize"]
    legend = escape(table.legend).replace(escape(TIED), TIE)
    lines += [rf"{text}\par" for text in (legend, *map(escape, (*table.findings, *table.notes))) if text]
    return ("\n".join([*lines, r"\end{table}"]) + "\n").encode()


def escape(text: str) -> str:
    """Text as LaTeX prints it."""
    return text.translate(ESCAPES)


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    mean = rf"\textbf{{{mean_text(cell)}}}" if cell.best else TIE * cell.tied + mean_text(cell)
    around = interval_text(cell)
    return f"{mean} {{\\scriptsize {around}}}" if around else mean
