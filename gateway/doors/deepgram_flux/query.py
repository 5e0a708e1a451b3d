"""The settings of a listen v2 (Flux) client: its query, and its Configure messages.

Ranges and texts follow the vendor's pages "Flux configuration", "Configure" and "Errors".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from natterjack.errors import first_problem

MULTILINGUAL = "flux-general-multi"
Model = Literal["flux-general-en", "flux-general-multi"]
Encoding = Literal["linear16", "linear32", "mulaw", "alaw", "opus", "ogg-opus"]
Language = Literal["de", "en", "es", "fr", "hi", "it", "ja", "nl", "pt", "ru"]
_LISTS = {"keyterm": "keyterms", "language_hint": "language_hints", "tag": "tags"}
_THRESHOLDS = ("eager_eot_threshold", "eot_threshold", "eot_timeout_ms")
_CONFIGURE_FIELDS = frozenset(("type", "thresholds", "keyterms", "language_hints", "numerals"))
_RAW = ("linear16", "linear32", "mulaw", "alaw")
Keyterm = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^,;\n]+$")]


class BadQuery(Exception):
    """A query that the service would refuse with HTTP 400."""


class Unparsable(Exception):
    """A text message of an unknown form, after which the service ends the stream."""


class Invalid(Exception):
    """A Configure with values that are refused: nothing changes, and the stream goes on."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(code, description)
        self.code = code
        self.description = description


class Config(BaseModel):
    """The settings that Configure can change."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    eager_eot_threshold: Annotated[float | None, Field(ge=0.3, le=0.9)] = None
    eot_threshold: Annotated[float, Field(ge=0.5, le=1.0)] = 0.7
    eot_timeout_ms: Annotated[int, Field(ge=500, le=60_000)] = 5000
    keyterms: Annotated[tuple[Keyterm, ...], Field(max_length=100)] = ()
    language_hints: tuple[Language, ...] = ()
    numerals: bool = False

    @model_validator(mode="after")
    def _eager_first(self) -> Self:
        eager = self.eager_eot_threshold
        if eager is not None and eager > self.eot_threshold:
            raise ValueError("eager_eot_threshold must be less than or equal to eot_threshold")
        return self

    def as_message(self) -> dict[str, Any]:
        """The settings as ConfigureSuccess has them."""
        thresholds = {name: getattr(self, name) for name in _THRESHOLDS}
        if self.eager_eot_threshold is None:
            del thresholds["eager_eot_threshold"]
        return {
            "thresholds": thresholds,
            "keyterms": list(self.keyterms),
            "language_hints": list(self.language_hints),
            "numerals": self.numerals,
        }


class Query(Config):
    """A valid query; unknown parameters are ignored."""

    model: Model
    encoding: Encoding | None = None
    """None for a container, which is recognized by its first bytes."""
    sample_rate: Annotated[int | None, Field(ge=8000, le=48_000)] = None
    profanity_filter: bool = False
    mip_opt_out: bool = False
    redact: tuple[Literal["numbers", "aggressive_numbers"], ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def language(self) -> str | None:
        """The language to request of a backend; None if the client leaves it open."""
        if self.model != MULTILINGUAL:
            return "en"
        return self.language_hints[0] if len(self.language_hints) == 1 else None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.encoding in _RAW and self.sample_rate is None:
            raise ValueError("`sample_rate` is required when `encoding` is given.")
        check_hints(self, self.model)
        return self


def check_hints(config: Config, model: str) -> None:
    """Raises: ValueError if the model takes no language hints and the settings have some."""
    if config.language_hints and model != MULTILINGUAL:
        raise ValueError(f"language_hint is only supported with {MULTILINGUAL}.")


def parse(query: Mapping[str, Sequence[str]]) -> Query:
    """Parse a query, given as the values of each parameter. Raises: BadQuery."""
    values: dict[str, Any] = {}
    for name, given in query.items():
        if name in _LISTS:
            values[_LISTS[name]] = given
        elif name == "redact":
            values[name] = given
        elif name not in _LISTS.values() and given:
            values[name] = given[0]
    if values.get("model") not in get_args(Model):
        known = ", ".join(get_args(Model))
        what = f"unknown variant `{str(values.get('model'))[:100]}`, expected one of {known}"
        raise BadQuery(f"Failed to deserialize query parameters: model: {what}")
    try:
        return Query.model_validate(values)
    except ValidationError as error:
        raise BadQuery(f"Bad Request: {first_problem(error)}") from None


def configured(config: Config, message: Mapping[str, Any], model: str) -> Config:
    """The settings after a Configure message. Raises: Unparsable, Invalid.

    "Configure": absent values stay, a list replaces the one before, and a message that fails
    changes nothing.
    """
    thresholds = message.get("thresholds") or {}
    if set(message) - _CONFIGURE_FIELDS or not isinstance(thresholds, dict):
        raise Unparsable
    if set(thresholds) - set(_THRESHOLDS):
        raise Unparsable
    changes = {name: value for name, value in thresholds.items() if value is not None}
    for name in ("keyterms", "language_hints", "numerals"):
        value = message.get(name)
        if value is None:
            continue
        wanted = bool if name == "numerals" else list
        if name == "keyterms" and isinstance(value, str):
            value = [value]
        if not isinstance(value, wanted):
            raise Unparsable
        changes[name] = value
    try:
        changed = Config.model_validate({**config.model_dump(include=set(Config.model_fields)),
                                         **changes})  # fmt: skip
        check_hints(changed, model)
    except ValidationError as error:
        raise Invalid(_code(error.errors()[0]["loc"]), first_problem(error)) from None
    except ValueError as error:
        raise Invalid("INVALID_LANGUAGE_HINTS", str(error)) from None
    return changed


def _code(place: tuple[int | str, ...]) -> str:
    match place[0] if place else "":
        case "eot_timeout_ms":
            return "INVALID_TIMEOUT"
        case "keyterms":
            return "INVALID_KEYTERMS"
        case "language_hints":
            return "INVALID_LANGUAGE_HINTS"
    return "INVALID_THRESHOLD"
