"""Environment variables that look like settings but are not: most are misspelled."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping
from importlib.resources import files
from typing import NamedTuple

from pydantic_settings import BaseSettings

from natterjack.settings import variables

log = logging.getLogger(__name__)

_OURS = ("EDGE_", "WORKER_", "GATEWAY_", "NATTERJACK_")
"""Prefixes that belong to natterjack alone. Others, such as NATS_, have variables of other programs
too, so only those are reported that resemble a setting."""
_LIKENESS = 0.65
"""Least similarity: TENNANT and TENANT have 0.92, SPOOL_DIR and SPOOL 0.71, URI and URL 0.67."""
_PART_LIKENESS = 0.5
"""The same if its words are all in the name of the setting: DRAIN and DRAIN_SECONDS have 0.55."""
DEPLOYMENT = {"NATTERJACK_USER", "NATTERJACK_VERSION", "NATTERJACK_EXTRAS"}
"""Variables of deploy/compose.yaml, which may be in the environment of a program too."""
_SERVICE = re.compile(r".+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
"""Variables that Kubernetes sets in each pod for each Service: one called `worker` has
WORKER_SERVICE_HOST, WORKER_PORT_9464_TCP and so on. (WORKER_PORT, too, is tcp://10.0.0.1:9464.)"""


class Unknown(NamedTuple):
    """A variable that is not a setting."""

    name: str
    meant: str | None
    """The setting whose name it resembles most, if it resembles any."""
    likeness: float
    """The similarity of the two names, from 0 to 1."""

    def __str__(self) -> str:
        hint = f"; did you mean {self.meant}?" if self.meant else ""
        return f"{self.name} {NO_EFFECT}{hint}"


NO_EFFECT = "is not a setting and has no effect"
"""The part that all messages about unknown variables have in common."""


def report_unknown(models: Collection[type[BaseSettings]], others: Iterable[Unknown] = ()) -> None:
    """Log a warning for each variable of this process that looks like one of `models` but is not,
    and for `others`. Every program calls it at its start, with all models that it loads."""
    for unknown in (*unknown_variables(os.environ, models), *others):
        log.warning("%s", unknown)


def unknown_variables(
    environment: Mapping[str, str], models: Collection[type[BaseSettings]]
) -> list[Unknown]:
    """Return the variables, by name, that look like those of `models` but are not.

    Those that Kubernetes sets for its Services are left out.
    """
    known = {name for model in models for name in variables(model)}
    prefixes = {str(model.model_config.get("env_prefix", "")) for model in models}
    return unknown_names(environment, known, prefixes)


def names_of_all_programs() -> tuple[set[str], set[str]]:
    """Return the variables of all programs, and their prefixes: what `python -m docs.generate` has
    found, since nothing here may import a program."""
    text = files("natterjack").joinpath("data/variables.txt").read_text(encoding="ascii")
    lines = set(text.split())
    prefixes = {line for line in lines if line.endswith("*")}
    return lines - prefixes, {prefix.rstrip("*") for prefix in prefixes}


def unknown_names(
    environment: Mapping[str, str], known: Collection[str], prefixes: Collection[str]
) -> list[Unknown]:
    """Return the variables, by name, that begin with one of `prefixes` and look like those that are
    `known`, but are not."""
    # EDGE_STDIN_ is a part of EDGE_: a word may be missing from either.
    prefixes = {p for p in prefixes if not any(p != q and p.startswith(q) for q in prefixes)}
    found = []
    for given, value in sorted(environment.items()):
        name = given.upper()  # as pydantic-settings sees it
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if (
            prefix is None
            or name in known
            or name in DEPLOYMENT
            or _SERVICE.fullmatch(name)
            or (name.endswith("_PORT") and "://" in value)
        ):
            continue
        meant, likeness = _closest(name.removeprefix(prefix), prefix, known, prefixes)
        if meant or prefix in _OURS:
            found.append(Unknown(given, meant, likeness))
    return found


def _closest(
    word: str, prefix: str, known: Collection[str], prefixes: Collection[str]
) -> tuple[str | None, float]:
    """The setting in `known` that resembles `prefix` and `word`, and how much it does."""
    if prefix in _OURS:
        for other in sorted(prefixes):
            if other + word in known:  # the right word after a wrong prefix
                return other + word, 1.0
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(word)
    words = set(word.split("_"))
    best: tuple[bool, float, str] | None = None
    for name in sorted(known):
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            matcher.set_seq1(rest)
            # RATE is part of SAMPLE_RATE, although more of its letters are in RAW.
            part = words <= set(rest.split("_"))
            least = _PART_LIKENESS if part else _LIKENESS
            # The two bounds of the ratio are cheap, and rule out nearly all names.
            for ratio in (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio):
                likeness = ratio()
                if likeness < least or (best and best > (part, likeness, name)):
                    break
            else:
                best = part, likeness, name
    if best is None:
        return None, 0.0
    _, likeness, closest = best
    return closest, likeness
