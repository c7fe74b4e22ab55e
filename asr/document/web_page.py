"""Writes paragraphs, tables and pictures as one self-contained HTML page."""

import html
from collections.abc import Sequence
from importlib.resources import files
from string import Template

from asr.document import figures
from asr.document.blocks import LISTS, Block, Folded, Picture, Section, Table

NO_BREAK = "\u00a0%"  # a percent sign stays with its number


def to_page(title: str, sections: Sequence[Section]) -> str:
    """The sections as one HTML page that needs no other file and no network."""
    body = [
        f"<section>\n<h2>{html.escape(heading)}</h2>\n{''.join(map(_block_html, blocks))}</section>"
        for heading, blocks in sections
    ]
    template = Template(files("asr.document").joinpath("page.html").read_text())
    colours = {f"arm{i}": colour for i, colour in enumerate(figures.COLOURS)}
    return template.substitute(title=html.escape(title), body="\n".join(body), **colours)


def _block_html(block: Block) -> str:
    if isinstance(block, Folded):
        inside = "".join(map(_block_html, block.blocks))
        return f"<details><summary>{html.escape(block.title)}</summary>\n{inside}</details>\n"
    if isinstance(block, Picture):
        svg = figures.to_svg(block.draw, block.name)
        caption = html.escape(block.caption)
        return (
            f'<figure role="img" aria-label="{caption}">{svg}'
            f"<figcaption>{caption}</figcaption></figure>\n"
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
