"""The JSON of clients."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json


def parsed(text: str | bytes) -> Any:
    """What a client's JSON says. Raises ValueError, whose text says why.

    Unlike `json.loads`, it takes nothing that cannot be written as JSON again, or passed on: no
    NaN, no half of a surrogate pair, no nesting without end.
    """
    return from_json(text, allow_inf_nan=False)
