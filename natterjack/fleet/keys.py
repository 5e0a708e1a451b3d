"""Keys of the gateway: a file with one JSON object a line, which holds no secret.

A secret has 256 random bits, so it cannot be guessed from its hash, and the slow hashes that
protect passwords would only cost the gateway time at each connection. The file therefore has the
plain SHA-256 of each secret. A secret begins with the ID of its key, by which the key is found; the
hashes are then compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from natterjack.errors import UsageError, first_problem
from natterjack.process.files import locked, replace_text
from natterjack.spec import MAX_SECONDS, ProviderName, Token

Door = Literal["deepgram", "speechmatics", "managed", "twilio", "openai", "api"]
DOORS: tuple[Door, ...] = get_args(Door)
"""The doors of the gateway: `api` reads transcripts and makes tokens, the others take audio."""
AUDIO_DOORS = tuple(door for door in DOORS if door != "api")
ReadKind = Literal["interim", "final", "turn", "status", "usage", "notice", "utterance"]
READ_KINDS: tuple[ReadKind, ...] = get_args(ReadKind)
"""The kinds of event that a key may read: all of transcripts and voice sessions."""
Pattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9_*-]{1,64}$")]
"""A conversation, or several: `*` stands for any characters."""

_SECRET = re.compile(r"nj_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
"""Safe in a header, a query and a WebSocket subprotocol: no comma, no space."""


class KeyRecord(BaseModel):
    """A key as the file has it: whose it is, and what its holder may do."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    id: str = Field(pattern=r"^[0-9a-f]{8}$", description="first part of the secret")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="hash of the secret")
    tenant: Token
    name: str = Field("", max_length=64, description="whose key it is, for lists and logs")
    doors: tuple[Door, ...] = Field(min_length=1)
    kinds: tuple[ReadKind, ...] = Field((), description="that it may read; empty: all")
    conversations: tuple[Pattern, ...] = Field((), max_length=64, description="empty: all")
    provider: tuple[ProviderName, ...] = Field((), max_length=8, description="tried in order")
    model: Annotated[str, Field(max_length=128)] | None = None
    language: Annotated[str, Field(max_length=35)] | None = None
    keyterms: tuple[str, ...] = Field((), max_length=500)
    options: dict[str, Any] = Field({}, description="of the provider")
    labels: dict[str, str] = {}
    max_connections: int | None = Field(None, ge=1, description="at once, at each gateway")
    max_session_seconds: float | None = Field(None, gt=0, le=MAX_SECONDS)
    expires_at: AwareDatetime | None = None
    created_at: AwareDatetime | None = None

    def matches(self, secret: str) -> bool:
        """Whether `secret` is that of this key; the time it takes tells nothing of the hash."""
        return hmac.compare_digest(self.sha256, hash_of(secret))

    def expired(self, now: datetime) -> bool:
        return self.expires_at is not None and now >= self.expires_at

    def encode(self) -> str:
        """The line of the file, without its end."""
        return self.model_dump_json(exclude_defaults=True)


def hash_of(secret: str) -> str:
    """The hash by which a secret is stored, in hex digits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def key_id(secret: str) -> str | None:
    """The ID of the key in a secret, or None if it cannot be a secret of ours."""
    match = _SECRET.fullmatch(secret)
    return match and match[1]


def make_key(**fields: Any) -> tuple[KeyRecord, str]:
    """Make a key and its secret. Raises UsageError if a field is invalid."""
    identity = secrets.token_hex(4)
    secret = f"nj_{identity}_{secrets.token_urlsafe(32)}"
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        record = KeyRecord(id=identity, sha256=hash_of(secret), created_at=now, **fields)
    except ValidationError as error:
        raise UsageError(first_problem(error)) from None
    return record, secret


# ---- the file -----------------------------------------------------------------------------------


def parse_keys(text: str, name: str) -> dict[str, KeyRecord]:
    """Parse the content of a file, called `name` in errors, into its keys by ID.

    Empty lines and those that begin with `#` are comments. Raises UsageError, which names the line.
    """
    found: dict[str, tuple[int, KeyRecord]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            record = KeyRecord.model_validate_json(line)
        except ValidationError as error:
            raise UsageError(
                f"{name}, line {number}: {first_problem(error)}; correct the line or remove it: "
                "`natterjack keys add` writes valid ones"
            ) from None
        if record.id in found:
            raise UsageError(
                f"{name}, line {number}: line {found[record.id][0]} has a key with the id "
                f"{record.id}, too: remove one of them"
            )
        found[record.id] = (number, record)
    return {identity: record for identity, (_, record) in found.items()}


def read_text(path: Path) -> str:
    """The text of the file. Raises UsageError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"{path} does not exist: `natterjack keys add --file {path} --tenant TENANT` makes it"
        ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text in UTF-8") from None


def read_keys(path: Path) -> dict[str, KeyRecord]:
    """Read a file of keys, by ID. Raises UsageError."""
    return parse_keys(read_text(path), str(path))


def add_key(path: Path, record: KeyRecord) -> None:
    """Add a key to a file, which is made if it is missing. Raises UsageError."""
    path = path.resolve()  # a symbolic link stays one
    with locked(path.parent):
        text = read_text(path) if path.exists() else ""
        keys = parse_keys(text, str(path))
        if record.id in keys:
            raise UsageError(f"{path} has a key with the id {record.id}; try again")
        text += "\n" if text and not text.endswith("\n") else ""
        replace_text(path, f"{text}{record.encode()}\n", mode=0o600)


def remove_keys(path: Path, ids: Iterable[str]) -> list[KeyRecord]:
    """Remove keys from a file; comments stay. Raises UsageError, also if one is not there."""
    path, wanted = path.resolve(), set(ids)
    with locked(path.parent):
        text = read_text(path)
        keys = parse_keys(text, str(path))
        if missing := sorted(wanted - set(keys)):
            raise UsageError(f"{path} has no key {', '.join(missing)}: see `natterjack keys list`")
        lines = [line for line in text.splitlines() if _id_in(line) not in wanted]
        replace_text(path, "".join(f"{line}\n" for line in lines), mode=0o600)
    return [keys[identity] for identity in sorted(wanted)]


def _id_in(line: str) -> str | None:
    line = line.strip()
    return json.loads(line)["id"] if line and not line.startswith("#") else None
