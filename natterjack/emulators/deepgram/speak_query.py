"""Validation of Deepgram speak v1 handshakes.

Follows the vendor's documentation ("Streaming text to speech", "Voices and languages", "Encoding",
"Speed"). Undocumented behavior is our choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from natterjack.audio import Encoding

from .query import bad, boolean, malformed, one

_FIRST: Final = "angus arcas asteria athena helios hera luna orion orpheus perseus stella zeus"
_SECOND: Final = {
    "en": "amalthea andromeda apollo arcas aries asteria athena atlas aurora callista cora cordelia"
    " delia draco electra harmonia helena hera hermes hyperion iris janus juno jupiter luna mars"
    " minerva neptune odysseus ophelia orion orpheus pandora phoebe pluto saturn selene thalia"
    " theia vesta zeus",
    "es": "agustina alvaro antonia aquila carina celeste diana estrella gloria javier luciano"
    " nestor olivia selena silvia sirio valerio",
    "de": "aurelia elara fabian julius kara lara viktoria",
    "nl": "beatrix cornelia daphne hestia lars leda rhea roman sander",
    "fr": "agathe hector",
    "it": "cesare cinzia demetra dionisio elio flavio livia maia melia",
    "ja": "ama ebisu fujin izanami uzume",
}
VOICES: Final = frozenset(
    [
        *(f"aura-{name}-en" for name in _FIRST.split()),
        *(f"aura-2-{name}-{tag}" for tag, names in _SECOND.items() for name in names.split()),
    ]
)
SAMPLE_RATES: Final[Mapping[Encoding, tuple[int, ...]]] = {
    "linear16": (24_000, 8000, 16_000, 32_000, 48_000),
    "mulaw": (8000, 16_000),
    "alaw": (8000, 16_000),
}
"""Rates of each encoding, the default first."""
_NAMES: Final = {"model", "encoding", "sample_rate", "speed", "container", "mip_opt_out"}


@dataclass(frozen=True)
class Speak:
    """A valid query."""

    model: str
    encoding: Encoding
    sample_rate: int
    speed: float


def parse(query: Mapping[str, Sequence[str]]) -> Speak:
    """Parse a query by parameter name. Raises Refusal."""
    for name in query:
        if name not in _NAMES:
            malformed(f"unknown field `{name}`")
    model = one(query, "model") or "aura-asteria-en"
    if model not in VOICES:
        bad("No such model/version combination found.")
    given = one(query, "encoding") or "linear16"
    encodings: dict[str, Encoding] = {encoding: encoding for encoding in SAMPLE_RATES}
    if given not in encodings:
        malformed(f"encoding: unknown variant `{given}`, expected one of {', '.join(encodings)}")
    encoding = encodings[given]
    rates = SAMPLE_RATES[encoding]
    rate = one(query, "sample_rate") or str(rates[0])
    if rate not in map(str, rates):
        bad(f"Unsupported audio format: `sample_rate` {rate} with `encoding` {encoding}.")
    if one(query, "container") not in (None, "none"):
        bad("`container` is not supported for streaming.")
    boolean(query, "mip_opt_out")
    return Speak(model, encoding, int(rate), _speed(query, model))


def _speed(query: Mapping[str, Sequence[str]], model: str) -> float:
    given = one(query, "speed")
    if given is None:
        return 1.0
    try:
        speed = float(given)
    except ValueError:
        malformed("speed: invalid float literal")
    if not 0.7 <= speed <= 1.5:
        bad("`speed` must be between 0.7 and 1.5.")
    if not (model.startswith("aura-2-") and model.endswith(("-en", "-es"))):
        bad(f"`speed` is not supported by {model}.")
    return speed
