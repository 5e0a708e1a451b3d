"""docs/reference/transcript-json.md and transcript.schema.json: a transcript as JSON."""

from __future__ import annotations

import json

from natterjack.transcripts import transcript

from .events import fields
from .markdown import heading, paragraphs, table

_COLUMNS = ("member", "type", "required", "default", "meaning")
_INTRODUCTION = """
What `Transcript.to_json()` makes and `natterjack export --format json` writes. Programs read it by
[transcript.schema.json](transcript.schema.json), a JSON schema.

Times are seconds from the start of the conversation, `started_at`. Members without a value are left
out. A release may add members; `version` changes if one gets another meaning or is removed.
"""


def schema() -> str:
    """The JSON schema."""
    return json.dumps(transcript.schema(), indent=2) + "\n"


def page() -> str:
    """The members of each object."""
    described = transcript.schema()
    parts = [heading("Transcripts as JSON", "`natterjack/transcripts/model.py`", _INTRODUCTION)]
    for name, part in {"Transcript": described, **described["$defs"]}.items():
        # The first paragraph is for all readers, the others for those of the Python API.
        about = paragraphs(part["description"].split("\n\n")[0])
        parts.append(f"## {name}\n\n{about}\n\n{table(_COLUMNS, fields(part))}")
    return "\n".join(parts)
