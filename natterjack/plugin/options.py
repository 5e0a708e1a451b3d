"""Validation of the options in a StreamRequest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from natterjack.errors import problem_text

from .errors import RequestRefused

ModelT = TypeVar("ModelT", bound=BaseModel)


def parse_options(
    provider: str, model: type[ModelT], options: Mapping[str, Any], what: str = "option"
) -> ModelT:
    """Validate `options` with a pydantic model, which should forbid extra fields.

    `what` names the kind of values in messages. Raises RequestRefused (`request`) with the name of
    the first option that is unknown or wrong, but not with its value.
    """
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        name = problem["loc"][0] if problem["loc"] else "?"
        if problem["type"] == "extra_forbidden":
            raise RequestRefused(provider, "request", f"unknown {what} {name!r}") from None
        message = f"{what} {name!r}: {problem_text(problem)}"
        raise RequestRefused(provider, "request", message) from None
