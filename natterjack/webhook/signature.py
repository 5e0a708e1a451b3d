"""Signatures of webhooks: the symmetric scheme of Standard Webhooks, version 1.0.0."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from pathlib import Path

from natterjack.errors import UsageError

_PREFIX = "whsec_"
_LEAST, _MOST = 24, 64
"""Bytes of a secret: "Signature scheme" of the specification."""
_ID = re.compile(r"[A-Za-z0-9_:-]{1,128}")


def parse_secrets(text: str, where: str) -> tuple[bytes, ...]:
    """Parse secrets that are separated by white space, each base64, with or without `whsec_`.

    Raises: UsageError, which names `where` they come from and never shows any of them.
    """
    found = tuple(_decoded(word, number, where) for number, word in enumerate(text.split(), 1))
    if not found:
        raise UsageError(f"{where} has no secret: write one with `openssl rand -base64 32`")
    return found


def _decoded(word: str, number: int, where: str) -> bytes:
    encoded = word.removeprefix(_PREFIX).rstrip("=")
    try:
        secret = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise UsageError(
            f"secret {number} of {where} is not base64: make one with `openssl rand -base64 32`"
        ) from None
    if not _LEAST <= len(secret) <= _MOST:
        raise UsageError(
            f"secret {number} of {where} has {len(secret)} bytes, not {_LEAST} to {_MOST}: make "
            "one with `openssl rand -base64 32`"
        )
    return secret


def read_secrets(file: Path) -> tuple[bytes, ...]:
    """Read the secrets of a file. Raises UsageError."""
    try:
        text = file.read_text()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"WEBHOOK_SECRET_FILE: cannot read {file}: {reason}") from None
    return parse_secrets(text, str(file))


def usable_id(webhook_id: str) -> bool:
    """Whether a signature with this ID is unambiguous: it has no full stop, which delimits it."""
    return _ID.fullmatch(webhook_id) is not None


def signed_headers(
    secrets: Sequence[bytes], webhook_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """The headers of a webhook, with one signature for each secret.

    `timestamp` is the time of this attempt in seconds since 1970, so that receivers can refuse
    webhooks that someone has recorded and sends again later.
    """
    content = f"{webhook_id}.{timestamp}.".encode() + body
    signatures = (hmac.digest(secret, content, hashlib.sha256) for secret in secrets)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(s).decode()}" for s in signatures),
    }
