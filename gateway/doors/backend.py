"""Conversion of a client's wishes to the request of its session, whatever provider serves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def options_for(
    providers: Sequence[str], given: Mapping[str, Any], wishes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The options of a client, from its wishes by provider; a wish overrides what its key has
    `given`.

    A provider refuses options that it does not know, so wishes are passed on only to `providers`,
    which are to serve the session. If the worker is to choose the provider, there are none.
    """
    options: dict[str, Any] = {}
    for name in providers:
        if wish := wishes.get(name):
            own = given.get(name)
            options[name] = {**(own if isinstance(own, dict) else {}), **wish}
    return options


def plain_language(language: str | None) -> str | None:
    """A client's language as the tag of a request; None if the backend is to find it out."""
    if language is None or language.lower() in ("", "auto", "multi"):
        return None
    return language
