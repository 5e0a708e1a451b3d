"""Write the generated reference pages."""

from __future__ import annotations

from . import ROOT, pages

for path, text in pages().items():
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
        print("wrote", path.relative_to(ROOT))
