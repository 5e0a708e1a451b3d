"""Hooks of the site's build (mkdocs.yml): pages that lie elsewhere, and links to them.

The README files of the chart, of `deploy/` and of the providers stay beside what they describe.
The site shows them as pages, and links between them and `docs/` lead to the pages.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

log = logging.getLogger("mkdocs.plugins.natterjack")

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "deploy/README.md": "how-to/install-on-one-machine.md",
    "helm/natterjack/README.md": "reference/chart.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    **{
        str(path.relative_to(ROOT)): f"reference/{room}/{path.parent.name}.md"
        for room in ("providers", "voices")
        for path in sorted((ROOT / "worker" / room).glob("*/README.md"))
    },
}
"""Pages of the site outside `docs/`, from the root of the repository, and their places."""
LINK = re.compile(r"\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
"""A relative link: its text, path and anchor."""
LOADED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?(https?://[^\"'>\s]+)")
"""A resource that a page loads from another site."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie elsewhere."""
    for source, place in ELSEWHERE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links that lead to or come from other directories to pages of the site.

    A link to a file of the repository that is no page becomes its text.
    """
    source = Path(page.file.abs_src_path).relative_to(ROOT)
    return LINK.sub(lambda link: _moved(link, source, page.file.src_uri), markdown)


def _moved(link: re.Match[str], source: Path, place: str) -> str:
    text, path, anchor = link[1], link[2], link[3] or ""
    target = os.path.normpath(source.parent / path)
    if target == "README.md":
        moved = "index.md"
    elif target in ELSEWHERE:
        moved = ELSEWHERE[target]
    elif target.startswith("docs/"):
        moved = target.removeprefix("docs/")
    elif (ROOT / target).exists():
        return text
    else:
        return link[0]  # the build warns about it
    return f"[{text}]({os.path.relpath(moved, Path(place).parent)}{anchor})"


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Warn about what a page would load from elsewhere: it is to be read without a network."""
    for url in LOADED.findall(output):
        log.warning("%s loads %s", page.file.src_uri, url)
    return output
