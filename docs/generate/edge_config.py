"""docs/reference/edge-config.md: every key of the file of `natterjack-edge run`."""

from __future__ import annotations

import inspect

from pydantic.fields import FieldInfo

from edge_capture.config.models import (
    KINDS,
    AgentTable,
    Defaults,
    DeliveryTable,
    KeepTable,
    NatsTable,
    RotateTable,
    SourceTable,
    SpoolTable,
    Table,
)
from edge_capture.config.naming import DIRECTIVES, PLACEHOLDERS

from .markdown import cell, code, heading, paragraphs, table

_TABLES = (
    ("The agent", AgentTable),
    ("`[nats]`", NatsTable),
    ("`[spool]`", SpoolTable),
    ("`[delivery]`", DeliveryTable),
    ("`[keep]`", KeepTable),
    ("`[defaults]`", Defaults),
    ("`rotate`", RotateTable),
)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default()
    if default is None or default in ((), {}):
        return ""
    if isinstance(default, bool):
        return code(str(default).lower())
    return code(f'"{default}"' if isinstance(default, str) else default)


def _rows(model: type[Table], without: set[str]) -> str:
    return table(
        ["key", "default", "meaning"],
        [
            (code(name), _default(field), cell(field.description or ""))
            for name, field in model.model_fields.items()
            if name not in without and field.description
        ],
    )


def _section(title: str, model: type[Table], without: set[str]) -> str:
    about = inspect.getdoc(model) or ""
    text = about.partition(": ")[2] or about
    text = text[:1].upper() + text[1:]
    return f"## {title}\n\n{paragraphs(text)}\n\n{_rows(model, without)}"


def page() -> str:
    """The page."""
    names = ", ".join(f"`{{{name}}}`" for name in PLACEHOLDERS)
    directives = ", ".join(f"`{each}`" for each in DIRECTIVES)
    source = _rows(SourceTable, set(Defaults.model_fields))
    return "\n".join(
        [
            heading(
                "The file of an edge",
                "the models of the file",
                "The file of `natterjack-edge run --config FILE`, in TOML. A key that is not known "
                "is an error, which names the file, the table, the key and the one that was "
                "probably meant; `natterjack-edge run --check-config` reports it without starting. "
                "[Run many sources](../how-to/run-many-sources.md) has an example.\n\n"
                "Secrets are in other files. Variables such as `NATS_URL`, `EDGE_SPOOL`, "
                "`EDGE_TENANT` and `EDGE_AGENT` precede the file. An "
                "[enrolled](../how-to/enroll-edges.md) machine has its agent, its tenant, its "
                "credentials and, if the file has none, `url` and `ca` from its token. A reload "
                "changes sources and `[defaults]`; changes of the other tables, of `agent` and of "
                "`tenant` need a restart.",
            ),
            *(_section(title, model, set()) for title, model in _TABLES),
            "## `[[sources]]`\n\n"
            + paragraphs(
                "One table for each source, at most 64. All keys of `[defaults]` are possible here "
                "too, and precede those."
            )
            + f"\n\n{source}",
            *(
                _section(f"`{name}`", model, set(SourceTable.model_fields))
                for name, model in KINDS.items()
            ),
            "## Names of conversations\n\n"
            + paragraphs(
                f"A template may have letters, digits, `_` and `-`, the placeholders {names}, and "
                f"for the time {directives}, as in strftime. `{{time}}` is `%Y%m%d-%H%M%S`. The "
                "name is made anew for each session that rotation begins, from the time of its "
                "first sample, in the time zone of the source. Sessions that have the same name "
                "follow one another in one conversation."
            )
            + "\n",
        ]
    )
