"""The token of an invitation: one line that has all that a machine needs to enroll.

It carries the NKey seed and the JWT of a user who may do nothing but ask the registrar, so that
nats-server itself checks the token before the registrar hears of it. The center stores the public
key alone.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import asdict, dataclass, field

from natterjack.broker.login.jwt import is_public_key, read_claims, read_key
from natterjack.errors import UsageError

_PREFIX = "nje1_"
_MAX_BYTES = 64 * 1024


def inbox_of(public_key: str) -> str:
    """Return the prefix of the inbox of an invitation's user."""
    return f"_INBOX_{public_key}"


@dataclass(frozen=True)
class Token:
    """An invitation, as the machine has it."""

    url: str
    """URL of the NATS server, or several separated by commas."""
    jwt: str = field(repr=False)
    seed: str = field(repr=False)
    ca: str = ""
    """CA certificates in PEM that the server's certificate is checked with; empty for the
    system's."""

    @property
    def public_key(self) -> str:
        """The ID of the invitation."""
        return read_key(self.seed.encode()).public

    @property
    def expires(self) -> float | None:
        """When it expires, in seconds since 1970."""
        return read_claims(self.jwt).get("exp")

    def encode(self) -> str:
        """Return the token's text."""
        packed = zlib.compress(json.dumps(asdict(self)).encode(), 9)
        return _PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def parse_token(text: str) -> Token:
    """Parse a token, in which white space counts for nothing. Raises UsageError, which does not
    show it."""
    text = "".join(text.split())
    if not text.startswith(_PREFIX):
        raise UsageError(
            f"this is not a token of `natterjack edges invite`: one begins with {_PREFIX}"
        )
    body = text.removeprefix(_PREFIX)
    try:
        packed = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        reader = zlib.decompressobj()
        content = json.loads(reader.decompress(packed, _MAX_BYTES))
        if not isinstance(content, dict):
            raise ValueError
        token = Token(**{name: str(content[name]) for name in ("url", "jwt", "seed", "ca")})
        expires = token.expires
        complete = is_public_key(token.public_key) and isinstance(expires, int | float | None)
    except (ValueError, KeyError, zlib.error, RecursionError):
        complete = False
    if not complete:
        raise UsageError("the token is incomplete or damaged: copy all of the line again")
    return token
