"""The JSON of clients."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json


def parsed(text: str | bytes) -> Any:
    """Parse a client's JSON. Raises ValueError, whose text gives the reason.

    Unlike `json.loads`, it refuses all that could not be written as JSON again or passed on: NaN,
    half of a surrogate pair, nesting without end.
    """
    return from_json(text, allow_inf_nan=False)
