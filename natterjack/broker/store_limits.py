"""Explanations of JetStream's refusals when its store is full or too small. Pure."""

from __future__ import annotations

from nats.js.api import StorageType, StreamConfig

_NO_ROOM = frozenset({10002, 10023, 10028, 10047})
"""Error codes: limits of the account exceeded; insufficient resources, memory, storage."""
_NO_PEERS = 10005
"""In a cluster: no server can take the stream; the description has the reason."""
_STORE_FAILED = 10077
"""The stream itself refuses a message; the description has the reason."""
_NOT_YET = frozenset({10036, 10073, 10118, 10119})
"""In a cluster: the server is not a member yet; a raft group failed; stream or consumer offline."""


def size(count: int) -> str:
    """A number of bytes with its unit: 64 MiB."""
    value, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.4g} {unit}"


def setting(stream: str) -> str:
    """The setting that limits the stream's size, if it has one."""
    return f"NATTERJACK_{stream.removeprefix('STT_')}_MAX_BYTES"


def too_small(err_code: int | None, description: str | None) -> bool:
    """Whether the server refused to create or change a stream because its store has no room."""
    return err_code in _NO_ROOM or (
        err_code == _NO_PEERS and "insufficient" in (description or "").lower()
    )


def full(err_code: int | None, description: str | None) -> bool:
    """Whether the server refused a message because a stream or its store is full for now."""
    return err_code in _NO_ROOM or (
        err_code == _STORE_FAILED and "maximum bytes" in (description or "")
    )


def transient(err_code: int | None, description: str | None) -> bool:
    """Whether the server refused because of a state of its cluster that passes.

    While servers start, those that have not joined yet are missing as peers of a stream.
    """
    if err_code == _NO_PEERS:
        description = (description or "").lower()
        return not too_small(err_code, description) and "tags not matched" not in description
    return err_code in _NOT_YET


def explain_refused_stream(
    config: StreamConfig, err_code: int | None, description: str | None
) -> str:
    """The server's reason for not creating or changing a stream, with the limit and the remedy."""
    if err_code == _NO_PEERS and transient(err_code, description):
        return (
            f"{description}: the stream needs {config.num_replicas or 1} servers, as "
            "NATTERJACK_STREAM_REPLICAS says, and fewer are in the cluster or can take it now"
        )
    if not too_small(err_code, description):
        return description or "no reason given"
    option = _option(config.storage)
    if config.max_bytes is None or config.max_bytes <= 0:
        return f"{description}: raise {option} of nats-server or the limit of its account"
    return (
        f"{description}: the store has no room for the stream's limit of {size(config.max_bytes)}: "
        f"lower {setting(config.name or '')}, or raise {option} of nats-server or the limit of its "
        "account"
    )


def explain_refused_message(stream: str, err_code: int | None, description: str | None) -> str:
    """The server's reason for not storing a message in the stream, with the limit and the remedy.

    The description alone if the reason is not a limit of the store.
    """
    description = description or "no reason given"
    if err_code in _NO_ROOM:
        return (
            f"{description}: the broker's store is full, so {stream} accepts nothing: free space, "
            f"raise {_option(None)} of nats-server or the limit of its account, or lower "
            "NATTERJACK_AUDIO_MAX_BYTES"
        )
    if full(err_code, description):
        return f"{description}: {stream} is at its limit: raise {setting(stream)}"
    return description


def _option(storage: StorageType | None) -> str:
    return "max_memory_store" if storage == StorageType.MEMORY else "max_file_store"
