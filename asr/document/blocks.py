"""Defines the blocks of a page (texts, tables, pictures), and writes them as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # matplotlib is slow to import, and only drawing needs it
    from matplotlib.figure import Figure

LISTS = ("answer", "list", "rules")  # kinds of Text whose lines are the items of a list


@dataclass(frozen=True)
class Text:
    """Paragraphs, or the items of a list if the kind is in ``LISTS``.

    Attributes:
        lines: paragraphs or items.
        kind: purpose of the text, for instance warning, verdict or answer, which decides its style.
    """

    lines: Sequence[str]
    kind: str = "paragraph"


@dataclass(frozen=True)
class Table:
    """A table with a header; the first cell of each row names the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A figure: an SVG in the web page, and a PNG file for Markdown.

    Attributes:
        name: name of the PNG file, without its extension.
        draw: draws the figure; it returns None if there is nothing to draw.
        caption: text below the figure.
    """

    name: str
    draw: Callable[[], Figure | None]
    caption: str


@dataclass(frozen=True)
class Folded:
    """Blocks that a web page shows after a click on their title; Markdown always shows them."""

    title: str
    blocks: Sequence[Text]


Block = Text | Table | Picture | Folded
Section = tuple[str, list[Block]]


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Returns the sections as Markdown, with links to PNG files in the same folder."""
    parts = [f"# {title}"]
    for heading, blocks in sections:
        parts.append(f"## {heading}")
        parts += [_block_markdown(block) for block in blocks]
    return "\n\n".join(parts) + "\n"


def _block_markdown(block: Block) -> str:
    if isinstance(block, Folded):
        return "\n\n".join([f"*{block.title}:*", *map(_block_markdown, block.blocks)])
    if isinstance(block, Picture):
        return f"![{block.caption}]({block.name}.png)"
    if isinstance(block, Table):
        rows = [block.header, ["---"] * len(block.header), *block.rows]
        return "\n".join(
            f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows
        )
    if block.kind in LISTS:
        return "\n".join(f"- {line}" for line in block.lines)
    return "\n".join(
        f"**{line}**" if block.kind in ("warning", "verdict") else line for line in block.lines
    )
