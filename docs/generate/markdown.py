"""Markdown that the generated pages share."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 100


def heading(title: str, source: str, text: str) -> str:
    """The top of a generated page: its title, what it is generated from, and an introduction."""
    note = f"<!-- Generated from {source} by `make docs`. Do not edit. -->"
    return f"# {title}\n\n{note}\n\n{paragraphs(text)}\n"


def paragraphs(text: str) -> str:
    """`text` with each of its paragraphs wrapped."""
    return "\n\n".join(
        textwrap.fill(" ".join(part.split()), WIDTH, break_on_hyphens=False, break_long_words=False)
        for part in text.strip().split("\n\n")
    )


def cell(text: str) -> str:
    """`text` as it can stand in a table."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: object) -> str:
    """`text` as inline code for a table; empty for an empty text."""
    return f"`{cell(str(text))}`" if str(text) else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. The cells are Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n".replace("  ", " ") for line in lines)


def sentence(text: str) -> str:
    """`text` with a capital letter and a period."""
    text = " ".join(text.split())
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', ':', '!')) else '.'}"
