"""docs/reference/chart-values.md: every value of the chart, from helm/natterjack/values.yaml."""

from __future__ import annotations

import re
from functools import reduce

import yaml

from . import ROOT
from .markdown import cell, code, heading, table

_COMMENT = re.compile(r"^ *## @(section|param) (\S+) ?(.*)$", re.M)


def _default(value: object) -> str:
    if value in ("", [], {}):
        return ""
    if isinstance(value, bool):
        return code(str(value).lower())
    return "see `values.yaml`" if isinstance(value, list | dict) else code(value)


def page() -> str:
    """The page."""
    text = (ROOT / "helm" / "natterjack" / "values.yaml").read_text()
    values = yaml.safe_load(text)
    sections: dict[str, list[tuple[str, str, str]]] = {}
    for kind, name, rest in _COMMENT.findall(text):
        if kind == "section":
            rows = sections.setdefault(f"{name} {rest}".strip(), [])
        else:
            value = reduce(lambda part, key: part[key], name.split("."), values)
            rows.append((code(name), cell(rest), _default(value)))
    return "\n".join(
        [
            heading(
                "Chart values",
                "`helm/natterjack/values.yaml`",
                "Values of [the chart](../../helm/natterjack/README.md). `helm show values` prints "
                "them with further comments.",
            ),
            *(
                f"## {title}\n\n{table(('value', 'meaning', 'default'), rows)}"
                for title, rows in sections.items()
            ),
        ]
    )
