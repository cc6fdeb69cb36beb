"""Write pictures and lists of the rooms in docs/maintainers/architecture.md, from tests/unit/test_architecture.py.

    $(make -s python) scripts/make_architecture.py

What a room is for is the first sentence of its __init__.py.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE_PAGE = ROOT / "docs" / "maintainers" / "architecture.md"
_TABLE = ROOT / "tests" / "unit" / "test_architecture.py"
BEGIN, END = "<!-- rooms: made by scripts/make_architecture.py -->", "<!-- end of rooms -->"
ARROW_TABLES = "ARROWS", "TRAINERS_ARROWS"
WITHIN = "The rooms of `trainers`, with their arrows among each other:"
_START = "__init__.py"  # what ComfyUI imports, "" in the table


def arrows(name: str) -> dict[str, set[str]]:
    """The table of this name: which rooms a room may import."""
    for statement in ast.parse(_TABLE.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            table: dict[str, set[str]] = ast.literal_eval(statement.value)
            return table
    raise ValueError(f"{_TABLE} has no table {name}.")


def purpose(room: str) -> str:
    """The purpose of a room: the first sentence of its docstring."""
    docstring = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8")))
    if not docstring:
        raise ValueError(f"{room}/__init__.py does not say what the room is for.")
    return " ".join(docstring.partition("\n\n")[0].split())


def rooms(table: Mapping[str, set[str]]) -> str:
    """A mermaid graph of the arrows, and a table with a line a room; both in the order of the arrows' table."""
    ids = {room: room.rpartition("/")[2] or "start" for room in table}
    lines = ["```mermaid", "graph TD"]
    lines += [f'    {ids[room]}["{room or _START}"]' for room in table]
    lines += [
        f"    {ids[room]} --> {ids[other]}" for room, imported in table.items() for other in table if other in imported
    ]
    lines += ["```", "", "| Room | What is in it | What it may import |", "|---|---|---|"]
    for room, imported in table.items():
        imports = ", ".join(f"`{other}`" for other in table if other in imported) or "no other room"
        lines.append(f"| `{room or _START}` | {purpose(room)} | {imports} |")
    return "\n".join(lines)


def page(text: str, table: Mapping[str, set[str]], within: Mapping[str, set[str]]) -> str:
    """The page with what is between the two marks made anew: the pack's rooms, and those within trainers."""
    before, _, behind = text.partition(BEGIN)
    _, end, after = behind.partition(END)
    if not end:
        raise ValueError(f"{ARCHITECTURE_PAGE.name} has no marks {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n{rooms(table)}\n\n{WITHIN}\n\n{rooms(within)}\n{END}{after}"


def main() -> None:
    """Write the page."""
    ARCHITECTURE_PAGE.write_text(
        page(ARCHITECTURE_PAGE.read_text(encoding="utf-8"), *map(arrows, ARROW_TABLES)), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
