"""Names of conversations, made from a template with the time.

Pure. A template has literal characters of a token, `%` directives for the time as in strftime, and
the placeholders {agent}, {host}, {source} and {time}.
"""

from __future__ import annotations

import re
from datetime import datetime

from natterjack.subjects import TOKEN_PATTERN

DIRECTIVES = {
    "%Y": r"\d{4}", "%m": r"\d\d", "%d": r"\d\d", "%H": r"\d\d", "%M": r"\d\d", "%S": r"\d\d",
    "%y": r"\d\d", "%j": r"\d{3}", "%G": r"\d{4}", "%V": r"\d\d", "%u": r"\d",
}  # fmt: skip
"""Directives for the time that a template may contain, with a pattern that their output matches."""
_TIME = "%Y%m%d-%H%M%S"
PLACEHOLDERS = ("agent", "host", "source", "time")
_PART = re.compile(r"(?P<directive>%.?)|\{(?P<placeholder>[^{}]*)\}|(?P<literal>[^%{}]+|[{}])")
_LITERAL = re.compile(r"[A-Za-z0-9_-]+")
_TOKEN = re.compile(TOKEN_PATTERN)


class Template:
    """A template whose names are valid conversations at any time."""

    def __init__(self, text: str, *, agent: str, host: str, source: str) -> None:
        """Raises: ValueError if it is not a template, or its names would be too long."""
        self.text = text
        values = {"agent": agent, "host": host, "source": source}
        form, pattern = "", ""
        for part in _PART.finditer(text):
            directive, placeholder, literal = part.groups()
            if directive is not None:
                if directive not in DIRECTIVES:
                    raise ValueError(
                        f"{directive!r} is not possible in a name; use {', '.join(DIRECTIVES)}"
                    )
                form, pattern = form + directive, pattern + DIRECTIVES[directive]
            elif placeholder == "time":
                form += _TIME
                pattern += re.sub("%.", lambda found: DIRECTIVES[found[0]], _TIME)
            elif placeholder is not None:
                if placeholder not in values:
                    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
                    raise ValueError(f"{{{placeholder}}} is not a placeholder; use {known}")
                form, pattern = form + values[placeholder], pattern + values[placeholder]
            elif not _LITERAL.fullmatch(literal):
                wrong = re.sub(_LITERAL, "", literal)[0]
                raise ValueError(
                    f"{wrong!r} cannot be part of a name, which has letters, digits, _ and -"
                )
            else:
                form, pattern = form + literal, pattern + literal
        self._form = form
        self._pattern = re.compile(pattern)
        # All names of a template have the same length.
        example = self.render(datetime(2026, 12, 31, 23, 59, 58))
        if not _TOKEN.fullmatch(example):
            raise ValueError(
                f"its names, such as {example!r}, have {len(example)} characters; 1 to 64 are "
                "possible"
            )

    def render(self, at: datetime) -> str:
        """Return the name for a time, which is in the time zone that names are to have."""
        return at.strftime(self._form)

    def matches(self, name: str) -> bool:
        """Whether this template could have made a name."""
        return self._pattern.fullmatch(name) is not None
