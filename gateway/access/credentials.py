"""Where clients put their secrets, and the subprotocol that the answer must name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from multidict import CIMultiDict, CIMultiDictProxy

_SCHEMES = ("token", "bearer")
_OPENAI_PREFIX = "openai-insecure-api-key."
_QUERY = {"speechmatics": "jwt", "api": "token"}
"""The name in the query, for doors whose clients can put the secret nowhere else: Speechmatics' JS
client, and EventSource of browsers. Other doors take none from there, since URLs end up in logs."""


class Credentials(NamedTuple):
    """The credentials that a request carries."""

    secret: str | None
    subprotocol: str | None
    """To be named in the answer; None if the client offered none."""


def credentials(
    headers: Mapping[str, str] | CIMultiDict[str] | CIMultiDictProxy[str],
    query: Mapping[str, str],
    offered: Sequence[str],
    door: str,
) -> Credentials:
    """Find the secret of a request to `door`, which offers some WebSocket subprotocols.

    A client that offers subprotocols must get exactly one of them back, or browsers end the
    connection; it is the word before the secret, never the secret.
    """
    secret, subprotocol = _of_subprotocols(offered)
    if (in_header := _of_header(headers.get("Authorization", ""))) is not None:
        secret = in_header
    if secret is None and door in _QUERY:
        secret = query.get(_QUERY[door]) or None
    return Credentials(secret, subprotocol)


def _of_header(value: str) -> str | None:
    scheme, _, secret = value.strip().partition(" ")
    secret = secret.strip()
    return secret if scheme.lower() in _SCHEMES and secret else None


def _of_subprotocols(offered: Sequence[str]) -> tuple[str | None, str | None]:
    """`token, <key>` and `bearer, <jwt>` (Deepgram; others may come before), or `realtime,
    openai-insecure-api-key.<key>` (OpenAI)."""
    for number, word in enumerate(offered):
        if word.lower() in _SCHEMES:
            return next(iter(offered[number + 1 :]), None), word
    plain = [word for word in offered if not word.startswith(_OPENAI_PREFIX)]
    secrets = [word.removeprefix(_OPENAI_PREFIX) for word in offered if word not in plain]
    return (secrets[0] or None if secrets else None), (plain[0] if plain else None)
