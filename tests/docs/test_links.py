"""Links between pages, and mentions of pages in code and messages, lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generate import ROOT
from docs.site import ELSEWHERE

from .pages import anchors, files, name, prose

MARKDOWN = files(".md")
_LINK = re.compile(r"\]\(<?([^)\s>]+)>?\)")
_MENTION = re.compile(r"\bdocs/[\w./-]+\.(?:md|json|svg)(?:#[\w-]+)?")
_TEXT = (
    ".py",
    ".md",
    ".yml",
    ".yaml",
    ".toml",
    ".conf",
    ".sh",
    ".txt",
    ".tpl",
    ".json",
    ".service",
)


def _problem(page: Path, link: str) -> str | None:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        return f"{link}: there is no {target}"
    if anchor and target.suffix == ".md" and anchor not in anchors(target):
        return f"{link}: {name(target)} has no heading {anchor}"
    return None


@pytest.mark.parametrize("page", MARKDOWN, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in _LINK.findall(prose(page.read_text())) if ":" not in link]
    problems = [problem for link in links if (problem := _problem(page, link))]
    assert not problems


def test_pages_that_the_code_mentions_exist() -> None:
    problems = []
    for path in files(*_TEXT):
        if "schemas" in path.parts:
            continue
        for mention in _MENTION.findall(path.read_text(errors="replace")):
            if problem := _problem(ROOT / "README.md", mention):
                problems.append(f"{name(path)}: {problem}")
    assert not problems


def test_every_page_is_in_the_navigation_or_linked() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert f": {page.relative_to(ROOT / 'docs')}\n" in navigation or (
            f"- {page.relative_to(ROOT / 'docs')}\n" in navigation
        ), name(page)
    for source, place in ELSEWHERE.items():
        assert (ROOT / source).exists()
        assert f": {place}\n" in navigation


def test_nothing_is_loaded_from_elsewhere() -> None:
    """Pictures are files of the repository, and draw with what is in them."""
    pictures = list((ROOT / "docs" / "images").iterdir())
    assert {picture.suffix for picture in pictures} == {".svg", ".png"}
    for picture in pictures:
        if picture.suffix == ".png":
            assert picture.read_bytes().startswith(b"\x89PNG")
            continue
        text = picture.read_text()
        assert "<title" in text
        assert not re.findall(r"""(?:href|src)=|@import|url\((?!#)""", text)
    for page in files(".md"):
        assert not re.findall(r"!\[[^\]]*\]\(https?:", page.read_text())
