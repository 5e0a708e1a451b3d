"""Requirements of the package, compared with what is installed. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*([^;]*)(?:;(.*))?")
_CLAUSE = re.compile(r"\s*(>=|<=|==|!=|<|>|~=)\s*([0-9][0-9.]*)")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


class Requirement(NamedTuple):
    """One line of the package's metadata."""

    package: str
    specifier: str
    extra: str
    """The extra that it belongs to; empty for what is always needed."""


class Extra(NamedTuple):
    """The state of an extra."""

    missing: tuple[str, ...]
    """Packages that are not installed."""
    wrong: tuple[str, ...]
    """Packages that are, in a version that is out of range, with the range."""


def parse(line: str) -> Requirement:
    """Parse a requirement as the metadata has it. Raises ValueError."""
    match = _REQUIREMENT.match(line)
    if match is None:
        raise ValueError(line)
    extra = _EXTRA.search(match[3] or "")
    return Requirement(match[1], match[2].strip(" ()"), extra[1] if extra else "")


def satisfies(version: str, specifier: str) -> bool:
    """Whether a version is in the range. What cannot be read counts as satisfied."""
    have = _numbers(version)
    for clause in specifier.split(","):
        match = _CLAUSE.match(clause)
        if match is None or not have:
            continue
        want = _numbers(match[2])
        size = max(len(have), len(want))
        left, right = (part + (0,) * (size - len(part)) for part in (have, want))
        holds = {
            ">=": left >= right,
            "<=": left <= right,
            "==": left == right,
            "!=": left != right,
            "<": left < right,
            ">": left > right,
            "~=": left >= right and have[: len(want) - 1] == want[:-1],
        }
        if not holds[match[1]]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def extras(requirements: Iterable[str], installed: Callable[[str], str | None]) -> dict[str, Extra]:
    """The state of each extra, and of what is always needed under the empty name.

    `installed` returns the version of a package, or None.
    """
    found: dict[str, tuple[list[str], list[str]]] = {}
    for need in map(parse, requirements):
        missing, wrong = found.setdefault(need.extra, ([], []))
        version = installed(need.package)
        if version is None:
            missing.append(need.package)
        elif not satisfies(version, need.specifier):
            wrong.append(f"{need.package} {version} ({need.specifier} is needed)")
    return {name: Extra(tuple(lists[0]), tuple(lists[1])) for name, lists in found.items()}
