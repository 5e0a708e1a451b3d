"""docs/reference/events.md and asyncapi.json: what is on the wire, from the models."""

from __future__ import annotations

import json
from typing import Any

from natterjack import subjects
from natterjack.broker import streams
from natterjack.description.asyncapi import document
from natterjack.settings import KINDS, StreamSettings

from .markdown import cell, code, heading, paragraphs, sentence, table

_BESIDE = {
    "EDGE_PREFIX": (
        "<tenant>.<agent>",
        "A request to an edge, about itself or one of its sources: JSON with `op` and `source`. "
        "The edge replies to an inbox or, as it must across accounts, to a subject with one more "
        "token, `stt.edge.<tenant>.<agent>.<any>`.",
    ),
    "SLOT_PREFIX": ("<account>.<number>", "A worker takes or renews a permit of an account."),
    "DIAL_PREFIX": ("<account>.<number>", "A worker spends one of an account's dials."),
    "REPUBLISHED_PREFIX": (
        ">",
        "Stored permits and dials, republished by the server; waiting sessions.",
    ),
    "DURABLE_PREFIX": (
        "<name>",
        "The processes of a durable consumer tell each other that they live. Not stored.",
    ),
    "DEAD_PREFIX": (
        "<tenant>.<conversation>.<speaker>.<name>",
        "An event that the durable consumer `<name>` has rejected: JSON with `event`, `reason`, "
        "`attempt`, `rejected_at`, and its `position` in the stream of transcripts.",
    ),
    "ENROLL_PREFIX": (
        "<public key>",
        "requests of machines that have an invitation, and nothing else, for credentials",
    ),
    "RENEW_PREFIX": ("<public key>", "requests of enrolled edges for credentials that last longer"),
}
"""Subjects that are not about sessions, or that programs use among themselves, by their constant in
natterjack.subjects."""
_STREAMS = {
    streams.SESSIONS: "requests, until their sessions end; the consumer `workers` is the queue",
    streams.AUDIO: "chunks",
    streams.TRANSCRIPTS: "durable events",
    streams.VOICE_SESSIONS: "requests of voice sessions, until these end; a queue, too",
    streams.TEXT: "text to speak",
    streams.SPEECH: "speech",
    streams.VOICE_EVENTS: "events of voice sessions",
    streams.DEAD_LETTERS: "dead letters: events that durable consumers have rejected",
    streams.SLOTS: "permits and dials of limited provider accounts",
    f"KV_{streams.CHECKPOINTS_BUCKET}": "checkpoints",
    f"KV_{streams.VOICE_CHECKPOINTS_BUCKET}": "checkpoints of voice sessions",
    f"KV_{streams.WORKERS_BUCKET}": "the roster",
    f"KV_{streams.USAGE_BUCKET}": "tallies: usage by day, tenant and process",
    f"KV_{streams.BUDGETS_BUCKET}": "budgets, and limits of provider accounts",
    f"KV_{streams.DURABLES_BUCKET}": "progress of durable consumers, without keys or words",
    f"KV_{streams.ENROLLMENTS_BUCKET}": "invitations of edges, without secrets, and enrolled edges",
    f"KV_{streams.EDGES_BUCKET}": "what edges say about themselves: sources, levels, spool",
    f"KV_{streams.PROVIDERS_BUCKET}": "refusals of provider accounts",
}


def asyncapi() -> str:
    """The AsyncAPI document."""
    return json.dumps(document(), indent=2) + "\n"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(part) for part in schema["anyOf"]))
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    if "enum" in schema:
        return ", ".join(code(json.dumps(value)) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    kind = schema.get("type", "any")
    return str(schema.get("format", kind) if kind == "string" else kind)


def _default(schema: dict[str, Any]) -> str:
    default = schema.get("default")
    return "" if default is None else code(json.dumps(default))


def fields(schema: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each member of an object: name, type, whether required, default, meaning."""
    required = schema.get("required", [])
    return [
        (
            code(name),
            _type(member),
            "yes" if name in required else "",
            _default(member),
            cell(member.get("description", "")),
        )
        for name, member in schema.get("properties", {}).items()
    ]


def _object(name: str, schema: dict[str, Any]) -> str:
    about = paragraphs(schema.get("description", ""))
    columns = ("member", "type", "required", "default", "meaning")
    return f"### {name}\n\n{about}\n\n{table(columns, fields(schema))}"


def _subjects(api: dict[str, Any]) -> str:
    rows = []
    for channel in api["channels"].values():
        if address := channel["address"]:
            messages = ", ".join(code(name) for name in channel["messages"])
            rows.append((code(address), messages, cell(channel["summary"])))
    for constant, (rest, about) in _BESIDE.items():
        rows.append((code(f"{getattr(subjects, constant)}.{rest}"), "", about))
    return table(("subject", "message", ""), rows)


def _streams() -> str:
    rows = []
    for stream in stream_configs():
        name = str(stream.name)
        bucket = f"bucket `{name.removeprefix('KV_')}`" if name.startswith("KV_") else ""
        age = f"{stream.max_age / 86400:g} days" if (stream.max_age or 0) >= 86400 else ""
        age = age or (f"{stream.max_age / 60:g} min" if stream.max_age else "until removed")
        rows.append((code(name), bucket, _STREAMS[name], age))
    return table(("JetStream stream", "", "stores", "for"), rows)


def stream_configs() -> list[Any]:
    """The streams of all kinds at default settings."""
    return list(streams.stream_configs(StreamSettings.model_construct(kinds=KINDS)))


def page() -> str:
    """The page."""
    api = document()
    headers = api["components"]["messages"]["chunk"]["headers"]
    parts = [
        heading(
            "Subjects and events",
            "the models and subjects in `natterjack`",
            "Everything on the wire. [asyncapi.json](asyncapi.json) has the same for tools. A "
            "session's key is `<tenant>.<conversation>.<speaker>`; each token matches "
            f"`{subjects.TOKEN_PATTERN}`. Times named `start` and `end` are seconds on the "
            "session's clock. Readers ignore unknown members; writers leave out members without "
            "a value.",
        ),
        "## Subjects\n\n" + _subjects(api),
        "## Streams and buckets\n\nAt default settings; those whose names begin with `TTS_` or "
        "`KV_tts_` exist if `WORKER_KINDS` has `speak`:\n\n" + _streams(),
        "## Chunk\n\n"
        + paragraphs(
            sentence(api["components"]["messages"]["chunk"]["summary"])
            + f" At most {api['components']['messages']['chunk']['payload']['maxLength']} bytes."
        )
        + "\n\n"
        + table(("header", "type", "required", "default", "meaning"), fields(headers)),
        "## Chunk of speech\n\n"
        + paragraphs(api["components"]["messages"]["speech"]["summary"])
        + "\n\n"
        + table(
            ("header", "type", "required", "default", "meaning"),
            fields(api["components"]["messages"]["speech"]["headers"]),
        ),
        "## Messages\n",
    ]
    schemas = dict(api["components"]["schemas"])
    for message in api["components"]["messages"].values():
        name = message["payload"].get("$ref", "").rpartition("/")[2]
        if name in schemas:
            parts.append(_object(name, schemas.pop(name)))
    parts.append("## Parts of messages\n")
    parts += [_object(name, schema) for name, schema in schemas.items()]
    return "\n".join(parts)
