"""Messages that no server should send: a real one with a change in one place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_DEEP = object()
_MISSING = object()
_VALUES: tuple[Any, ...] = (
    _MISSING, None, True, 7, -1, 1e300, -1e300, 10**400, float("nan"), float("inf"), "odd", "",
    "\ud83d", [], {}, [None], {"word": None}, _DEEP,
)  # fmt: skip
_NESTING = 3000
_TEXTS = ("transcript", "text", "word", "punctuated_word", "content")
"""Fields with text. Other text in them is not wrong, and would have to be believed."""
_KINDS = ("type", "message", "event")
"""Fields whose texts say what a message is."""
Path = tuple[str | int, ...]


def mutations(message: dict[str, Any]) -> Iterator[tuple[str, str | bytes]]:
    """All mutations of a message, each with a name. None of them is another message that would be
    right."""
    plain = json.dumps(message)
    for path, value in _leaves(message):
        for odd in _VALUES:
            if _is_wrong(path, value, odd):
                yield f"{path} = {_shown(odd)}", _changed(message, path, odd)
    for size in (1, len(plain) // 3, len(plain) - 1):
        yield f"cut at {size}", plain[:size]
        yield f"cut before {size}", plain[size:]
    yield "bytes", plain.encode()
    yield "half of the bytes", plain.encode()[: len(plain) // 2]
    yield "array", f"[{plain}]"
    yield "byte order mark", "\ufeff" + plain
    yield "names twice", '{"type": null, "channel": 7, ' + plain[1:]
    yield "large", f'{{"x": "{"y" * 100_000}", {plain[1:]}'


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if path:
        yield path, value
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for name, item in items:
        yield from _leaves(item, (*path, name))


def _is_wrong(path: Path, value: Any, odd: Any) -> bool:
    """Whether `odd` is wrong in the place of `value`, and not merely something else."""
    if odd is _MISSING:
        # A shorter list is right as well. The documentation of a proxy allows a text without
        # `is_final`, which is an interim, or without text.
        return path not in (("is_final",), ("text",)) and not isinstance(path[-1], int)
    if isinstance(odd, str):
        if path[-1] in _TEXTS:
            # A segment of Agent STT may be empty: its words are filtered out.
            return odd == "" and path not in (("text",), ("segment", "transcript"))
        return not isinstance(value, str) or path[-1] in _KINDS
    if isinstance(odd, bool):
        return not isinstance(value, bool)
    if isinstance(odd, int) and isinstance(value, int | float):
        return odd not in (7,)
    return not (isinstance(odd, list) and isinstance(value, list) and path[-1] == "alternatives")


def _shown(odd: Any) -> str:
    names = {id(_DEEP): "deep", id(_MISSING): "missing"}
    return names.get(id(odd)) or ("10**400" if odd == 10**400 else repr(odd))


def _changed(message: dict[str, Any], path: Path, odd: Any) -> str:
    copy = json.loads(json.dumps(message))
    holder: Any = copy
    for name in path[:-1]:
        holder = holder[name]
    if odd is _MISSING:
        del holder[path[-1]]
    else:
        holder[path[-1]] = "<deep>" if odd is _DEEP else odd
    return json.dumps(copy).replace('"<deep>"', "[" * _NESTING + "]" * _NESTING)
