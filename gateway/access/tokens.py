"""Tokens for browsers: JSON Web Tokens that the gateway signs (HS256, RFC 7519).

A token names the key that made it, so that it ends with the key, and holds a part of its rights. No
state is kept of it: any gateway with the same secret accepts it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import jwt

from natterjack.errors import UsageError

from .grant import Grant
from .refused import Reason, Refused

_ISSUER = "natterjack-gateway"
_ALGORITHM = "HS256"
_MIN_SECRET_BYTES = 32
"""RFC 7518, section 3.2: at least as many as the hash has."""
_MAX_TOKEN_CHARACTERS = 4096


class Claims(NamedTuple):
    """The contents of a valid token."""

    key_id: str
    doors: frozenset[str]
    kinds: frozenset[str]
    conversation: str | None
    expires_at: datetime


def parse_secrets(text: str, name: str) -> tuple[bytes, ...]:
    """The secrets in a text, one a line: the first signs, and all are accepted, while gateways
    change from one to the next. Raises UsageError, which calls the text `name`."""
    found = tuple(line.strip().encode() for line in text.splitlines() if line.strip())
    if not found or any(len(secret) < _MIN_SECRET_BYTES for secret in found):
        raise UsageError(
            f"{name}: a secret that signs tokens has {_MIN_SECRET_BYTES} characters or more: make "
            "one with `openssl rand -base64 32`"
        )
    return found


def read_secrets(path: Path) -> tuple[bytes, ...]:
    """Read the secrets of a file. Raises UsageError."""
    try:
        return parse_secrets(path.read_text(), str(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text") from None


def is_token(secret: str) -> bool:
    """Whether a secret is a token rather than a key."""
    return secret.count(".") == 2


class Tokens:
    """Signs and checks tokens. It takes the time, so that it is a pure function of its input."""

    def __init__(
        self, secrets: Sequence[bytes], *, max_seconds: float = 3600, skew_seconds: float = 10
    ) -> None:
        """`max_seconds` is the longest life of a token, `skew_seconds` how far the clocks of
        gateways may differ. Without secrets, no token is made and none is accepted."""
        self._secrets = tuple(secrets)
        self._max = timedelta(seconds=max_seconds)
        self._skew = timedelta(seconds=skew_seconds)

    def make(
        self,
        grant: Grant,
        now: datetime,
        *,
        seconds: float,
        doors: Collection[str],
        kinds: Collection[str],
        conversation: str | None = None,
    ) -> tuple[str, datetime]:
        """Sign a token with a part of the rights of `grant`, and return it with its end.

        Raises: Refused if `grant` has not all these rights; UsageError if the life is out of
        bounds, or no secret is set.
        """
        if not self._secrets:
            raise UsageError(
                "this gateway makes no tokens: set GATEWAY_TOKEN_SECRET_FILE, to a file made by "
                "`openssl rand -base64 32`"
            )
        if grant.token:
            raise Refused(Reason.DOOR, "a token cannot make tokens: use a key")
        if not 1 <= seconds <= self._max.total_seconds():
            raise UsageError(
                f"seconds: a token is valid for 1 to {self._max.total_seconds():.0f} seconds"
            )
        if missing := sorted({*doors} - grant.doors):
            raise Refused(Reason.DOOR, f"key {grant.key_id} does not open {', '.join(missing)}")
        if missing := sorted({*kinds} - grant.kinds):
            raise Refused(Reason.CONVERSATION, f"key {grant.key_id} reads no {', '.join(missing)}")
        if conversation is not None:
            grant.check_conversation(conversation)
        start = now.replace(microsecond=0)
        end = start + timedelta(seconds=int(seconds))
        if grant.expires_at is not None:
            end = min(end, grant.expires_at.replace(microsecond=0))
        claims = {
            "iss": _ISSUER, "sub": grant.key_id, "jti": uuid4().hex, "iat": start, "exp": end,
            "doors": sorted(doors), "kinds": sorted(kinds), "conversation": conversation,
        }  # fmt: skip
        return jwt.encode(claims, self._secrets[0], algorithm=_ALGORITHM), end

    def check(self, token: str, now: datetime) -> Claims:
        """The claims of a token. Raises Refused if it was not signed here, or has expired."""
        if len(token) > _MAX_TOKEN_CHARACTERS:
            raise _wrong()
        payload = self._verified(token)
        try:
            issued = datetime.fromtimestamp(payload["iat"], UTC)
            end = datetime.fromtimestamp(payload["exp"], UTC)
            claims = Claims(
                str(payload["sub"]), frozenset(payload["doors"]), frozenset(payload["kinds"]),
                payload["conversation"], end,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, OverflowError, OSError):
            raise _wrong() from None
        # A token that lives longer, or begins later, than one made here was made by someone who
        # has the secret, or by a gateway whose clock is wrong.
        if end - issued > self._max or issued > now + self._skew:
            raise _wrong()
        if now >= end + self._skew:
            raise Refused(Reason.EXPIRED, f"the token expired at {end:%Y-%m-%d %H:%M:%S} UTC")
        return claims

    def _verified(self, token: str) -> dict[str, Any]:
        for secret in self._secrets:
            try:
                # The times are checked by `check`, with the time that it was given.
                return jwt.decode(
                    token, secret, algorithms=[_ALGORITHM], issuer=_ISSUER,
                    options={
                        "verify_exp": False, "verify_iat": False, "verify_nbf": False,
                        "require": ["iss", "sub", "iat", "exp"],
                    },
                )  # fmt: skip
            except jwt.InvalidTokenError:
                continue
        raise _wrong()


def _wrong() -> Refused:
    return Refused(Reason.WRONG, "the token is not valid")
