"""The Markdown pages of the repository, and what is in them."""

from __future__ import annotations

import os
import re
import unicodedata
from functools import cache
from pathlib import Path

from docs.generate import ROOT

_SKIPPED = {"build", "node_modules", "data", "secrets"}
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.M | re.S)


@cache
def files(*suffixes: str) -> tuple[Path, ...]:
    """The files of the repository with one of `suffixes`."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        # Not an environment, nor a cache: pytest's has a page of its own.
        folders[:] = [each for each in folders if not (each in _SKIPPED or each.startswith("."))]
        found += [Path(folder, each) for each in names if Path(each).suffix in suffixes]
    return tuple(sorted(found))


def name(path: Path) -> str:
    """The path from the root of the repository."""
    return str(path.relative_to(ROOT))


def prose(text: str) -> str:
    """`text` without its fenced and indented blocks of code."""
    lines = _FENCE.sub("", text).splitlines()
    return "\n".join(line for line in lines if not line.startswith("    "))


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced blocks in one of `languages`, without their indentation; `` is any other."""
    found = []
    for indent, language, body in _FENCE.findall(text):
        if language in languages:
            found.append(re.sub(rf"^{indent}", "", body, flags=re.M))
    return found


@cache
def anchors(path: Path) -> frozenset[str]:
    """The anchors of a page's headings: those that both the site and a code host make."""
    found: dict[str, int] = {}
    result = set()
    for heading in re.findall(r"^#{1,6} (.+?) *$", prose(path.read_text()), flags=re.M):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
        slug = re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())
        count = found.get(slug, 0)
        found[slug] = count + 1
        result.add(slug if not count else f"{slug}_{count}")
    return frozenset(result)
