"""Rows of cells, the head first, as text for a terminal and as Markdown."""

from collections.abc import Sequence

Rows = Sequence[Sequence[str]]


def text(rows: Rows, right: bool = False) -> str:
    """Columns two blanks apart, the last one ragged. right: all but the first and the last stand at their right end."""
    last = len(rows[0]) - 1
    widths = [max(len(row[i]) for row in rows) for i in range(last)]

    sides = [">" if right and i else "<" for i in range(last)]

    def line(row: Sequence[str]) -> str:
        cells = (f"{row[i]:{sides[i]}{widths[i]}}" for i in range(last))
        return "  ".join([*cells, row[last]]).rstrip()

    return "\n".join(map(line, rows))


def markdown(rows: Rows) -> list[str]:
    """Its lines."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return [head, "|---" * len(rows[0]) + "|", *body]
