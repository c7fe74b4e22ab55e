"""Paragraphs, tables and pictures, written as a self-contained page and as Markdown."""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template

from matplotlib.figure import Figure

from asr.report import plots

LISTS = ("answer", "list", "rules")
NO_BREAK = "\u00a0%"  # a percent sign stays with its number


@dataclass(frozen=True)
class Text:
    """A paragraph, or with ``kind`` list its items; answer, verdict and warning stand out."""

    lines: Sequence[str]
    kind: str = "paragraph"


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header; the first column names the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A figure: drawn as SVG into the page and as PNG beside it; ``words`` say what it shows."""

    name: str
    draw: Callable[[], Figure | None]
    words: str


@dataclass(frozen=True)
class Folded:
    """Paragraphs behind a line that opens them; printed in full."""

    title: str
    blocks: Sequence[Text]


Block = Text | Table | Picture | Folded
Section = tuple[str, list[Block]]


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """The sections as Markdown; pictures are links to the PNG files beside it."""
    parts = [f"# {title}"]
    for heading, blocks in sections:
        parts.append(f"## {heading}")
        parts += [_block_markdown(block) for block in blocks]
    return "\n\n".join(parts) + "\n"


def _block_markdown(block: Block) -> str:
    if isinstance(block, Folded):
        return "\n\n".join([f"*{block.title}:*", *map(_block_markdown, block.blocks)])
    if isinstance(block, Picture):
        return f"![{block.words}]({block.name}.png)"
    if isinstance(block, Table):
        rows = [block.header, ["---"] * len(block.header), *block.rows]
        return "\n".join(
            f"| {' | '.join(c.replace('|', chr(92) + '|') for c in row)} |" for row in rows
        )
    if block.kind in LISTS:
        return "\n".join(f"- {line}" for line in block.lines)
    return "\n".join(
        f"**{line}**" if block.kind in ("warning", "verdict") else line for line in block.lines
    )


def to_page(title: str, sections: Sequence[Section]) -> str:
    """The sections as one HTML page that needs no other file and no network."""
    body = [
        f"<section>\n<h2>{html.escape(heading)}</h2>\n{''.join(map(_block_html, blocks))}</section>"
        for heading, blocks in sections
    ]
    template = Template(files("asr.report").joinpath("page.html").read_text())
    colours = {f"arm{i}": colour for i, colour in enumerate(plots.COLOURS)}
    return template.substitute(title=html.escape(title), body="\n".join(body), **colours)


def _block_html(block: Block) -> str:
    if isinstance(block, Folded):
        inside = "".join(map(_block_html, block.blocks))
        return f"<details><summary>{html.escape(block.title)}</summary>\n{inside}</details>\n"
    if isinstance(block, Picture):
        svg = plots.to_svg(block.draw, block.name)
        words = html.escape(block.words)
        return (
            f'<figure role="img" aria-label="{words}">{svg}'
            f"<figcaption>{words}</figcaption></figure>\n"
            if svg
            else ""
        )
    if isinstance(block, Table):
        head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in block.header)
        rows = "".join(
            f'<tr><th scope="row">{html.escape(row[0])}</th>'
            + "".join(f"<td>{html.escape(cell).replace(' %', NO_BREAK)}</td>" for cell in row[1:])
            + "</tr>\n"
            for row in block.rows
        )
        table = f"<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody>"
        return f'<div class="wide"><table>{table}</table></div>\n'
    lines = [html.escape(line).replace(" %", NO_BREAK) for line in block.lines]
    if block.kind in LISTS:
        return (
            f'<ul class="{block.kind}">' + "".join(f"<li>{line}</li>" for line in lines) + "</ul>\n"
        )
    return "".join(f'<p class="{block.kind}">{line}</p>\n' for line in lines)
