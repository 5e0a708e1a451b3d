"""docs/reference/providers.md: capabilities and prices of the providers and voices that natterjack
brings."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import worker.voices
from natterjack.plugin.entry_points import available
from natterjack.plugin.provider import Capabilities, Provider
from natterjack.plugin.voice import Voice, VoiceCapabilities
from worker.metering.prices import LIST_PRICES
from worker.providers.loading import load_class

from .markdown import heading, table
from .settings import anchor


def providers() -> dict[str, type[Provider]]:
    """The providers of this package, by name."""
    return {
        name: load_class(name)
        for name, point in available().items()
        if point.dist is not None and point.dist.name == "natterjack"
    }


def readme(name: str) -> str:
    """The path of a provider's own page, from the root of the repository."""
    return f"worker/providers/{name.replace('-', '_')}/README.md"


def voices() -> dict[str, type[Voice]]:
    """The voices of this package, by name."""
    found = {}
    for room in pkgutil.iter_modules(worker.voices.__path__, f"{worker.voices.__name__}."):
        for value in vars(import_module(room.name)).values():
            if isinstance(value, type) and issubclass(value, Voice) and value is not Voice:
                found[value.name] = value
    return found


def voice_readme(name: str) -> str:
    """The path of a voice's own page, from the root of the repository."""
    return f"worker/voices/{name.replace('-', '_')}/README.md"


def _voices() -> str:
    rows = []
    for name, found in voices().items():
        c = found.capabilities
        rows.append(
            (
                f"[`{name}`](../../{voice_readme(name)})",
                ", ".join(c.encodings),
                ", ".join(map(str, c.sample_rates)) or "any",
                f"{c.max_phrase_characters}",
                _heard(c),
                ", ".join(f"`{one}`" for one in sorted(c.configurable)) or "none",
                f"{c.max_seconds:g} s" if c.max_seconds else "any",
                f"{c.price_per_1000_characters:g} {c.currency}",
                f"[settings]({anchor(found.Settings.__name__)})",
            )
        )
    return table(
        ("voice", "encodings", "Hz", "longest phrase", "what was heard", "configure",
         "longest stream", "per 1,000 characters", ""),
        rows,
    )  # fmt: skip


def _heard(capabilities: VoiceCapabilities) -> str:
    """The source of what was heard of an interrupted phrase."""
    if capabilities.reports_spoken:
        return "told by the voice"
    return "by the times of words" if capabilities.marks else "estimated"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _billing(capabilities: Capabilities) -> str:
    if capabilities.billing == "none":
        return "nothing"
    step = capabilities.billing_increment_seconds
    return capabilities.billing + (f", in steps of {step:g} s" if step else "")


def page() -> str:
    """The page."""
    audio, results, prices = [], [], []
    for name, found in providers().items():
        c = found.capabilities
        link = f"[`{name}`](../../{readme(name)})"
        audio.append(
            (
                link,
                ", ".join(c.encodings),
                ", ".join(map(str, c.sample_rates)) or "any",
                str(c.max_channels),
                f"{c.frame_ms} ms" if c.frame_ms else "any",
                f"{c.catch_up_rate:g}",
                f"[settings]({anchor(found.Settings.__name__)})",
            )
        )
        results.append(
            (
                f"`{name}`",
                _yes(c.interims),
                c.words,
                _yes(c.confidences),
                _yes(c.turns),
                _yes(c.finalize),
                ", ".join(f"`{one}`" for one in sorted(c.configurable)) or "none",
            )
        )
        prices.append((f"`{name}`", "", "", f"{c.price_per_hour:g}", c.currency, _billing(c)))
        prices += [
            (f"`{name}`", f"`{p.model}`", p.language or "any", f"{p.per_hour:g}", "USD", "")
            for p in LIST_PRICES
            if p.provider == name
        ]
    return "\n".join(
        [
            heading(
                "Providers",
                "the providers' classes and the price list",
                "Capabilities of providers and [voices](#voices) at default settings. `natterjack "
                "plugins` prints them for the plugins that are installed. Each provider's page "
                "has its options, its limits and the vendor's features that it does not "
                "support. A provider of your own: "
                "[write a provider](../how-to/write-a-provider.md).",
            ),
            "## Audio\n\nThe worker converts audio that a provider does not accept. Catch-up is "
            "how many times real time recorded audio is sent.\n",
            table(
                ("provider", "encodings", "Hz", "channels", "frame", "catch-up", ""),
                audio,
            ),
            "## Results\n",
            table(
                ("provider", "interims", "word times", "confidences", "turns", "finalize",
                 "configure"),
                results,
            ),
            "## Prices\n\nPer hour. `WORKER_PRICES` wins over a provider's setting, which wins "
            "over this list. Vendors change prices: check yours.\n",
            table(
                ("provider", "model", "language", "per hour", "currency", "billed"),
                prices,
            ),
            "## Voices\n\nVoices speak text: packages register them in the entry-point group "
            "`natterjack.voices`. Phrases are in characters. After an interrupt, an event "
            "tells what was heard. `hibari` is free of charge; any other price of 0 is not known "
            "here: set yours.\n",
            _voices(),
        ]
    )  # fmt: skip
